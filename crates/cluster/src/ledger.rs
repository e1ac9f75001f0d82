//! Which live requests does a gateway carry, and on which nodes are they? From this it reports to a new leader, or goes
//! on by itself without one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use scheduler::{Adopted, Arrival, Event, Failure, Ongoing, Refusal, RefusalReason, RequestId, Scheduler, Time};

use crate::frame::{Foreseen, Reported, ReportedAttempt, Travelling};

/// An attempt on a node.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) node: Arc<str>,
    pub(crate) sent_at: Time,
    /// When it should be over.
    pub(crate) until: Time,
    pub(crate) began_at: Option<Time>,
    pub(crate) tokens: u64,
    /// The leader was asked whether the client may have the first byte, and has not answered.
    pub(crate) is_asked: bool,
    /// What the leader foresaw when it granted the slot; `None` if this gateway decided itself.
    pub(crate) foreseen: Option<Foreseen>,
}

/// A live request.
#[derive(Clone, Debug)]
pub(crate) struct Carried {
    pub(crate) arrival: Arrival,
    pub(crate) arrived: Time,
    pub(crate) attempts: u32,
    /// The running attempt; `None` while it waits.
    pub(crate) sent: Option<Sent>,
}

/// All live requests of this gateway's clients.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    carried: BTreeMap<RequestId, Carried>,
}

impl Ledger {
    pub(crate) fn ids(&self) -> Vec<RequestId> {
        self.carried.keys().copied().collect()
    }

    pub(crate) fn get(&self, id: RequestId) -> Option<&Carried> {
        self.carried.get(&id)
    }

    /// Whether this attempt of the request is on a node.
    pub(crate) fn runs(&self, id: RequestId, attempt: u32) -> bool {
        self.get(id).is_some_and(|carried| carried.sent.is_some() && carried.attempts == attempt)
    }

    pub(crate) fn sent_mut(&mut self, id: RequestId) -> Option<&mut Sent> {
        self.carried.get_mut(&id)?.sent.as_mut()
    }

    /// Records what a request of this gateway's own does.
    pub(crate) fn note(&mut self, event: &Event, now: Time) {
        match event {
            Event::Arrived(arrival) => {
                let carried = Carried { arrival: arrival.clone(), arrived: now, attempts: 0, sent: None };
                self.carried.entry(arrival.id).or_insert(carried);
            }
            Event::FirstByte { id } => {
                if let Some(sent) = self.sent_mut(*id) {
                    sent.began_at = Some(now);
                }
            }
            Event::Progress { id, tokens } => {
                if let Some(sent) = self.sent_mut(*id) {
                    sent.tokens = *tokens;
                }
            }
            Event::Failed { id, .. } => self.wait(*id),
            Event::Left { id, .. } => self.end(*id),
            _ => {}
        }
    }

    /// A request was sent to a node, where it should be over at `until`.
    pub(crate) fn send(&mut self, id: RequestId, node: Arc<str>, attempt: u32, now: Time, until: Time) {
        if let Some(carried) = self.carried.get_mut(&id) {
            carried.attempts = attempt;
            carried.sent =
                Some(Sent { node, sent_at: now, until, began_at: None, tokens: 0, is_asked: false, foreseen: None });
        }
    }

    /// What the leader foresaw for this attempt.
    pub(crate) fn foresee(&mut self, id: RequestId, attempt: u32, foreseen: Foreseen) {
        if self.runs(id, attempt)
            && let Some(sent) = self.sent_mut(id)
        {
            sent.foreseen = Some(foreseen);
        }
    }

    /// A request has left its node and waits again.
    pub(crate) fn wait(&mut self, id: RequestId) {
        if let Some(carried) = self.carried.get_mut(&id) {
            carried.sent = None;
        }
    }

    pub(crate) fn end(&mut self, id: RequestId) {
        self.carried.remove(&id);
    }

    /// Answers for the leader, where it was asked whether a client may have the first byte: the attempt goes on, or is
    /// given up. Returns these attempts.
    pub(crate) fn answer_asked(&mut self, goes_on: bool, now: Time) -> Vec<(RequestId, u32)> {
        let mut asked = Vec::new();
        for (id, carried) in &mut self.carried {
            let Some(sent) = carried.sent.as_mut().filter(|sent| sent.is_asked) else { continue };
            (sent.is_asked, sent.began_at) = (false, Some(now));
            if !goes_on {
                carried.sent = None;
            }
            asked.push((*id, carried.attempts));
        }
        asked
    }

    /// When the last of what runs should be over; `None` if nothing runs.
    pub(crate) fn busy_until(&self) -> Option<Time> {
        self.carried.values().filter_map(|carried| Some(carried.sent.as_ref()?.until)).max()
    }

    /// Everything, for a leader; the oldest first, so that the queue keeps the order of arrival.
    pub(crate) fn report(&self, now: Time) -> Vec<Reported> {
        let ago = |at: Time| now.saturating_sub(at);
        let report = |carried: &Carried| Reported {
            request: Travelling::from(&carried.arrival),
            waited: ago(carried.arrived),
            patience: carried.arrival.deadline.saturating_sub(now),
            attempts: carried.attempts,
            attempt: carried.sent.as_ref().map(|sent| ReportedAttempt {
                node: sent.node.to_string(),
                sent_ago: ago(sent.sent_at),
                began_ago: sent.began_at.map(ago),
                tokens: sent.tokens,
            }),
        };
        let mut reported: Vec<Reported> = self.carried.values().map(report).collect();
        reported.sort_by_key(|reported| std::cmp::Reverse(reported.waited));
        reported
    }
}

/// A reported request as a scheduler takes it over. `None` if it runs on a node that is unknown here, where it needs no
/// slot.
pub(crate) fn adopted(reported: Reported, scheduler: &Scheduler, now: Time) -> Option<Adopted> {
    let Reported { request, waited, patience, attempts, attempt } = reported;
    let ongoing = match attempt {
        Some(ReportedAttempt { node, sent_ago, began_ago, tokens }) => {
            Some(Ongoing { node: scheduler.find_node(&node)?, sent_ago, began_ago, tokens })
        }
        None => None,
    };
    Some(Adopted { arrival: request.arrival(now + patience), waited, attempts, ongoing })
}

/// The answer to a request that failed where nobody knows it any more.
pub(crate) fn exhausted(last: Failure) -> Refusal {
    Refusal { reason: RefusalReason::Exhausted { last }, retry_after: Duration::from_secs(1) }
}

/// Whether an event is about a request of a client.
pub(crate) fn is_of_a_request(event: &Event) -> bool {
    matches!(
        event,
        Event::Arrived(_)
            | Event::FirstByte { .. }
            | Event::Progress { .. }
            | Event::Worked { .. }
            | Event::Stalled { .. }
            | Event::Failed { .. }
            | Event::Left { .. }
    )
}
