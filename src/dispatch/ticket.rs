//! How does one request wait for a slot, and hold it? A [`Ticket`] lasts from a request's arrival to its end. Dropping it,
//! queued or running, tells the core that the request has left, which frees its place or slot at once.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use uuid::Uuid;

use super::dispatcher::{Dispatcher, Live, id_of};
use super::errand::LoadCost;
use super::word::{Grant, Interruption, Mailbox, Word};
use cluster::{FirstByte, Foreseen};
use protocol::Usage;
use scheduler::{Arrival, Event, Failure, Outcome, Refusal, RefusalReason, RequestId};

/// Longest wait for the leader's word on a first byte. A link that is silent for 1.5 s is lost before that.
const WORD_PATIENCE: Duration = Duration::from_secs(3);

/// A request's place in the queue, and then on a node.
#[derive(Debug)]
pub struct Ticket {
    dispatcher: Arc<Dispatcher>,
    id: RequestId,
    mailbox: Arc<Mailbox>,
    /// Read before its turn.
    ahead: Option<Word>,
    load_cost: Arc<LoadCost>,
    /// The core was told that the request is over.
    has_left: AtomicBool,
}

impl Dispatcher {
    /// Queues a request, which may wait for `patience`.
    pub(crate) fn join(self: &Arc<Self>, request_id: Uuid, arrival: Arrival, patience: Duration) -> Ticket {
        let mailbox = Arc::new(Mailbox::new());
        let load_cost = Arc::<LoadCost>::default();
        let live = Live { mailbox: mailbox.clone(), load_cost: load_cost.clone() };
        let id = id_of(request_id);
        self.with(|core, now| {
            core.tickets.insert(id, live);
            core.handle(Event::Arrived(Arrival { id, deadline: now + patience, ..arrival }), now);
        });
        let has_left = AtomicBool::new(false);
        Ticket { dispatcher: self.clone(), id, mailbox, ahead: None, load_cost, has_left }
    }
}

impl Ticket {
    /// Waits for a slot. After [`Ticket::failed`] or [`Interruption::Abandoned`] it waits for the next one.
    pub(crate) async fn granted(&mut self) -> Result<Grant, Refusal> {
        loop {
            let word = match self.ahead.take() {
                Some(word) => Some(word),
                None => self.mailbox.read().await,
            };
            match word {
                Some(Word::Granted(_, at)) if self.dispatcher.is_stale(at) => self.failed(Failure::Starved),
                Some(Word::Granted(grant, _)) => return Ok(grant),
                Some(Word::Refused(refusal)) => return Err(refusal),
                // It concerns an attempt that had already failed by itself.
                Some(Word::Abandoned | Word::Began { .. }) => {}
                // The core answers every request that it knows, so this ticket was used up before.
                None => {
                    let reason = RefusalReason::DeadlinePassed;
                    return Err(Refusal { reason, retry_after: Duration::from_secs(1) });
                }
            }
        }
    }

    /// Waits until the running attempt must stop.
    pub(crate) async fn interrupted(&mut self) -> Interruption {
        std::future::poll_fn(|cx| self.poll_interrupted(cx)).await
    }

