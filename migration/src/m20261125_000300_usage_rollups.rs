//! Sums of usage by day, user, key, model, node and status, which outlive the rows.
//!
//! The database keeps them itself, in each statement that inserts rows. So no writer can forget them, a row that exists
//! already is not counted again, and gateways of different versions agree. On Postgres the trigger is created here; its
//! lock keeps other gateways' rows out until the existing rows are summed up. On SQLite it is created when the file is
//! opened as the database: in front of Postgres, the same tables only hold rows on their way.
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, integer, string};
use sea_orm_migration::sea_orm::DbBackend;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// The columns of the key, in order. If a row has no key or node, its sum has ''.
const KEY: &str = "day, user_id, key_id, model, node, status";
const KEY_WITH_GROUP: &str = "day, user_id, key_id, model, node, status, group_id";
/// The columns that are summed up, besides the number of rows.
pub(crate) const SUMS: [&str; 7] =
    ["prompt_tokens", "completion_tokens", "queue_ms", "duration_ms", "load_ms", "prefill_ms", "decode_ms"];

/// Those after the day, which are texts.
const COLUMNS_OF_KEY: [&str; 5] = ["user_id", "key_id", "model", "node", "status"];

const FOLLOW_ON_POSTGRES: &str = "CREATE TRIGGER usage_to_rollups AFTER INSERT ON usage \
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION add_to_usage_rollups()";

/// How many requests a row stands for, as of this step.
const ONE_A_ROW: Requests = Requests { sum: "count(*)", of_new: "1", by_group: false };

/// How the requests of rows are counted.
pub(crate) struct Requests {
    /// The SQL for several rows.
    pub(crate) sum: &'static str,
    /// The SQL for the row that a SQLite trigger sees.
    pub(crate) of_new: &'static str,
    /// Whether the group is a part of the key.
    pub(crate) by_group: bool,
}

/// A table whose single row says that a transaction itself sums up the rows after this place. No other transaction ever
/// sees a row in it.
const SUMMING: &str = "CREATE TABLE IF NOT EXISTS summing (place BIGINT NOT NULL)";

impl Requests {
    /// Sums up all rows, if there are no sums yet.
    pub(crate) fn fill(&self) -> String {
        format!("{} {}", self.insert(), self.sums_of("usage"))
    }

    /// The statement that adds the row that a SQLite trigger sees to its sum.
    pub(crate) fn add_new_on_sqlite(&self) -> String {
        let (insert, sums, add) = (self.insert(), list(|sum| format!("coalesce(NEW.{sum}, 0)")), self.add());
        let requests = self.of_new;
        let group = if self.by_group { "coalesce(NEW.group_id, ''), " } else { "" };
        format!(
            "{insert} VALUES (NEW.day, NEW.user_id, coalesce(NEW.key_id, ''), NEW.model, coalesce(NEW.node, ''), \
             NEW.status, {group}{requests}, {sums}) {add};"
        )
    }

    /// The statement that adds those of some new rows to their sums.
    pub(crate) fn add_rows(&self, rows: &str) -> String {
        format!("{} {} {};", self.insert(), self.sums_of(rows), self.add())
    }

    /// The sums of some rows, in the order of the key, so that two gateways never deadlock on each other's sums.
    fn sums_of(&self, rows: &str) -> String {
        let (requests, sums) = (self.sum, list(|sum| format!("coalesce(sum({sum}), 0)")));
        let (group, key) =
            if self.by_group { ("coalesce(group_id, ''), ", "1, 2, 3, 4, 5, 6, 7") } else { ("", "1, 2, 3, 4, 5, 6") };
        format!(
            "SELECT day, user_id, coalesce(key_id, ''), model, coalesce(node, ''), status, {group}{requests}, {sums} \
             FROM {rows} GROUP BY {key} ORDER BY {key}"
        )
    }

    pub(crate) fn key(&self) -> &'static str {
        if self.by_group { KEY_WITH_GROUP } else { KEY }
    }

    fn insert(&self) -> String {
        format!("INSERT INTO usage_rollups ({}, requests, {})", self.key(), SUMS.join(", "))
    }

    fn add(&self) -> String {
        let sums = list(|sum| format!("{sum} = usage_rollups.{sum} + excluded.{sum}"));
        let key = self.key();
        format!("ON CONFLICT ({key}) DO UPDATE SET requests = usage_rollups.requests + excluded.requests, {sums}")
    }
}

/// The statements that make SQLite run `statements` for each new row. Its triggers see one row at a time, which costs as
/// much as the row itself: a transaction that inserts many rows sums them up at its end, by [`sum_up_on_sqlite`].
pub(crate) fn follow_on_sqlite(statements: &str) -> String {
    format!(
        "{SUMMING}; CREATE TRIGGER usage_to_rollups AFTER INSERT ON usage WHEN NOT EXISTS (SELECT 1 FROM summing) \
         BEGIN {statements} END"
    )
}

/// The statements before and after the inserts of a transaction. Only rows that were really inserted are beyond the place, so
/// a row that existed already is not counted again.
pub(crate) fn sum_up_on_sqlite(add_rows: impl Fn(&str) -> String) -> (&'static str, Vec<String>) {
    let add = add_rows("usage WHERE rowid > (SELECT place FROM summing)");
    let add = add.split(';').map(str::trim).filter(|statement| !statement.is_empty());
    (
        "INSERT INTO summing (place) SELECT coalesce(max(rowid), 0) FROM usage",
        add.chain(["DELETE FROM summing"]).map(str::to_owned).collect(),
    )
}

/// The function behind Postgres' trigger.
pub(crate) fn function_on_postgres(add_rows: impl Fn(&str) -> String) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION add_to_usage_rollups() RETURNS trigger LANGUAGE plpgsql AS $$ \
         BEGIN {} RETURN NULL; END $$",
        add_rows("inserted")
    )
}

/// A list of SQL expressions, one for each sum.
pub(crate) fn list(of: impl Fn(&str) -> String) -> String {
    SUMS.map(of).join(", ")
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let on_sqlite = manager.get_database_backend() == DbBackend::Sqlite;
        manager.create_table(table("usage_rollups", &COLUMNS_OF_KEY, on_sqlite)).await?;
        // For a user's own sums.
        let index =
            Index::create().name("usage_rollups_user").table("usage_rollups").col("user_id").col("day").to_owned();
        manager.create_index(index).await?;
        if !on_sqlite {
            let db = manager.get_connection();
            db.execute_unprepared(&function_on_postgres(|rows| ONE_A_ROW.add_rows(rows))).await?;
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

pub(crate) fn table(name: &'static str, columns_of_key: &[&'static str], on_sqlite: bool) -> TableCreateStatement {
    let mut table = Table::create();
    let mut key = Index::create();
    table.table(name).col(integer("day"));
    key.col("day");
    for column in columns_of_key {
        table.col(string(*column));
        key.col(*column);
    }
    table.col(big_integer("requests"));
    for column in SUMS {
        table.col(big_integer(column));
    }
    table.primary_key(&mut key);
    if on_sqlite {
        // One tree instead of two, because most of a sum is its key.
        table.extra("WITHOUT ROWID");
    }
    table.to_owned()
}
