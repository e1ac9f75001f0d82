//! How do requests meet the scheduler? The shell around the pure core: one short lock, with nothing awaited inside.
//!
//! Decisions about a request reach its worker through the mailbox of its ticket; decisions about a node's memory go to the
//! loader.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::Histogram;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::errand::{Errand, LoadCost};
use super::links::{Asking, Links};
use super::sharing::Sharing;
use super::word::{Grant, Mailbox, Word};
use crate::clock::Clock;
use cluster::{Coordinator, Effect, Foreseen};
use scheduler::{
    Decision, Event, HealthChange, Learned, NODES_AT_A_LOOK, NodeId, NodeSpec, NodeView, Outcome, QueueLimits,
    RequestId, Scheduler, Story, Waiting,
};

/// The most errands in progress: one load or two unloads for each node.
const ERRANDS: usize = 4096;

/// A gateway among several that sees a grant only after this long was paused, and the slot may be somebody else's.
const STALE: Duration = Duration::from_secs(2);

/// The deadline task is late by this much only if the whole process was paused.
const PAUSED: Duration = Duration::from_secs(2);

/// The scheduler, shared by every worker and every background task.
pub struct Dispatcher {
    core: Mutex<Core>,
    /// How long the lock is held, to decide and to look.
    held: [Histogram; 2],
    pub(super) clock: Clock,
    /// Wakes the deadline task when its next deadline has moved forward.
    sooner: Notify,
    /// Wakes whoever tells of changes of nodes' health.
    health: Notify,
    /// Wakes the tasks that look after the other gateways when this one's role changes.
    pub(crate) roles: Notify,
}

/// A request that has not ended.
pub(super) struct Live {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) load_cost: Arc<LoadCost>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

/// What the lock protects.
pub(super) struct Core {
    pub(super) coordinator: Coordinator,
    /// Whether this gateway may be one of several with a common scheduler.
    pub(super) is_linkable: bool,
    pub(super) links: Links,
    /// Questions for the leader go here; `None` without a link.
    pub(super) asking: Option<mpsc::Sender<Asking>>,
    /// As it was last reported in the log.
    pub(super) told: Sharing,
    /// The last epoch by which this gateway led or followed; 0 before the first.
    pub(super) last_epoch: u64,
    /// How often that has changed.
    pub(super) handovers: u64,
    pub(super) tickets: HashMap<RequestId, Live>,
    errands: mpsc::Sender<Errand>,
    /// When the deadline task wakes next.
    armed: Option<Duration>,
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Dispatcher").finish_non_exhaustive()
    }
}

impl Dispatcher {
    /// A dispatcher for these nodes, none of which is known to be up, and the queue of its errands for the loader. `held`
    /// learns how long the lock is held, to decide and to look.
    pub fn new(
        limits: QueueLimits,
        nodes: Vec<NodeSpec>,
        clock: Clock,
        held: [Histogram; 2],
    ) -> (Arc<Self>, mpsc::Receiver<Errand>) {
        let (errands, wanted) = mpsc::channel(ERRANDS);
        let coordinator = Coordinator::new("".into(), Scheduler::new(limits, nodes), None, true);
        let core = Core {
            told: Sharing::of(&coordinator),
            coordinator,
            is_linkable: false,
            links: Links::default(),
            asking: None,
            last_epoch: 0,
            handovers: 0,
            tickets: HashMap::new(),
            errands,
            armed: None,
        };
        let (sooner, health, roles) = (Notify::new(), Notify::new(), Notify::new());
        (Arc::new(Self { core: Mutex::new(core), held, clock, sooner, health, roles }), wanted)
    }

    /// The story of a request that has not ended, or did in the last hour.
    pub fn story(&self, request_id: Uuid) -> Option<Story> {
        let now = self.clock.uptime();
        self.read(|scheduler| scheduler.story(id_of(request_id), now).cloned())
    }

    /// The first `most` waiting requests, next in turn first, each with its request id.
    pub fn waiting(&self, most: usize) -> Vec<(Uuid, Waiting)> {
        let waiting = self.read(|scheduler| scheduler.waiting(most, self.clock.uptime()));
        waiting.into_iter().map(|waiting| (Uuid::from_u128(waiting.id.0), waiting)).collect()
    }

    /// Tells the core what was observed about a node.
    pub fn report(&self, event: Event) {
        self.with(|core, now| core.handle(event, now));
    }

    /// Whether to send this node, which has just answered a probe, a canary now, and report how it ended.
    pub(crate) fn begin_canary(&self, node: NodeId) -> bool {
        self.with(|core, now| core.coordinator.member.scheduler_mut().begin_canary(node, now))
    }

