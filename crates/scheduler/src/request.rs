//! What is known of one request, what does it cost, and may it have another attempt?

use std::sync::Arc;

use crate::{
    breaker::Epoch,
    estimate::{PREFILL_RATIO, REFERENCE_BYTES},
    event::Arrival,
    explain::Alternative,
    failure::{Blame, Failure},
    ids::{NodeId, Route, Time},
    model::ModelId,
    prefix::Prefix,
    queue::{Charge, LaneId, LanePosition},
};

const MOST_ATTEMPTS: u32 = 3;
/// A request that has waited longer may evict a model that was loaded only recently.
const IMPATIENT: Time = Time::from_secs(30);
/// A request that takes nodes down must not visit all of them.
const MOST_COSTLY_FAILURES: u32 = 2;
/// At most this many attempts are excused, that is, not counted.
const MOST_EXCUSED: u32 = 8;
/// Retries of costly failures that are always allowed, however few requests are active.
const LEAST_RETRY_BUDGET: usize = 3;
/// One in this many active requests may be such a retry: 20 %.
const ACTIVE_PER_RETRY: usize = 5;
/// Added for nodes that have failed the request: they are used only if there is no other.
const LAST_RESORT_SECONDS: f64 = 1e9;
/// Costs are given in seconds of a node with this many tokens a second.
const COST_SPEED: f64 = 100.0;

/// What a request costs: the seconds a node of 100 tokens a second would work on it. It is the same wherever the
/// request runs, so nobody pays more for being given a slow node.
pub(crate) fn cost(prompt: f64, output: f64, model_bytes: f64) -> f64 {
    (prompt / PREFILL_RATIO + output) * (model_bytes / REFERENCE_BYTES) / COST_SPEED
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) user: Arc<str>,
    pub(crate) lane: LaneId,
    pub(crate) model: ModelId,
    /// In tokens.
    pub(crate) prompt: f64,
    /// The most tokens the answer may have.
    pub(crate) max_output: Option<f64>,
    /// Tokens of the answer, if known in advance.
    pub(crate) known_output: Option<f64>,
    /// Beginnings of its prompt that a node may have cached.
    pub(crate) prefixes: Arc<[Prefix]>,
    /// The last plan that looked at it.
    pub(crate) plan: u64,
    pub(crate) route: Route,
    pub(crate) is_stream: bool,
    pub(crate) arrived: Time,
    pub(crate) deadline: Time,
    pub(crate) arrival: u64,
    /// The running attempt; `None` while queued.
    pub(crate) attempt: Option<Attempt>,
    /// Attempts so far, including the running one.
    pub(crate) attempts: u32,
    /// A model was loaded for it.
    pub(crate) caused_load: bool,
    /// What it waits for, by the last plan that got as far as this request.
    pub(crate) waits_for: Option<Alternative>,
    costly_failures: u32,
    last_failure: Option<Failure>,
    avoided: Avoided,
    /// Attempts whose failure says nothing about the request.
    excused: u32,
    /// Failures that may be the request's fault or the node's.
    undecided: Vec<(NodeId, Epoch, Failure)>,
}

/// A node that failed the request, or should be avoided for another reason.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(crate) struct FailedOn {
    pub(crate) node: NodeId,
    /// It must not be tried again, even if no other node is left.
    pub(crate) is_barred: bool,
}

/// The nodes that a request should not go to, in the order of their ids.
#[derive(Clone, Debug, Default)]
pub(crate) struct Avoided(Vec<FailedOn>);

impl Avoided {
    fn find(&self, node: NodeId) -> Option<FailedOn> {
        let place = self.0.binary_search_by_key(&node, |failed_on| failed_on.node).ok()?;
        Some(self.0[place])
    }

    /// Seconds to add to a node's expected time; `None` if the request must not be sent there at all.
    pub(crate) fn penalty(&self, node: NodeId) -> Option<f64> {
        match self.find(node) {
            Some(failed_on) if failed_on.is_barred => None,
            Some(_) => Some(LAST_RESORT_SECONDS),
            None => Some(0.0),
        }
    }
}

/// A request on a node.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) node: NodeId,
    pub(crate) epoch: Epoch,
    pub(crate) has_first_byte: bool,
    /// Broken off after its first byte; the client is being told.
    pub(crate) is_abandoned: bool,
    /// What the user, and the group, were charged at dispatch.
    pub(crate) charged: Charge,
}

impl Request {
    pub(crate) fn new(arrival: Arrival, lane: LaneId, model: ModelId, number: u64, now: Time) -> Self {
        Self {
            user: arrival.user,
            lane,
            model,
            prompt: arrival.prompt_tokens as f64,
            max_output: arrival.max_output.map(|tokens| tokens as f64),
            known_output: arrival.known_output.map(|tokens| tokens as f64),
            prefixes: arrival.prefixes,
            plan: 0,
            route: arrival.route,
            is_stream: arrival.is_stream,
            arrived: now,
            deadline: arrival.deadline,
            arrival: number,
            attempt: None,
            attempts: 0,
            caused_load: false,
            waits_for: None,
            costly_failures: 0,
            last_failure: None,
            avoided: Avoided::default(),
            excused: 0,
            undecided: Vec::new(),
        }
    }

