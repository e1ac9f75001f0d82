//! May this node be used, judged by its probes and by the requests it served?
//!
//! ```text
//! unseen --answered--> closed --failure(s)--> open until t
//!                        ^                      |      ^
//!                     success       answered after t   | any failure
//!                        |                      v      |
//!                        +------------------ half-open-+
//! ```
//! Verdicts carry the epoch of their dispatch. Every opening starts a new one,
//! so the requests that a dying node takes along count as one failure, and an
//! old stream that still ends well does not vouch for the node.
//!
//! | evidence | weighs |
//! |---|---|
//! | a failure that only the node can be the cause of; a probe that was not answered | 1 |
//! | a failure that may be the request's doing, of one user | 1 beside other evidence, and nothing alone |
//! | the same, of a second user with no success between | 1 more |
//! | such a failure of a request that another node then answered | 1; 2 if the node was stuck |
//!
//! Two open it, and one is enough on trial.

use std::{sync::Arc, time::Duration};

use crate::{
    accusations::Accusations,
    failure::Failure,
    health_log::BreakerPhase,
    ids::{RequestId, Time},
    report::{NodeState, Transitions},
};

const FAILURES_TO_OPEN: u32 = 2;
const LONGEST_OPEN_SECONDS: u64 = 30;
/// A node on trial that answers probes for so long, and that no request comes to, is used as before.
const UNTRIED: Duration = Duration::from_secs(10);

/// Counts the openings of a breaker.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(crate) struct Epoch(u64);

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    state: State,
    /// Consecutive ones. Only a request's success takes them back: a node that
    /// answers probes may still be unable to answer requests.
    request_failures: u32,
    /// Failures since the last success that may be the requests' doing.
    accusations: Accusations,
    /// The same for answers that broke off, since the last whole answer: a first byte says nothing about what comes after
    /// it.
    broken_streams: Accusations,
    /// Consecutive ones.
    probe_failures: u32,
    /// Since the last whole answer; each doubles the time the breaker stays open.
    openings: u32,
    epoch: Epoch,
    /// Never taken back.
    transitions: Transitions,
}

#[derive(Clone, Debug)]
enum State {
    Unseen,
    Closed,
    Open { until: Time },
    HalfOpen { trial: Option<RequestId>, since: Time },
}

impl Breaker {
    /// A node nobody has heard of yet.
    pub(crate) fn new() -> Self {
        Self {
            state: State::Unseen,
            request_failures: 0,
            accusations: Accusations::default(),
            broken_streams: Accusations::default(),
            probe_failures: 0,
            openings: 0,
            epoch: Epoch(0),
            transitions: Transitions::default(),
        }
    }