    /// The same as [`Ticket::interrupted`], for use while polling a body.
    pub(crate) fn poll_interrupted(&mut self, cx: &mut Context<'_>) -> Poll<Interruption> {
        let word = match self.ahead.take() {
            Some(word) => Poll::Ready(Some(word)),
            None => self.mailbox.poll_read(cx),
        };
        match word {
            Poll::Ready(Some(Word::Refused(refusal))) => Poll::Ready(Interruption::Refused(refusal)),
            Poll::Ready(Some(_)) => Poll::Ready(Interruption::Abandoned),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// The attempt failed before any byte reached the client; asks for another one.
    pub(crate) fn failed(&mut self, failure: Failure) {
        self.dispatcher.report(Event::Failed { id: self.id, failure });
    }

    /// The node's first byte is here. False if the core has broken the attempt off meanwhile: the client must not see
    /// what came. A gateway that follows asks its leader.
    pub(crate) async fn first_byte(&mut self, attempt: u32) -> bool {
        let id = self.id;
        let answer = self.dispatcher.with(|core, now| {
            let (answer, effects) = core.coordinator.member.first_byte(id, attempt, now);
            core.carry_out(effects, now);
            answer
        });
        if answer != FirstByte::Asked {
            return answer == FirstByte::GoesOn;
        }
        // The answer comes, or the link is lost, which is an answer as well. A leader that keeps the link alive and yet says
        // nothing must not hold the client: it is told that the attempt failed, so that the request waits again.
        let deadline = tokio::time::Instant::now() + WORD_PATIENCE;
        loop {
            let Ok(word) = tokio::time::timeout_at(deadline, self.mailbox.read()).await else {
                self.failed(Failure::Starved);
                return false;
            };
            let Some(word) = word else { return false };
            match word {
                Word::Began { attempt: number, goes_on } if number == attempt => return goes_on,
                Word::Began { .. } => {}
                Word::Abandoned => return false,
                word => {
                    self.ahead = Some(word);
                    return false;
                }
            }
        }
    }

    /// What the scheduler that granted the slot foresaw, in this gateway or another one.
    pub(crate) fn foreseen(&self) -> Foreseen {
        self.dispatcher.foreseen(&[self.id]).pop().unwrap_or_default()
    }

    /// The time of the loads that the request causes.
    pub(crate) fn load_cost(&self) -> Arc<LoadCost> {
        self.load_cost.clone()
    }

    /// Records whether the client is reading, or has as much as it wants for now.
    pub(crate) fn is_taking(&self, is_taking: bool) {
        self.mailbox.set_taking(is_taking);
    }

    /// The answer has this many tokens now.
    pub(crate) fn progress(&self, tokens: u64) {
        self.dispatcher.report(Event::Progress { id: self.id, tokens });
    }

    /// The request is over, with this many tokens and this verdict on the node, which says in `usage` how long it worked
    /// on it. The slot is free when this returns.
    pub(crate) fn leave(&self, outcome: Outcome, tokens: Option<u64>, usage: Option<Usage>) {
        self.dispatcher.with(|core, now| {
            // Before it leaves: the scheduler learns only from requests that it knows.
            if let Some((time, writing)) = usage.and_then(|usage| Some((usage.work()?, usage.decode))) {
                core.handle(Event::Worked { id: self.id, time, writing }, now);
            }
            if let Some(tokens) = tokens {
                core.handle(Event::Progress { id: self.id, tokens }, now);
            }
            core.part(self.id, outcome, now);
        });
        self.has_left.store(true, Ordering::Relaxed);
    }
}

// A client that hangs up frees its place at once.
impl Drop for Ticket {
    fn drop(&mut self) {
        if !*self.has_left.get_mut() {
            self.dispatcher.with(|core, now| core.part(self.id, Outcome::Cancelled, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::dispatch::dispatcher::tests::{arrival, held};
    use scheduler::{Loaded, Model, NodeId, NodeSpec, QueueLimits};

    #[test]
    fn the_core_hears_once_that_a_request_is_over() {
        let held = held();
        let decided = held[0].clone();
        let spec = NodeSpec { name: "gpu".to_owned(), slots: Some(1), vram_bytes: None };
        let (dispatcher, _errands) = Dispatcher::new(QueueLimits::default(), vec![spec], Clock::start(), held);
        let (node, name) = (NodeId(0), "m:latest".to_owned());
        let model = Model {
            name: name.clone(),
            size_bytes: 1,
            digest: String::new(),
            modified_unix: 0,
            family: String::new(),
            weights: String::new(),
        };
        dispatcher.report(Event::Answered { node });
        dispatcher.report(Event::Listed { node, models: [model].into() });
        dispatcher.report(Event::Resident { node, loaded: vec![Loaded { name, vram_bytes: 1, context_length: None }] });
        let join = || dispatcher.join(Uuid::now_v7(), arrival(), Duration::from_secs(60));
        let live = || (dispatcher.read(scheduler::Scheduler::in_flight), dispatcher.peek(|core| core.tickets.len()));

        let ticket = join();
        assert_eq!(live(), (1, 1));
        ticket.leave(Outcome::Completed, Some(5), None);
        assert_eq!(live(), (0, 0));
        let before = decided.get_sample_count();
        drop(ticket);
        assert_eq!(decided.get_sample_count(), before, "it is over already");

        drop(join());
        assert_eq!(live(), (0, 0), "a client that hangs up frees its slot");
    }
}
