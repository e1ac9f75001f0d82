//! How does one of several gateways keep to its share of the nodes' slots? A task agrees on a division with the other
//! gateways through the database, and tells the scheduler which slots this gateway may use.
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::dispatcher::Dispatcher;
use super::sharing::Sharing;
use crate::clock::Clock;
use crate::store::Stances;
use cluster::Membership;
use scheduler::Scheduler;

/// The pause between two exchanges with the others.
const BEAT: Duration = Duration::from_secs(1);
/// The pause while a new division is being agreed on; each step of the agreement takes one exchange.
const UNSETTLED_BEAT: Duration = Duration::from_millis(200);

/// The task that divides the slots with the other gateways.
#[derive(Debug)]
pub struct Sharer {
    stances: Stances,
    membership: Membership,
    dispatcher: Arc<Dispatcher>,
    clock: Clock,
    is_away: bool,
}

impl Sharer {
    /// Exchanges once with the others, so that a gateway that is alone starts with every slot. If the database is away,
    /// the gateway gets every slot if it was alone when it last saw the database, and none otherwise.
    pub async fn begin(stances: Stances, dispatcher: Arc<Dispatcher>, clock: Clock) -> Self {
        let own = stances.gateway();
        let membership = if stances.was_sole() { Membership::alone(own) } else { Membership::new(own) };
        dispatcher.share(membership.reach(), Sharing::ALONE);
        let mut sharer = Self { stances, membership, dispatcher, clock, is_away: false };
        sharer.beat().await;
        sharer
    }

    /// Keeps exchanging with the others until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let pause = if self.membership.is_settled() || self.is_away { BEAT } else { UNSETTLED_BEAT };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => self.beat().await,
            }
        }
    }

    /// Exchanges once with the others.
    async fn beat(&mut self) {
        let (dispatcher, membership, now) = (&self.dispatcher, &mut self.membership, self.clock.uptime());
        let is_starved = dispatcher.read(|scheduler| scheduler.is_starved(now));
        let before = dispatcher.sharing();
        let exchanged = self.stances.exchange(|peers| {
            membership.observe(peers, is_starved, now);
            // The scheduler keeps to the new share before anybody can read the promise to do so.
            dispatcher.share(membership.reach(), sharing(membership));
            membership.stance(dispatcher.read(Scheduler::is_within_reach))
        });
        let was_away = self.is_away;
        match exchanged.await {
            Ok((stance, peers)) => {
                self.membership.published(&stance, &peers, now);
                self.is_away = false;
            }
            Err(error) => {
                if !was_away {
                    tracing::warn!(%error, "the database is away: this gateway keeps its present share of the nodes' slots");
                }
                self.is_away = true;
            }
        }
        let after = sharing(&self.membership);
        self.dispatcher.share(self.membership.reach(), after);
        report(before, after);
    }
}

fn report(before: Sharing, after: Sharing) {
    match (before.gateways, after.gateways) {
        (before, after) if before == after => {}
        (_, 1) => tracing::info!("this gateway is alone and uses every slot of the nodes"),
        (_, gateways) => tracing::warn!(
            gateways,
            "several gateways use these nodes: each schedules for itself within its share of the slots, so fairness and \
             queue positions hold within one gateway only"
        ),
    }
}

fn sharing(membership: &Membership) -> Sharing {
    Sharing { gateways: membership.gateways(), is_settled: membership.is_settled() }
}