    /// Whether requests may be sent now or as soon as a trial has ended.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.state, State::Closed | State::HalfOpen { .. })
    }

    /// Whether a request may be sent now.
    pub(crate) fn admits(&self) -> bool {
        matches!(self.state, State::Closed | State::HalfOpen { trial: None, .. })
    }

    /// Whether nothing speaks against the node.
    pub(crate) fn is_faultless(&self) -> bool {
        self.state() == NodeState::Up
    }

    pub(crate) fn state(&self) -> NodeState {
        match self.state {
            State::Unseen | State::Open { .. } => NodeState::Down,
            State::HalfOpen { .. } => NodeState::Suspect,
            State::Closed if self.weight() > 0 || self.broken_streams.stand() => NodeState::Suspect,
            State::Closed => NodeState::Up,
        }
    }

    pub(crate) fn phase(&self) -> BreakerPhase {
        match self.state {
            State::Unseen => BreakerPhase::Unseen,
            State::Closed => BreakerPhase::Closed,
            State::Open { .. } => BreakerPhase::Open,
            State::HalfOpen { .. } => BreakerPhase::HalfOpen,
        }
    }

    pub(crate) fn transitions(&self) -> Transitions {
        self.transitions
    }

    /// When a probe may bring the node back, if it is out.
    pub(crate) fn reopens_at(&self) -> Option<Time> {
        match self.state {
            State::Open { until } => Some(until),
            _ => None,
        }
    }

    /// A request is sent; its verdict is to come with the epoch returned.
    pub(crate) fn dispatched(&mut self, id: RequestId) -> Epoch {
        if let State::HalfOpen { trial, .. } = &mut self.state {
            *trial = Some(id);
        }
        self.epoch
    }

    /// A request ended; if it was the trial, another may go.
    pub(crate) fn released(&mut self, id: RequestId) {
        if let State::HalfOpen { trial, .. } = &mut self.state
            && *trial == Some(id)
        {
            *trial = None;
        }
    }

    /// The node began to answer a request.
    pub(crate) fn started(&mut self, epoch: Epoch) {
        if epoch == self.epoch && self.is_live() {
            self.transitions.closed += u64::from(matches!(self.state, State::HalfOpen { .. }));
            self.state = State::Closed;
            self.forget_failures();
        }
    }

    /// The node answered a request in full.
    pub(crate) fn succeeded(&mut self, epoch: Epoch) {
        if epoch == self.epoch && self.is_live() {
            self.started(epoch);
            self.broken_streams.clear();
            self.openings = 0;
        }
    }

    /// The node failed a request by its own fault.
    pub(crate) fn failed(&mut self, epoch: Epoch, now: Time) {
        if epoch == self.epoch {
            self.request_failures += 1;
            self.open_if_due(now);
        }
    }

    /// A request of `user` failed, perhaps by its own fault.
    pub(crate) fn accused(&mut self, user: &Arc<str>, epoch: Epoch, now: Time) {
        if epoch == self.epoch {
            self.request_failures += u32::from(self.accusations.add(user, now));
            self.open_if_due(now);
        }
    }

    /// A request of `user` failed that the node had begun to answer, perhaps by its own fault.
    pub(crate) fn broke_off(&mut self, user: &Arc<str>, epoch: Epoch, now: Time) {
        if epoch != self.epoch {
            return;
        }
        if self.broken_streams.add(user, now) {
            self.take_out(now);
        } else {
            self.accused(user, epoch, now);
        }
    }

    /// Another node answered a request that had failed here: it was not the request's fault.
    pub(crate) fn convicted(&mut self, failure: Failure, epoch: Epoch, now: Time) {
        if epoch == self.epoch {
            self.accusations.withdraw_one();
            self.request_failures += if failure == Failure::Stuck { FAILURES_TO_OPEN } else { 1 };
            self.open_if_due(now);
        }
    }

    /// Whether there is a user whose requests may have to go elsewhere.
    pub(crate) fn is_accused(&self) -> bool {
        self.accusations.stand() || self.broken_streams.stand()
    }

    /// Whether requests of `user` are to go elsewhere if they can.
    pub(crate) fn is_avoided_by(&self, user: &str, now: Time) -> bool {
        self.accusations.make_avoid(user, now) || self.broken_streams.make_avoid(user, now)
    }

    /// The node could not be reached at all.
    pub(crate) fn unreachable(&mut self, epoch: Epoch, now: Time) {
        if epoch == self.epoch {
            self.take_out(now);
            self.was_away();
        }
    }

    /// It is known to be of no use, whatever its probes say.
    pub(crate) fn take_out(&mut self, now: Time) {
        if self.is_live() {
            self.open(now);
        }
    }

    /// A probe was answered.
    pub(crate) fn answered(&mut self, now: Time) {
        self.probe_failures = 0;
        match self.state {
            State::Unseen => self.state = State::Closed,
            State::Open { until } if until <= now => {
                self.transitions.half_open += 1;
                self.state = State::HalfOpen { trial: None, since: now };
            }
            // Nobody needs it: it is as good as its probes say.
            State::HalfOpen { trial: None, since } if since + UNTRIED <= now => {
                self.transitions.closed += 1;
                self.state = State::Closed;
            }
            _ => {}
        }
    }

    /// A probe was not answered.
    pub(crate) fn silent(&mut self, now: Time) {
        if self.is_live() {
            self.probe_failures += 1;
            self.open_if_due(now);
            if !self.is_live() {
                self.was_away();
            }
        }
    }

    /// Its absence explains the answers that broke off: they say nothing of how it works once it is back.
    fn was_away(&mut self) {
        self.broken_streams.clear();
    }

    fn weight(&self) -> u32 {
        self.request_failures + self.probe_failures + u32::from(self.accusations.stand())
    }

    fn forget_failures(&mut self) {
        self.request_failures = 0;
        self.probe_failures = 0;
        self.accusations.clear();
    }

    fn open_if_due(&mut self, now: Time) {
        let is_due = match self.state {
            State::Unseen | State::Open { .. } => false,
            State::HalfOpen { .. } => self.request_failures + self.probe_failures > 0,
            State::Closed => self.weight() >= FAILURES_TO_OPEN,
        };
        if is_due {
            self.open(now);
        }
    }

    fn open(&mut self, now: Time) {
        let seconds = (1 << self.openings.min(5)).min(LONGEST_OPEN_SECONDS);
        self.state = State::Open { until: now + Duration::from_secs(seconds) };
        self.forget_failures();
        self.openings = self.openings.saturating_add(1);
        self.transitions.open += 1;
        self.epoch.0 += 1;
    }
}

#[cfg(test)]
mod tests;
