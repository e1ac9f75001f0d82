//! Sums of usage by day, user, key, model, node and status, which outlive the rows.
//!
//! The database keeps them itself, as part of each statement that inserts rows: nothing that inserts can forget them, a row
//! that is there already counts for nothing, and gateways of different versions agree. On Postgres the trigger is made
//! here; the lock that this takes keeps other gateways' rows out until the rows before it are summed up. On SQLite it is
//! made when the file is opened as the database: in front of Postgres the same tables hold rows on their way only.
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, integer, string};
use sea_orm_migration::sea_orm::DbBackend;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// In the key's order. Where a row has no key or node, its sum has ''.
const KEY: &str = "day, user_id, key_id, model, node, status";
/// What is summed up, beside the number of rows.
const SUMS: [&str; 7] =
    ["prompt_tokens", "completion_tokens", "queue_ms", "duration_ms", "load_ms", "prefill_ms", "decode_ms"];

const FOLLOW_ON_POSTGRES: &str = "CREATE TRIGGER usage_to_rollups AFTER INSERT ON usage \
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION add_to_usage_rollups()";

/// How many requests a row stands for, as this step knew it.
const ONE_A_ROW: Requests = Requests { sum: "count(*)", of_new: "1" };

/// How the requests of rows are counted.
pub(crate) struct Requests {
    /// Over several rows.
    pub(crate) sum: &'static str,
    /// Of the row that a trigger of SQLite sees.
    pub(crate) of_new: &'static str,
}

/// The table whose one line says that a transaction sums up the rows after this place itself. No other transaction ever
/// sees a line in it.
const SUMMING: &str = "CREATE TABLE IF NOT EXISTS summing (place BIGINT NOT NULL)";

impl Requests {
    /// Sums all rows up, where there are no sums yet.
    pub(crate) fn fill(&self) -> String {
        format!("{} {}", insert(), self.sums_of("usage"))
    }

    /// SQLite's triggers see one row at a time, which costs as much as the row. A transaction that inserts many sums them up
    /// at its end, see [`Requests::sum_up_on_sqlite`].
    pub(crate) fn follow_on_sqlite(&self) -> String {
        let (insert, sums, add) = (insert(), list(|sum| format!("coalesce(NEW.{sum}, 0)")), add());
        let requests = self.of_new;
        format!(
            "{SUMMING}; CREATE TRIGGER usage_to_rollups AFTER INSERT ON usage WHEN NOT EXISTS (SELECT 1 FROM summing) \
             BEGIN {insert} VALUES (NEW.day, NEW.user_id, \
             coalesce(NEW.key_id, ''), NEW.model, coalesce(NEW.node, ''), NEW.status, {requests}, {sums}) {add}; END"
        )
    }

    /// What comes before and after the statements of a transaction that insert rows. Only rows that were really inserted are
    /// beyond the place, so one that was there already counts for nothing.
    pub(crate) fn sum_up_on_sqlite(&self) -> (&'static str, String) {
        let sums = self.sums_of("usage WHERE rowid > (SELECT place FROM summing)");
        (
            "INSERT INTO summing (place) SELECT coalesce(max(rowid), 0) FROM usage",
            format!("{} {sums} {}; DELETE FROM summing", insert(), add()),
        )
    }

    /// The function behind Postgres' trigger.
    pub(crate) fn function_on_postgres(&self) -> String {
        let (insert, sums, add) = (insert(), self.sums_of("inserted"), add());
        format!(
            "CREATE OR REPLACE FUNCTION add_to_usage_rollups() RETURNS trigger LANGUAGE plpgsql AS $$ \
             BEGIN {insert} {sums} {add}; RETURN NULL; END $$"
        )
    }

    /// The sums of some rows. In the key's order, so that two gateways never wait for each other's sums crosswise.
    fn sums_of(&self, rows: &str) -> String {
        let (requests, sums) = (self.sum, list(|sum| format!("coalesce(sum({sum}), 0)")));
        format!(
            "SELECT day, user_id, coalesce(key_id, ''), model, coalesce(node, ''), status, {requests}, {sums} FROM {rows} \
             GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6"
        )
    }
}

fn insert() -> String {
    format!("INSERT INTO usage_rollups ({KEY}, requests, {})", SUMS.join(", "))
}

fn add() -> String {
    let sums = list(|sum| format!("{sum} = usage_rollups.{sum} + excluded.{sum}"));
    format!("ON CONFLICT ({KEY}) DO UPDATE SET requests = usage_rollups.requests + excluded.requests, {sums}")
}

fn list(of: impl Fn(&str) -> String) -> String {
    SUMS.map(of).join(", ")
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let on_sqlite = manager.get_database_backend() == DbBackend::Sqlite;
        manager.create_table(table(on_sqlite)).await?;
        // A user's own sums.
        let index =
            Index::create().name("usage_rollups_user").table("usage_rollups").col("user_id").col("day").to_owned();
        manager.create_index(index).await?;
        if !on_sqlite {
            let db = manager.get_connection();
            db.execute_unprepared(&ONE_A_ROW.function_on_postgres()).await?;
            db.execute_unprepared(FOLLOW_ON_POSTGRES).await?;
            db.execute_unprepared(&ONE_A_ROW.fill()).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        if manager.get_database_backend() == DbBackend::Sqlite {
            db.execute_unprepared("DROP TRIGGER IF EXISTS usage_to_rollups").await?;
        } else {
            db.execute_unprepared("DROP TRIGGER usage_to_rollups ON usage; DROP FUNCTION add_to_usage_rollups").await?;
        }
        manager.drop_table(Table::drop().table("usage_rollups").to_owned()).await
    }
}

fn table(on_sqlite: bool) -> TableCreateStatement {
    let mut table = Table::create();
    let mut key = Index::create();
    table.table("usage_rollups").col(integer("day"));
    key.col("day");
    for column in ["user_id", "key_id", "model", "node", "status"] {
        table.col(string(column));
        key.col(column);
    }
    table.col(big_integer("requests"));
    for column in SUMS {
        table.col(big_integer(column));
    }
    table.primary_key(&mut key);
    if on_sqlite {
        // One tree instead of two: the key is most of a sum.
        table.extra("WITHOUT ROWID");
    }
    table.to_owned()
}
