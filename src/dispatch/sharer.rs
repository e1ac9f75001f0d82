//! How does a gateway find out about the others? A task meets them in the database: it shows which part this gateway has,
//! sees which parts they have, and asks for the lease on scheduling for all.
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::dispatcher::Dispatcher;
use crate::clock::Clock;
use crate::store::{Asked, SchedulerLease, Stances, StoreError};
use cluster::{Candidate, LeaseNews};

/// The pause between two exchanges with the others.
const BEAT: Duration = Duration::from_secs(1);
/// The pause while something is being agreed on; each step of an agreement takes one exchange.
const UNSETTLED_BEAT: Duration = Duration::from_millis(200);
/// How long a lease is trusted, from before it was asked for. It lasts longer, so clocks may differ in speed.
const TRUSTED: Duration = Duration::from_secs(4);

/// The task that meets the other gateways.
#[derive(Debug)]
pub struct Sharer {
    stances: Stances,
    lease: SchedulerLease,
    dispatcher: Arc<Dispatcher>,
    clock: Clock,
    /// Where this gateway's link is reached.
    link: Option<Arc<str>>,
    is_away: bool,
}

impl Sharer {
    /// Exchanges once with the others, so that a gateway that is alone starts with every slot. If the database is away,
    /// the gateway gets every slot if it was alone when it last saw the database, and none otherwise.
    pub async fn begin(stances: Stances, dispatcher: Arc<Dispatcher>, clock: Clock, link: Option<Arc<str>>) -> Self {
        dispatcher.meet_others(stances.gateway(), link.clone(), stances.was_sole());
        let lease = stances.scheduler_lease();
        let mut sharer = Self { stances, lease, dispatcher, clock, link, is_away: false };
        sharer.beat().await;
        sharer
    }

    /// Keeps exchanging with the others until `stop`. Leads no more once `draining` is cancelled.
    pub async fn run(mut self, draining: CancellationToken, stop: CancellationToken) {
        let mut has_retired = false;
        loop {
            let is_settled = self.dispatcher.sharing().is_settled;
            let pause = if is_settled || self.is_away { BEAT } else { UNSETTLED_BEAT };
            tokio::select! {
                () = stop.cancelled() => return,
                () = draining.cancelled(), if !has_retired => {
                    has_retired = true;
                    self.retire().await;
                }
                () = self.dispatcher.roles.notified() => self.beat().await,
                () = tokio::time::sleep(pause) => self.beat().await,
            }
        }
    }

    /// Hands over to another gateway. That one is told by the end of its link, so the lease must be free before.
    async fn retire(&self) {
        if self.dispatcher.welcomes().is_some()
            && let Err(error) = self.lease.give_up().await
        {
            tracing::warn!(%error, "the lease on scheduling could not be given up; it ends by itself within 5 s");
        }
        self.dispatcher.retire();
    }

    /// Exchanges once with the others.
    async fn beat(&mut self) {
        let before = self.dispatcher.sharing();
        let exchanged = self.stances.exchange(|others| self.dispatcher.observe(others)).await;
        match exchanged {
            Ok((stance, others)) => {
                self.dispatcher.published(&stance, &others.there);
                self.is_away = false;
            }
            Err(error) => {
                if !self.is_away {
                    tracing::warn!(%error, "the database is away: this gateway goes on with the slots that it may use");
                }
                self.is_away = true;
            }
        }
        if let Some(link) = &self.link
            && self.dispatcher.has_common_scheduler()
        {
            self.dispatcher.lease(self.ask(link).await.unwrap_or(LeaseNews::Away));
        }
        let after = self.dispatcher.sharing();
        // With a link, the dispatcher logs each change: the others cause some of them.
        if self.link.is_none() && after.headline() != before.headline() {
            after.log();
        }
    }

    /// Takes or renews the lease, or looks who has it.
    async fn ask(&self, link: &str) -> Result<LeaseNews, StoreError> {
        let (is_wanted, epoch) = self.dispatcher.lease_wish();
        // Before the question is asked, as the lease runs from some time between then and the answer.
        let until = self.clock.uptime() + TRUSTED;
        let asked = if is_wanted { self.lease.take(link, epoch).await? } else { self.lease.read().await? };
        Ok(match asked {
            Asked::Held { epoch } => LeaseNews::Held { epoch, until },
            Asked::Free => LeaseNews::Free,
            Asked::Taken { holder, address, epoch } => {
                LeaseNews::Taken(Candidate { gateway: holder.into(), address: address.into(), epoch })
            }
        })
    }
}