    /// Reads from the core. The result may be out of date when it is used; decisions are only made inside the core.
    pub fn read<T>(&self, look: impl FnOnce(&Scheduler) -> T) -> T {
        self.peek(|core| look(core.coordinator.member.scheduler()))
    }

    /// Every node of the fleet, in the order of joining. They are read a few at a time, so that no decision waits long;
    /// they may be a moment apart.
    pub fn nodes(&self) -> Vec<NodeView> {
        let (mut views, mut first) = (Vec::new(), 0);
        loop {
            let page =
                |scheduler: &Scheduler| (scheduler.nodes_from(NodeId(first), NODES_AT_A_LOOK), scheduler.node_count());
            let (page, count) = self.read(page);
            views.extend(page);
            first += NODES_AT_A_LOOK;
            if first >= count {
                return views;
            }
        }
    }

    /// What has become of the health of nodes since this was asked last; waits until there is something. For one task.
    pub(crate) async fn health_changes(&self) -> Vec<HealthChange> {
        loop {
            let changes = self.peek(|core| core.coordinator.member.scheduler_mut().take_health_changes());
            if !changes.is_empty() {
                return changes;
            }
            self.health.notified().await;
        }
    }

    /// What was foreseen for each of these requests of this gateway's when it was granted its slot.
    pub fn foreseen(&self, ids: &[RequestId]) -> Vec<Foreseen> {
        let now = self.clock.uptime();
        self.peek(|core| ids.iter().map(|id| core.coordinator.member.foreseen(*id, now)).collect())
    }

    /// How the gateways schedule at the moment.
    pub fn sharing(&self) -> Sharing {
        self.peek(|core| Sharing::of(&core.coordinator))
    }

    /// Starts with what an earlier run learned `age` ago.
    pub fn recall(&self, learned: Learned, age: Duration) {
        self.with(|core, _| core.coordinator.member.scheduler_mut().recall(learned, age));
    }

    /// Whether what was decided at `at` may hold no longer, because this gateway was paused since.
    pub(super) fn is_stale(&self, at: Duration) -> bool {
        self.peek(|core| core.is_linkable) && self.clock.uptime() > at + STALE
    }

    /// Sends the core a tick at each of its deadlines, until `stop`.
    pub async fn run_deadlines(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let wait = self.with(|core, now| {
                core.armed = core.coordinator.member.scheduler().next_deadline();
                core.armed.map(|deadline| deadline.saturating_sub(now))
            });
            let due = async {
                match wait {
                    // A millisecond of slack, so that the tick never comes just before the deadline.
                    Some(wait) => tokio::time::sleep(wait + Duration::from_millis(1)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.sooner.notified() => {}
                () = due => self.with(Core::tick),
            }
        }
    }

    /// Looks at the core without an event.
    pub(super) fn peek<T>(&self, look: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        let since = self.clock.uptime();
        let result = look(&mut core);
        drop(core);
        self.held[1].observe(self.clock.uptime().saturating_sub(since).as_secs_f64());
        result
    }

    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Core, Duration) -> T) -> T {
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        let since = self.clock.uptime();
        // First of all: what was silent while this process slept must not count as silent.
        if was_paused(core.armed, since) {
            core.coordinator.member.scheduler_mut().woke_up(since);
        }
        let result = act(&mut core, since);
        if core.is_linkable && core.tell_role() {
            self.roles.notify_waiters();
        }
        let scheduler = core.coordinator.member.scheduler();
        // The deadline task sleeps until `armed`, so it must be woken if an earlier deadline has come up.
        let sooner = match (scheduler.next_deadline(), core.armed) {
            (Some(next), Some(armed)) => next < armed,
            (next, armed) => next.is_some() && armed.is_none(),
        };
        let has_health_changes = scheduler.has_health_changes();
        drop(core);
        self.held[0].observe(self.clock.uptime().saturating_sub(since).as_secs_f64());
        if has_health_changes {
            self.health.notify_one();
        }
        if sooner {
            self.sooner.notify_one();
        }
        result
    }
}

impl Core {
    /// Time has passed. First reports the streams whose clients are not reading.
    pub(super) fn tick(&mut self, now: Duration) {
        let stalled = self.tickets.iter().filter(|(_, live)| !live.mailbox.is_taking());
        let stalled: Vec<RequestId> = stalled.map(|(id, _)| *id).collect();
        for id in stalled {
            self.handle(Event::Stalled { id }, now);
        }
        self.handle(Event::Tick, now);
    }

