//! How does an attempt or a request end, and what does that say of the node?

use std::time::Duration;

use super::{
    Change, Scheduler,
    event::{Decision, Failure, NodeId, Outcome, Refusal, RefusalReason, RequestId, Time},
    name::Name,
    node::Node,
    request::{Attempt, Request},
};

/// Advised while no node has the model and none is about to come back.
const NO_NODE_RETRY_AFTER: Duration = Duration::from_secs(5);
const SHORTEST_RETRY_AFTER: Duration = Duration::from_secs(1);

impl Scheduler {
    pub(super) fn first_byte(&mut self, id: RequestId) -> Change {
        let running = self.requests.get_mut(&id).and_then(|request| request.attempt.as_mut());
        let Some(attempt) = running else {
            return Change::Nothing;
        };
        attempt.has_first_byte = true;
        let (node, listed, epoch) = (attempt.node, attempt.listed.clone(), attempt.epoch);
        self.judge(node, |node| node.started(&listed, epoch))
    }

    pub(super) fn fail(&mut self, id: RequestId, failure: Failure, now: Time, decisions: &mut Vec<Decision>) -> Change {
        let active = self.requests.len();
        let Some(request) = self.requests.get_mut(&id) else {
            return Change::Nothing;
        };
        let Some(attempt) = request.attempt.take() else {
            return Change::Nothing;
        };
        // 5.
        if request.is_costly_retry() {
            self.costly_retries -= 1;
        }
        request.failed(attempt.node, failure);
        let may_retry = !attempt.has_first_byte && request.may_retry(self.costly_retries, active);
        let change = self.end_attempt(id, &attempt, Outcome::Failed(failure), now);
        let Some(request) = self.requests.get(&id) else {
            return change;
        };
        if may_retry {
            // 6.
            self.costly_retries += usize::from(request.is_costly_retry());
            self.queue.push(request.entry(id));
        } else if let Some(request) = self.requests.remove(&id) {
            // 7.
            let reason = RefusalReason::Exhausted { last: failure };
            decisions.push(self.refusal(id, &request, reason, now));
        }
        change
    }

    pub(super) fn leave(&mut self, id: RequestId, outcome: Outcome, now: Time) -> Change {
        let Some(mut request) = self.forget(id) else {
            return Change::Nothing;
        };
        match request.attempt.take() {
            Some(attempt) => self.end_attempt(id, &attempt, outcome, now),
            None => Change::Nothing,
        }
    }

    /// Gives the slot back and lets the outcome speak for or against the node.
    fn end_attempt(&mut self, id: RequestId, attempt: &Attempt, outcome: Outcome, now: Time) -> Change {
        self.drain.ended(self.queue.len() > 0, now);
        let (listed, epoch) = (&attempt.listed, attempt.epoch);
        let change = self.judge(attempt.node, |node| {
            node.vacate(id, listed);
            match outcome {
                Outcome::Completed => node.completed(listed, epoch),
                Outcome::Cancelled => {}
                Outcome::Failed(failure) if attempt.has_first_byte => node.broke_off(failure, epoch, now),
                Outcome::Failed(failure) => node.failed(listed, failure, epoch, now),
            }
        });
        match change {
            Change::Nothing => Change::Slot(listed.clone()),
            change => change,
        }
    }

    /// Does something to a node that may change whether it takes requests.
    pub(super) fn judge(&mut self, node: NodeId, verdict: impl FnOnce(&mut Node)) -> Change {
        let Some(node) = self.nodes.get_mut(node.0) else {
            return Change::Nothing;
        };
        let before = node.standing();
        verdict(node);
        if node.standing() == before { Change::Nothing } else { Change::Fleet }
    }

    pub(super) fn tick(&mut self, now: Time, decisions: &mut Vec<Decision>) -> Change {
        for id in self.queue.overdue(now) {
            self.refuse_queued(id, RefusalReason::DeadlinePassed, now, decisions);
        }
        self.nodes.iter_mut().for_each(|node| node.end_back_off(now));
        Change::Fleet
    }

    pub(super) fn refuse_without_node(&mut self, id: RequestId, now: Time, decisions: &mut Vec<Decision>) {
        let last_failure = self.requests.get(&id).and_then(Request::last_failure);
        let reason = match last_failure {
            Some(last) if !last.allows_same_node() => RefusalReason::Exhausted { last },
            _ => RefusalReason::NoNode,
        };
        self.refuse_queued(id, reason, now, decisions);
    }

    fn refuse_queued(&mut self, id: RequestId, reason: RefusalReason, now: Time, decisions: &mut Vec<Decision>) {
        if let Some(request) = self.forget(id) {
            decisions.push(self.refusal(id, &request, reason, now));
        }
    }

    /// Ends a request; its slot, if it has one, is left to the caller.
    fn forget(&mut self, id: RequestId) -> Option<Request> {
        let request = self.requests.remove(&id)?;
        self.costly_retries -= usize::from(request.is_costly_retry());
        if request.attempt.is_none() {
            self.queue.remove(&request.entry(id));
        }
        Some(request)
    }

    pub(super) fn refusal(&self, id: RequestId, request: &Request, reason: RefusalReason, now: Time) -> Decision {
        let retry_after = match reason {
            RefusalReason::NoNode => self.returns_in(&request.model, now),
            _ => self.drain.retry_after(self.queue.len(), self.settings.max_queued, now),
        };
        let refusal = Refusal { reason, retry_after };
        Decision::Refuse { id, refusal }
    }

    /// When a node that has the model may be back.
    fn returns_in(&self, model: &str, now: Time) -> Duration {
        let name = Name::new(model);
        let having = self.nodes.iter().filter(|node| node.find(&name).is_some());
        let returns_at = having.filter_map(Node::reopens_at).min();
        returns_at.map_or(NO_NODE_RETRY_AFTER, |time| time.saturating_sub(now).max(SHORTEST_RETRY_AFTER))
    }
}
