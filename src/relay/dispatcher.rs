//! How do requests and the scheduler meet? The shell around the pure core: one short lock, nothing awaited inside.
//!
//! A [`Ticket`] lasts from arrival to end. Dropping it, queued or running, tells the core that the request has left, so
//! that its place or slot is free at once. Decisions reach the waiting worker through a channel of one value.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::scheduler::{Decision, Event, Failure, NodeId, NodeSpec, Outcome, Refusal, RequestId, Scheduler, Settings};

/// A slot on a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grant {
    pub(super) node: NodeId,
    /// Counted from 1.
    pub(super) attempt: u32,
}

type Waiter = oneshot::Sender<Result<Grant, Refusal>>;

/// The scheduler, shared by every worker and every background task.
pub struct Dispatcher {
    core: Mutex<Core>,
    clock: Clock,
    /// Wakes the deadline task when its next deadline has moved forward.
    sooner: Notify,
}

struct Core {
    scheduler: Scheduler,
    waiters: HashMap<RequestId, Waiter>,
    last_id: u64,
    /// When the deadline task wakes by itself.
    armed: Option<Duration>,
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Dispatcher").finish_non_exhaustive()
    }
}

impl Dispatcher {
    /// A dispatcher over these nodes, none of which is known to be up.
    pub fn new(settings: Settings, nodes: Vec<NodeSpec>, clock: Clock) -> Arc<Self> {
        let core =
            Core { scheduler: Scheduler::new(settings, nodes), waiters: HashMap::new(), last_id: 0, armed: None };
        Arc::new(Self { core: Mutex::new(core), clock, sooner: Notify::new() })
    }

    /// Queues a request; it may wait for `patience`.
    pub(super) fn join(self: &Arc<Self>, user: Arc<str>, model: Arc<str>, patience: Duration) -> Ticket {
        let (waiter, grant) = oneshot::channel();
        let id = self.with(|core, now| {
            core.last_id += 1;
            let id = RequestId(core.last_id);
            core.waiters.insert(id, waiter);
            core.handle(Event::Arrived { id, user, model, deadline: now + patience }, now);
            id
        });
        Ticket { dispatcher: self.clone(), id, grant }
    }

    /// Tells the core what was seen of a node.
    pub fn report(&self, event: Event) {
        self.with(|core, now| core.handle(event, now));
    }

    /// Looks into the core. What is read may be old by the time it is used: decisions are made inside only.
    pub fn read<T>(&self, look: impl FnOnce(&Scheduler) -> T) -> T {
        look(&self.core.lock().unwrap_or_else(PoisonError::into_inner).scheduler)
    }

    /// Lets time pass for the core, until `stop`.
    pub async fn run_deadlines(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let wait = self.with(|core, now| {
                core.armed = core.scheduler.next_deadline();
                core.armed.map(|deadline| deadline.saturating_sub(now))
            });
            let due = async {
                match wait {
                    // A millisecond of slack, so that the tick never comes a hair before the deadline.
                    Some(wait) => tokio::time::sleep(wait + Duration::from_millis(1)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.sooner.notified() => {}
                () = due => self.report(Event::Tick),
            }
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Core, Duration) -> T) -> T {
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        let result = act(&mut core, self.clock.uptime());
        let sooner = match (core.scheduler.next_deadline(), core.armed) {
            (Some(next), Some(armed)) => next < armed,
            (next, armed) => next.is_some() && armed.is_none(),
        };
        drop(core);
        if sooner {
            self.sooner.notify_one();
        }
        result
    }
}

impl Core {
    fn handle(&mut self, event: Event, now: Duration) {
        for decision in self.scheduler.handle(event, now) {
            let (id, result) = match decision {
                Decision::Dispatch { id, node, attempt } => (id, Ok(Grant { node, attempt })),
                Decision::Refuse { id, refusal } => (id, Err(refusal)),
            };
            if let Some(waiter) = self.waiters.remove(&id) {
                // A waiter that is gone is about to say so itself, by dropping its ticket.
                let _ = waiter.send(result);
            }
        }
    }
}

/// A request's place in the queue and then on a node.
#[derive(Debug)]
pub(super) struct Ticket {
    dispatcher: Arc<Dispatcher>,
    id: RequestId,
    grant: oneshot::Receiver<Result<Grant, Refusal>>,
}

impl Ticket {
    /// Waits for a slot. After [`Ticket::failed`] it waits for the next one.
    pub(super) async fn granted(&mut self) -> Result<Grant, Refusal> {
        match (&mut self.grant).await {
            Ok(result) => result,
            // The core answers every request it was told of, so this is a ticket that was already used up.
            Err(_) => Err(Refusal {
                reason: crate::scheduler::RefusalReason::DeadlinePassed,
                retry_after: Duration::from_secs(1),
            }),
        }
    }

    /// The attempt failed before any byte reached the client: asks for another.
    pub(super) fn failed(&mut self, failure: Failure) {
        let (waiter, grant) = oneshot::channel();
        self.grant = grant;
        self.dispatcher.with(|core, now| {
            core.waiters.insert(self.id, waiter);
            core.handle(Event::Failed { id: self.id, failure }, now);
        });
    }

    /// The node's first byte is here.
    pub(super) fn first_byte(&self) {
        self.dispatcher.report(Event::FirstByte { id: self.id });
    }

    /// It is over, and this is the verdict on the node. The slot is free when this returns.
    pub(super) fn leave(&self, outcome: Outcome) {
        self.dispatcher.report(Event::Left { id: self.id, outcome });
    }
}

// Released on drop, so that a client that hangs up frees its place at once. The core knows a request that has left
// already, and ignores this.
impl Drop for Ticket {
    fn drop(&mut self) {
        self.dispatcher.with(|core, now| {
            core.waiters.remove(&self.id);
            core.handle(Event::Left { id: self.id, outcome: Outcome::Cancelled }, now);
        });
    }
}