    pub(crate) fn position(&self) -> LanePosition {
        LanePosition { is_fresh: self.last_failure.is_none(), arrival: self.arrival }
    }

    pub(crate) fn is_impatient(&self, now: Time) -> bool {
        now.saturating_sub(self.arrived) > IMPATIENT
    }

    pub(crate) fn last_failure(&self) -> Option<Failure> {
        self.last_failure
    }

    /// Whether it counts against the retry budget.
    pub(crate) fn is_budgeted_retry(&self) -> bool {
        self.last_failure.is_some_and(Failure::is_budgeted)
    }

    pub(crate) fn avoided(&self) -> &Avoided {
        &self.avoided
    }

    /// Whether it may go to any node.
    pub(crate) fn avoids_no_node(&self) -> bool {
        self.avoided.0.is_empty()
    }

    /// Seconds to add to a node's expected time; `None` if the request must not be sent there at all.
    pub(crate) fn penalty(&self, node: NodeId) -> Option<f64> {
        self.avoided.penalty(node)
    }

    /// An attempt on `node` failed; `epoch` is that of its dispatch.
    pub(crate) fn failed(&mut self, node: NodeId, failure: Failure, epoch: Epoch) {
        self.last_failure = Some(failure);
        self.costly_failures += u32::from(failure.is_costly());
        self.excused += u32::from(failure.is_excused() && self.excused < MOST_EXCUSED);
        if failure.blame() == Blame::Undecided {
            self.undecided.push((node, epoch, failure));
        }
        self.avoid(node, !failure.allows_same_node());
    }

    /// A node answers it, so the nodes that failed it before are to blame; returns their failures.
    pub(crate) fn answered(&mut self) -> Vec<(NodeId, Epoch, Failure)> {
        std::mem::take(&mut self.undecided)
    }

    /// Prefers other nodes to `node`, or bars it altogether.
    pub(crate) fn avoid(&mut self, node: NodeId, is_barred: bool) {
        let Avoided(nodes) = &mut self.avoided;
        match nodes.binary_search_by_key(&node, |failed_on| failed_on.node) {
            Ok(place) => nodes[place].is_barred |= is_barred,
            Err(place) => nodes.insert(place, FailedOn { node, is_barred }),
        }
    }

    /// Whether it may be tried again, given that `costly_retries` of `active` requests are retries of costly failures.
    pub(crate) fn may_retry(&self, costly_retries: usize, active: usize) -> bool {
        let budget = LEAST_RETRY_BUDGET.max(active / ACTIVE_PER_RETRY);
        let is_budgeted = self.is_budgeted_retry();
        let is_affordable = !self.last_failure.is_some_and(Failure::is_costly)
            || (self.costly_failures < MOST_COSTLY_FAILURES && (!is_budgeted || costly_retries < budget));
        self.attempts - self.excused < MOST_ATTEMPTS && is_affordable
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{breaker::Breaker, ids::RequestId};

    fn failed(failures: &[Failure]) -> Request {
        let arrival = Arrival {
            id: RequestId(1),
            user: "u".into(),
            weight: 1.0,
            membership: None,
            model: "m".into(),
            prompt_tokens: 1,
            max_output: None,
            known_output: None,
            prefixes: Arc::default(),
            route: Default::default(),
            is_stream: true,
            deadline: Time::ZERO,
        };
        let mut request = Request::new(arrival, LaneId::default(), ModelId(0), 1, Time::ZERO);
        for (node, failure) in failures.iter().enumerate() {
            request.attempts += 1;
            request.failed(NodeId(node), *failure, Breaker::new().dispatched(RequestId(1)));
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
        for cheap in Failure::ALL.into_iter().filter(|failure| !failure.is_budgeted()) {
            assert!(failed(&[cheap]).may_retry(1000, 1000), "{cheap:?}");
        }
    }

    #[test]
    fn what_says_nothing_of_the_request_takes_none_of_its_attempts() {
        for excused in [Failure::Silent, Failure::Starved, Failure::Unsupported] {
            assert!(failed(&[excused; 8]).may_retry(1000, 1000), "{excused:?}");
            assert!(!failed(&[excused; 11]).may_retry(0, 1), "{excused:?}");
        }
    }

    #[test]
    fn only_failures_that_may_be_the_nodes_are_told_when_another_node_answers() {
        let mut request = failed(&[Failure::Busy, Failure::Crashed]);
        let undecided: Vec<(NodeId, Failure)> =
            request.answered().into_iter().map(|(node, _, it)| (node, it)).collect();
        assert_eq!(undecided, [(NodeId(1), Failure::Crashed)]);
        assert!(request.answered().is_empty());
    }

    #[test]
    fn a_node_once_barred_stays_barred() {
        let mut request = failed(&[Failure::Crashed]);
        request.failed(NodeId(0), Failure::Reset, Breaker::new().dispatched(RequestId(1)));
        assert!(request.penalty(NodeId(0)).is_none());
    }

    #[test]
    fn a_cost_is_the_work_and_not_where_it_is_done() {
        assert!((cost(2500.0, 100.0, 5e9) - 2.0).abs() < 1e-9);
        assert!((cost(0.0, 100.0, 20e9) - 4.0).abs() < 1e-9);
    }
}
