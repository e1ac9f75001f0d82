//! What is known of one request, and whether it may have another attempt.

use std::sync::Arc;

use super::{
    breaker::Epoch,
    event::{Failure, NodeId, RequestId, Time},
    queue::{Class, Entry, FailedOn, Position},
};

const MOST_ATTEMPTS: u32 = 3;
/// A request that brings nodes down must not visit them all.
const MOST_COSTLY_FAILURES: u32 = 2;
/// Retries of costly failures that are allowed however little goes on.
const LEAST_RETRY_BUDGET: usize = 3;
/// One active request in this many may be such a retry: 20 %.
const ACTIVE_PER_RETRY: usize = 5;

/// See the module.
pub(super) struct Request {
    pub(super) user: Arc<str>,
    pub(super) model: Arc<str>,
    deadline: Time,
    arrival: u64,
    /// The running attempt; `None` while queued.
    pub(super) attempt: Option<Attempt>,
    /// Counts the running one.
    attempts: u32,
    costly_failures: u32,
    last_failure: Option<Failure>,
    failed_on: Vec<FailedOn>,
}

/// A request on a node.
pub(super) struct Attempt {
    pub(super) node: NodeId,
    pub(super) listed: Arc<str>,
    pub(super) epoch: Epoch,
    pub(super) has_first_byte: bool,
}

impl Request {
    pub(super) fn new(user: Arc<str>, model: Arc<str>, deadline: Time, arrival: u64) -> Self {
        Self {
            user,
            model,
            deadline,
            arrival,
            attempt: None,
            attempts: 0,
            costly_failures: 0,
            last_failure: None,
            failed_on: Vec::new(),
        }
    }

    pub(super) fn deadline(&self) -> Time {
        self.deadline
    }

    pub(super) fn class(&self) -> Class {
        Class { model: self.model.clone(), failed_on: self.failed_on.clone() }
    }

    pub(super) fn entry(&self, id: RequestId) -> Entry {
        Entry {
            id,
            user: self.user.clone(),
            class: self.class(),
            position: Position { is_fresh: self.last_failure.is_none(), arrival: self.arrival },
            deadline: self.deadline,
        }
    }

    /// Starts an attempt and returns its number.
    pub(super) fn start(&mut self, attempt: Attempt) -> u32 {
        self.attempt = Some(attempt);
        self.attempts += 1;
        self.attempts
    }

    pub(super) fn last_failure(&self) -> Option<Failure> {
        self.last_failure
    }

    /// Whether it weighs on the retry budget.
    pub(super) fn is_costly_retry(&self) -> bool {
        self.last_failure.is_some_and(Failure::is_costly)
    }

    /// An attempt on `node` failed.
    pub(super) fn failed(&mut self, node: NodeId, failure: Failure) {
        self.last_failure = Some(failure);
        self.costly_failures += u32::from(failure.is_costly());
        let is_barred = !failure.allows_same_node();
        match self.failed_on.binary_search_by_key(&node, |failed_on| failed_on.node) {
            Ok(index) => self.failed_on[index].is_barred |= is_barred,
            Err(index) => self.failed_on.insert(index, FailedOn { node, is_barred }),
        }
    }

    /// Whether it may be tried again, when `costly_retries` others of `active`
    /// requests are retries of costly failures.
    pub(super) fn may_retry(&self, costly_retries: usize, active: usize) -> bool {
        let budget = LEAST_RETRY_BUDGET.max(active / ACTIVE_PER_RETRY);
        let is_affordable =
            !self.is_costly_retry() || (self.costly_failures < MOST_COSTLY_FAILURES && costly_retries < budget);
        self.attempts < MOST_ATTEMPTS && is_affordable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(failures: &[Failure]) -> Request {
        let mut request = Request::new("u".into(), "m".into(), Time::ZERO, 1);
        for (node, failure) in failures.iter().enumerate() {
            request.attempts += 1;
            request.failed(NodeId(node), *failure);
        }
        request
    }

    #[test]
    fn three_attempts_are_the_most() {
        assert!(failed(&[Failure::Reset, Failure::Unreachable]).may_retry(0, 1));
        assert!(!failed(&[Failure::Reset, Failure::Busy, Failure::Missing]).may_retry(0, 1));
    }

    #[test]
    fn a_poisonous_request_reaches_at_most_two_nodes() {
        assert!(failed(&[Failure::Reset, Failure::Crashed]).may_retry(0, 1));
        assert!(!failed(&[Failure::Crashed, Failure::TimedOut]).may_retry(0, 1));
    }

    #[test]
    fn costly_retries_stay_within_a_fifth_of_the_active_requests_or_three() {
        for costly in [Failure::Crashed, Failure::TimedOut, Failure::Garbled] {
            assert!(failed(&[costly]).may_retry(2, 10));
            assert!(!failed(&[costly]).may_retry(3, 19));
            assert!(failed(&[costly]).may_retry(3, 20));
            assert!(!failed(&[costly]).may_retry(4, 20));
        }
    }

    #[test]
    fn cheap_failures_need_no_budget() {
        for cheap in [Failure::Unreachable, Failure::Reset, Failure::Busy, Failure::Missing, Failure::Denied] {
            assert!(failed(&[cheap]).may_retry(1000, 1000));
        }
    }

    #[test]
    fn a_node_once_barred_stays_barred() {
        let mut request = failed(&[Failure::Crashed]);
        request.failed(NodeId(0), Failure::Reset);
        assert!(request.class().failed_on[0].is_barred);
    }
}
