//! The tables `gateways` and `leases` in Postgres: who shares limits, and what each holds.
//!
//! Times are the database's own, so that no two clocks are compared. What is read and written of one subject happens under
//! a lock on it, and who is there is decided under a lock on all gateways: both end with their transaction.
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use entity::{gateway, lease, usage_rollup};
use sea_orm::sea_query::OnConflict;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, EntityTrait, ExprTrait,
    IntoActiveModel, QueryFilter, QuerySelect, QueryTrait, Statement, TransactionTrait,
};
use sha2::{Digest, Sha256};

use super::broker::NotLeased;
use super::in_database::tokens_in_database;
use super::line::Line;
use crate::store::database::locks;
use crate::store::many;
use crate::store::people::Changed;
use crate::store::subject::{MONTH, name_of_key, name_of_user};
use cluster::{Division, Stance};
use limits::{Amounts, Elsewhere, Holding, Peer, longest_gap, trade};

/// How long a gateway is remembered that is gone. Its tokens of the day are forgotten with it, and a day is over by then.
const MEMORY_MS: i64 = 3 * 86_400_000;
/// The same where it holds something of a month.
const LONG_MEMORY_MS: i64 = 32 * 86_400_000;

#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) db: DatabaseConnection,
    pub(super) gateway: String,
    pub(super) patience: Duration,
}

/// Who is there.
#[derive(Debug)]
pub(super) struct Seen {
    /// Whether we are alone, and nobody else may use any limit.
    pub(super) is_sole: bool,
    /// Whether others are there.
    pub(super) has_peers: bool,
    /// Whether one of them does not share yet.
    pub(super) has_sole_peer: bool,
    /// Whether others have left leases behind.
    pub(super) has_leases: bool,
}

pub(super) struct Gateways {
    pub(super) now_ms: i64,
    pub(super) peers: HashMap<String, (Peer, bool)>,
    pub(super) stances: HashMap<String, Stance>,
    pub(super) links: HashMap<String, String>,
    /// How much longer what each of the others runs should take, as it last said.
    pub(super) busy: HashMap<String, Duration>,
    own: Option<gateway::Model>,
}

impl Gateways {
    pub(super) async fn read(db: &DatabaseTransaction, own: &str) -> Result<Self, DbErr> {
        let clock = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
        let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), clock)).await?;
        let now_ms: i64 = row.ok_or(DbErr::RecordNotFound("clock".to_owned()))?.try_get_by_index(0)?;
        let (mut peers, mut stances, mut links) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut busy = HashMap::new();
        let mut found = None;
        for row in gateway::Entity::find().all(db).await? {
            if row.id == own {
                found = Some(row);
                continue;
            }
            let peer =
                Peer { silent: millis(now_ms - row.renewed_ms), patience: millis(row.patience_ms), left: row.has_left };
            stances.extend(stance_of(&row).map(|stance| (row.id.clone(), stance)));
            links.extend(row.link.clone().map(|link| (row.id.clone(), link)));
            busy.extend(row.busy_until_ms.map(|until_ms| (row.id.clone(), millis(until_ms - now_ms))));
            peers.insert(row.id, (peer, row.is_sole));
        }
        Ok(Self { now_ms, peers, stances, links, busy, own: found })
    }

    /// When we said last that we live, unless that is too long ago or the last word was that we end.
    pub(super) fn renewed(&self, patience: Duration) -> Option<&gateway::Model> {
        let in_time = |own: &&gateway::Model| !own.has_left && millis(self.now_ms - own.renewed_ms) <= patience;
        self.own.as_ref().filter(in_time)
    }

    /// Since when we have looked without a gap.
    fn since_ms(&self, patience: Duration) -> i64 {
        self.renewed(longest_gap(patience)).map_or(self.now_ms, |own| own.since_ms)
    }

    /// How long we have looked without a gap.
    pub(super) fn watched(&self, patience: Duration) -> Duration {
        millis(self.now_ms - self.since_ms(patience))
    }
}