    pub(super) fn handle(&mut self, event: Event, now: Duration) {
        // A gateway on its own skips the cluster's bookkeeping.
        if self.is_linkable {
            let effects = self.coordinator.member.handle(event, now);
            self.carry_out(effects, now);
        } else {
            let decisions = self.coordinator.member.scheduler_mut().handle(event, now);
            decisions.into_iter().for_each(|decision| self.obey(decision, now));
        }
    }

    /// A request is over: it receives no more words.
    pub(super) fn part(&mut self, id: RequestId, outcome: Outcome, now: Duration) {
        self.tickets.remove(&id);
        self.handle(Event::Left { id, outcome }, now);
    }

    /// Does what the member asks for.
    pub(super) fn carry_out(&mut self, effects: Vec<Effect>, now: Duration) {
        for effect in effects {
            match effect {
                Effect::Decided(decision) => self.obey(decision, now),
                Effect::Began { id, attempt, goes_on } => self.tell(id, Word::Began { attempt, goes_on }),
                Effect::Say { gateway, frame } => {
                    // Queues of links are bounded. A frame that was dropped would leave both sides with different
                    // books, so the link is closed and begins with a report.
                    if !self.links.say(&gateway, frame) {
                        tracing::warn!(%gateway, "a link could not keep up: it is closed, and made anew");
                        let effects = self.coordinator.member.unlinked(&gateway, now);
                        self.carry_out(effects, now);
                    }
                }
                Effect::Close { gateway } => self.links.close(&gateway),
            }
        }
    }

    fn obey(&mut self, decision: Decision, now: Duration) {
        match decision {
            Decision::Dispatch { id, node, attempt } => self.tell(id, Word::Granted(Grant { node, attempt }, now)),
            Decision::Refuse { id, refusal } => self.tell(id, Word::Refused(refusal)),
            Decision::Abandon { id } => self.tell(id, Word::Abandoned),
            Decision::Load { node, model, cause } => {
                let cost = cause.and_then(|id| Some(self.tickets.get(&id)?.load_cost.clone()));
                self.send(Errand::Load { node, model, cost });
            }
            Decision::Unload { node, model } => self.send(Errand::Unload { node, model }),
        }
    }

    fn tell(&self, id: RequestId, word: Word) {
        if let Some(live) = self.tickets.get(&id) {
            live.mailbox.post(word);
        }
    }

    fn send(&self, errand: Errand) {
        if self.errands.try_send(errand).is_err() {
            tracing::error!("models cannot be loaded: the loader has ended or is stuck");
        }
    }
}

/// Whether the process was paused until now, if the deadline task should have woken at `armed`. While requests are running,
/// that is at most a second away.
fn was_paused(armed: Option<Duration>, now: Duration) -> bool {
    armed.is_some_and(|due| now > due + PAUSED)
}

/// A request's id within the core: the whole of it.
pub(super) fn id_of(request_id: Uuid) -> RequestId {
    RequestId(request_id.as_u128())
}

#[cfg(test)]
pub(super) mod tests {
    use prometheus::HistogramOpts;
    use scheduler::Arrival;

    use super::*;

    /// A request for the model `m`.
    pub(crate) fn arrival() -> Arrival {
        Arrival {
            id: RequestId(0),
            user: "ann".into(),
            weight: 1.0,
            membership: None,
            model: "m".into(),
            prompt_tokens: 1,
            max_output: None,
            known_output: None,
            prefixes: Arc::from([]),
            route: Default::default(),
            is_stream: true,
            deadline: Duration::ZERO,
        }
    }

    /// For dispatchers without metrics.
    pub(crate) fn held() -> [Histogram; 2] {
        ["decide", "look"].map(|what| Histogram::with_opts(HistogramOpts::new(what, what)).unwrap())
    }

    #[test]
    fn only_a_deadline_task_that_is_late_by_far_shows_a_pause() {
        let at = Duration::from_secs;
        assert!(!was_paused(None, at(99)), "nothing is due");
        assert!(!was_paused(Some(at(10)), at(12)) && was_paused(Some(at(10)), at(13)));
    }

    #[test]
    fn every_node_is_seen_once_however_many_looks_it_takes() {
        let count = 2 * NODES_AT_A_LOOK + 3;
        let spec = |node| NodeSpec { name: format!("node-{node}"), slots: Some(1), vram_bytes: None };
        let (dispatcher, _errands) =
            Dispatcher::new(QueueLimits::default(), (0..count).map(spec).collect(), Clock::start(), held());
        dispatcher.report(Event::NodeLeft { node: NodeId(1) });

        let names: Vec<String> = dispatcher.nodes().into_iter().map(|node| node.name).collect();

        let expected: Vec<String> = (0..count).filter(|node| *node != 1).map(|node| format!("node-{node}")).collect();
        assert_eq!(names, expected);
    }
}
