//! Where do gateways agree how they divide the slots of nodes? In the table `gateways`, under the lock on all of them, so
//! that each reads and writes at a time of its own.
use std::sync::Arc;
use std::time::Duration;

use cluster::{Others, Peer, Stance};
use entity::gateway::{Column, Entity};
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter, TransactionTrait};

use super::table::{Gateways, Table, lock};
use crate::store::database::{Store, locks};
use crate::store::deadline::within;
use crate::store::error::StoreError;
use crate::store::scheduler_lease::SchedulerLease;

/// Longest wait for the database.
const DEADLINE: Duration = Duration::from_secs(2);

/// What a gateway shows the others.
#[derive(Debug)]
pub struct Published {
    /// Which slots it may use.
    pub stance: Stance,
    /// Where its link is reached; `None` if it offers none.
    pub link: Option<Arc<str>>,
    /// How much longer what it runs should take.
    pub busy: Duration,
}

/// The stances of all gateways on one Postgres.
#[derive(Debug)]
pub struct Stances {
    pub(super) store: Store,
    pub(super) table: Table,
    pub(super) was_sole: bool,
}

impl Stances {
    /// By which name this gateway goes.
    pub fn gateway(&self) -> Arc<str> {
        self.table.gateway.as_str().into()
    }

    /// The lease on scheduling for all gateways.
    pub fn scheduler_lease(&self) -> SchedulerLease {
        SchedulerLease::new(self.store.clone(), self.table.gateway.clone())
    }

    /// Whether this gateway was alone when it last saw the database before it started.
    pub fn was_sole(&self) -> bool {
        self.was_sole
    }

    /// Shows `decide` the other gateways, and publishes what it answers. Returns stance and others once everybody can see
    /// them. `decide` may have been called even if this fails.
    ///
    /// # Errors
    /// When the database is away, or does not know yet that this gateway lives.
    pub async fn exchange(
        &self,
        decide: impl FnOnce(&Others) -> Option<Published>,
    ) -> Result<(Stance, Others), StoreError> {
        if !self.store.is_online() {
            return Err(StoreError::TimedOut(Duration::ZERO));
        }
        within(DEADLINE, self.try_exchange(decide)).await
    }

    async fn try_exchange(&self, decide: impl FnOnce(&Others) -> Option<Published>) -> Result<(Stance, Others), DbErr> {
        let transaction = self.table.db.begin().await?;
        lock(&transaction, &[locks::GATEWAYS]).await?;
        let gateways = Gateways::read(&transaction, &self.table.gateway).await?;
        if gateways.renewed(self.table.patience).is_none() {
            // The others may take it for gone, and not wait for its promise.
            return Err(DbErr::RecordNotUpdated);
        }
        let watched = gateways.watched(self.table.patience);
        let there = gateways.peers.iter().filter(|(_, (peer, _))| !peer.is_gone(watched));
        let there = there
            .map(|(id, (peer, _))| Peer {
                gateway: id.as_str().into(),
                stance: gateways.stances.get(id).cloned(),
                link: gateways.links.get(id).map(|link| link.as_str().into()),
                silent: peer.silent,
                busy: gateways.busy.get(id).copied().unwrap_or_default(),
            })
            .collect();
        let left = gateways.peers.iter().filter(|(_, (peer, _))| peer.left);
        let others = Others { there, left: left.map(|(id, _)| id.as_str().into()).collect() };
        let Published { stance, link, busy } = decide(&others).ok_or(DbErr::RecordNotUpdated)?;
        let busy_ms = i64::try_from(busy.as_millis()).unwrap_or(i64::MAX);
        let own = Column::Id.eq(&self.table.gateway);
        Entity::update_many()
            .col_expr(Column::Members, Expr::value(stance.division.gateways.join(",")))
            .col_expr(Column::Turn, Expr::value(i64::try_from(stance.division.turn).unwrap_or(i64::MAX)))
            .col_expr(Column::Fits, Expr::value(stance.fits))
            .col_expr(Column::Link, Expr::value(link.as_deref()))
            .col_expr(Column::BusyUntilMs, Expr::value(gateways.now_ms.saturating_add(busy_ms)))
            .filter(own)
            .exec(&transaction)
            .await?;
        transaction.commit().await?;
        Ok((stance, others))
    }
}