impl Table {
    /// Says that we live, and looks who else does. `keeps_all`: we still use every limit as if we were alone.
    pub(super) async fn renew(&self, keeps_all: bool) -> Result<Seen, DbErr> {
        let transaction = self.db.begin().await?;
        lock(&transaction, &[locks::GATEWAYS]).await?;
        let gateways = Gateways::read(&transaction, &self.gateway).await?;
        let watched = gateways.watched(self.patience);
        let there: Vec<bool> =
            gateways.peers.values().filter(|(peer, _)| !peer.is_gone(watched)).map(|(_, is_sole)| *is_sole).collect();
        let is_sole = there.is_empty() || keeps_all;
        let since_ms = gateways.since_ms(self.patience);
        self.write(&transaction, gateways.now_ms, since_ms, is_sole, false).await?;
        let before = |memory_ms| gateway::Column::RenewedMs.lt(gateways.now_ms - memory_ms);
        let of_months = lease::Entity::find().filter(lease::Column::Subject.starts_with(MONTH));
        let holders = of_months.select_only().column(lease::Column::Gateway).into_query();
        let old = before(MEMORY_MS).and(gateway::Column::Id.not_in_subquery(holders)).or(before(LONG_MEMORY_MS));
        if gateway::Entity::delete_many().filter(old).exec(&transaction).await?.rows_affected > 0 {
            // What a forgotten gateway held is free for the others again.
            transaction.execute_unprepared("DELETE FROM leases WHERE gateway NOT IN (SELECT id FROM gateways)").await?;
        }
        let others = lease::Entity::find().filter(lease::Column::Gateway.ne(&self.gateway));
        let has_leases = others.one(&transaction).await?.is_some();
        transaction.commit().await?;
        Ok(Seen { is_sole, has_peers: !there.is_empty(), has_sole_peer: there.contains(&true), has_leases })
    }

    /// Says that we end.
    pub(super) async fn leave(&self) -> Result<(), DbErr> {
        let transaction = self.db.begin().await?;
        lock(&transaction, &[locks::GATEWAYS]).await?;
        let now_ms = Gateways::read(&transaction, &self.gateway).await?.now_ms;
        self.write(&transaction, now_ms, now_ms, false, true).await?;
        transaction.commit().await
    }

    async fn write(
        &self,
        db: &DatabaseTransaction,
        renewed_ms: i64,
        since_ms: i64,
        is_sole: bool,
        has_left: bool,
    ) -> Result<(), DbErr> {
        use gateway::Column::{HasLeft, Id, IsSole, PatienceMs, RenewedMs, SinceMs};
        let patience_ms = i64::try_from(self.patience.as_millis()).unwrap_or(i64::MAX);
        let id = self.gateway.clone();
        let row = gateway::Model {
            id,
            renewed_ms,
            since_ms,
            patience_ms,
            is_sole,
            has_left,
            members: None,
            turn: None,
            fits: None,
            link: None,
            busy_until_ms: None,
        };
        let row = row.into_active_model();
        let replace =
            // The other columns are those of the division of nodes, which another task writes.
            OnConflict::column(Id).update_columns([RenewedMs, SinceMs, PatienceMs, IsSole, HasLeft]).to_owned();
        gateway::Entity::insert(row).on_conflict(replace).exec_without_returning(db).await?;
        Ok(())
    }

    /// Trades for each line, all or none.
    pub(super) async fn trade(&self, lines: &mut [Line]) -> Result<(), NotLeased> {
        // Each counts its tokens over a day, or a month, of its own.
        let days: HashMap<String, i32> = lines.iter().map(|line| (line.subject.name(), line.claim.day)).collect();
        let names: BTreeSet<String> = days.keys().cloned().collect();
        let transaction = self.db.begin().await?;
        lock(&transaction, &names.iter().map(|name| number_of(name)).collect::<BTreeSet<_>>()).await?;
        let gateways = Gateways::read(&transaction, &self.gateway).await?;
        // After so long a silence the others may have taken what we held.
        if gateways.renewed(self.patience).is_none() {
            return Err(NotLeased::Away);
        }
        let watched = gateways.watched(self.patience);
        // It still uses every limit as if it were alone, so there is no share to be had yet.
        if gateways.peers.values().any(|(peer, is_sole)| *is_sole && !peer.is_gone(watched)) {
            return Err(NotLeased::NotShared);
        }
        let mut held: HashMap<String, Amounts> = HashMap::new();
        let others = lease::Entity::find()
            .filter(many::is_any(lease::Column::Subject, transaction.get_database_backend(), &names))
            .filter(lease::Column::Gateway.ne(&self.gateway));
        for row in others.all(&transaction).await? {
            if let (Some((peer, _)), Some(day)) = (gateways.peers.get(&row.gateway), days.get(&row.subject)) {
                let sum = held.entry(row.subject.clone()).or_default();
                *sum = sum.plus(peer.keeps(&holding_of(&row), watched, *day));
            }
        }
        let used = tokens_in_database(&transaction, lines).await?;
        for line in lines.iter_mut() {
            let name = line.subject.name();
            let held = held.get(&name).copied().unwrap_or_default();
            let in_database = used.get(&name).copied().unwrap_or_default();
            line.elsewhere = Elsewhere { held, in_database };
            (line.holding, line.free) = trade(&line.limits, &line.claim, line.block, line.need, &line.elsewhere);
        }
        self.keep(&transaction, lines).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn keep(&self, db: &DatabaseTransaction, lines: &[Line]) -> Result<(), DbErr> {
        use lease::Column::{Day, DayTokens, DeclaredTokens, Gateway, MinuteTokens, Requests, Running, Subject};
        let rows: Vec<_> = lines.iter().map(|line| self.row_of(&line.subject.name(), &line.holding)).collect();
        let replace = OnConflict::columns([Subject, Gateway])
            .update_columns([Requests, MinuteTokens, Running, Day, DayTokens, DeclaredTokens])
            .to_owned();
        let mut insert = many::insertion::<lease::Entity>(db.get_database_backend(), &rows)?;
        db.execute(insert.on_conflict(replace)).await?;
        Ok(())
    }

    /// The subjects of which we hold something.
    pub(super) async fn own(&self) -> Result<Vec<String>, DbErr> {
        let own = lease::Entity::find().filter(lease::Column::Gateway.eq(&self.gateway));
        own.select_only().column(lease::Column::Subject).into_tuple().all(&self.db).await
    }

    /// Everybody who has used something on this day, or of whom somebody holds something.
    pub(super) async fn known(&self, day: i32) -> Result<Changed, DbErr> {
        use usage_rollup::Column::{Day, KeyId, UserId};
        let used =
            usage_rollup::Entity::find().filter(Day.eq(day)).select_only().column(UserId).column(KeyId).distinct();
        let used: Vec<(String, String)> = used.into_tuple().all(&self.db).await?;
        let held = lease::Entity::find().select_only().column(lease::Column::Subject).distinct();
        let held: Vec<String> = held.into_tuple().all(&self.db).await?;
        let used = used.into_iter().flat_map(|(user, key)| [name_of_user(&user), name_of_key(&key)]);
        Ok(Changed::of(used.chain(held).collect::<BTreeSet<_>>().iter().map(String::as_str)))
    }

    /// Gives back whatever we hold of these.
    pub(super) async fn give_back(&self, subjects: &[String]) -> Result<(), DbErr> {
        lease::Entity::delete_many()
            .filter(lease::Column::Gateway.eq(&self.gateway))
            .filter(many::is_any(lease::Column::Subject, self.db.get_database_backend(), subjects))
            .exec(&self.db)
            .await?;
        Ok(())
    }

    fn row_of(&self, subject: &str, holding: &Holding) -> lease::Model {
        let signed = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
        lease::Model {
            subject: subject.to_owned(),
            gateway: self.gateway.clone(),
            requests: signed(holding.held.requests),
            minute_tokens: signed(holding.held.minute_tokens),
            running: signed(holding.held.running),
            day: holding.day,
            day_tokens: signed(holding.held.day_tokens),
            declared_tokens: signed(holding.declared),
        }
    }
}

fn holding_of(row: &lease::Model) -> Holding {
    let unsigned = |amount: i64| u64::try_from(amount).unwrap_or_default();
    let held = Amounts {
        requests: unsigned(row.requests),
        minute_tokens: unsigned(row.minute_tokens),
        running: unsigned(row.running),
        day_tokens: unsigned(row.day_tokens),
    };
    Holding { held, declared: unsigned(row.declared_tokens), day: row.day }
}

/// Waits for these locks, one after the other in their order, so that no two gateways wait for each other.
pub(super) async fn lock<'a>(
    db: &DatabaseTransaction,
    numbers: impl IntoIterator<Item = &'a i64>,
) -> Result<(), DbErr> {
    let values: Vec<String> = numbers.into_iter().map(|number| format!("({number}::bigint)")).collect();
    let each = format!("SELECT pg_advisory_xact_lock(number) FROM (VALUES {}) AS numbers (number)", values.join(", "));
    db.execute_unprepared(&each).await?;
    Ok(())
}

/// What a row says; `None` if it is of a version that does not share the nodes.
fn stance_of(row: &gateway::Model) -> Option<Stance> {
    let gateways = row.members.as_ref()?.split(',').map(Arc::from).collect();
    let turn = u64::try_from(row.turn?).ok()?;
    Some(Stance { division: Division { gateways, turn }, fits: row.fits? })
}

fn number_of(name: &str) -> i64 {
    let digest = Sha256::digest(name.as_bytes());
    digest.first_chunk().map_or(0, |bytes: &[u8; 8]| i64::from_be_bytes(*bytes))
}

fn millis(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or_default())
}
