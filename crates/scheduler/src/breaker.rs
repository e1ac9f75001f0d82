//! May this node be used, judging by its probes and by the requests it served?
//!
//! ```text
//! unseen --answered--> closed --failure(s)--> open until t
//!                        ^                      |      ^
//!                     success       answered after t   | any failure
//!                        |                      v      |
//!                        +------------------ half-open-+
//! ```
//! A verdict carries the epoch of its dispatch, and every opening starts a new epoch. So all the requests that a dying
//! node takes down count as one failure, and an old stream that still ends well does not vouch for the node.
//!
//! | evidence | weight |
//! |---|---|
//! | a failure that only the node can have caused; an unanswered probe | 1 |
//! | a failure of one user that the request may have caused | 1 beside other evidence, 0 alone |
//! | such a failure of a second user with another prompt, with no success in between | 1 more |
//! | the same of a user whose requests fail on other nodes as well | 0; 1 more from the fourth such user on |
//! | the same of a stranger: a user who was not answered lately, or was wrong about a node | 0 |
//! | such a failure of a request that another node then answered | 1; 2 if the node was stuck |
//!
//! A weight of two opens the breaker; on trial, one is enough.
//!
//! A node that went out because it produced nothing is first tried by a canary, a request of the gateway's own. No other
//! request is sent there until the canary has ended.

use std::time::Duration;

use crate::{
    accusations::{Accusation, Accusations},
    failure::{CanaryVerdict, Failure},
    health_log::BreakerPhase,
    ids::{RequestId, Time},
    report::{NodeState, Transitions},
};

const FAILURES_TO_OPEN: u32 = 2;
const LONGEST_OPEN_SECONDS: u64 = 30;
/// If no request comes to try a node on trial, it is back in use after answering probes for this long.
const UNTRIED: Duration = Duration::from_secs(10);
/// A canary that has not been reported by then never will be.
const LOST: Duration = Duration::from_secs(30);

/// Counts how often a breaker has opened.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(crate) struct Epoch(u64);

#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    state: Circuit,
    /// Consecutive failures. Only a successful request resets them: a node that answers probes may still be unable to
    /// answer requests.
    request_failures: u32,
    /// Failures since the last success that the requests may have caused themselves.
    accusations: Accusations,
    /// Answers that broke off since the last complete answer. Counted separately from `accusations`, because a first
    /// byte says nothing about what comes after it.
    broken_streams: Accusations,
    /// Consecutive failed probes.
    probe_failures: u32,
    was_out_by_word: bool,
    /// It went out because it produced nothing, and has produced nothing since.
    is_mute: bool,
    /// Openings since the last complete answer; each one doubles the time the breaker stays open.
    openings: u32,
    epoch: Epoch,
    /// Totals since the start; never reset.
    transitions: Transitions,
}

#[derive(Clone, Debug)]
enum Circuit {
    Unseen,
    Closed,
    Open { until: Time },
    HalfOpen { trial: Option<Trial>, since: Time },
}

/// What shows whether a node works.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
enum Trial {
    Request(RequestId),
    Canary,
}

impl Breaker {
    /// The breaker of a node that has not been heard from yet.
    pub(crate) fn new() -> Self {
        Self {
            state: Circuit::Unseen,
            request_failures: 0,
            accusations: Accusations::default(),
            broken_streams: Accusations::default(),
            probe_failures: 0,
            was_out_by_word: false,
            is_mute: false,
            openings: 0,
            epoch: Epoch(0),
            transitions: Transitions::default(),
        }
    }

    /// Whether requests may be sent, either now or as soon as the trial has ended.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.state, Circuit::Closed | Circuit::HalfOpen { .. })
    }

    /// Whether a request may be sent now.
    pub(crate) fn admits(&self) -> bool {
        matches!(self.state, Circuit::Closed | Circuit::HalfOpen { trial: None, .. })
    }

    /// Whether there is no evidence against the node.
    pub(crate) fn is_faultless(&self) -> bool {
        self.state() == NodeState::Up
    }

    pub(crate) fn state(&self) -> NodeState {
        match self.state {
            Circuit::Unseen | Circuit::Open { .. } => NodeState::Down,
            Circuit::HalfOpen { .. } => NodeState::Suspect,
            Circuit::Closed if self.weight() > 0 || self.is_accused() => NodeState::Suspect,
            Circuit::Closed => NodeState::Up,
        }
    }

    pub(crate) fn phase(&self) -> BreakerPhase {
        match self.state {
            Circuit::Unseen => BreakerPhase::Unseen,
            Circuit::Closed => BreakerPhase::Closed,
            Circuit::Open { .. } => BreakerPhase::Open,
            Circuit::HalfOpen { .. } => BreakerPhase::HalfOpen,
        }
    }

    pub(crate) fn transitions(&self) -> Transitions {
        self.transitions
    }

    /// If the node is out: from when on an answered probe may bring it back.
    pub(crate) fn reopens_at(&self) -> Option<Time> {
        match self.state {
            Circuit::Open { until } => Some(until),
            _ => None,
        }
    }

    /// Whether users took the node out, with failures that may have been their own, since its last complete answer.
    pub(crate) fn was_out_by_word(&self) -> bool {
        self.was_out_by_word
    }

    /// A request is sent. Whoever reports its verdict passes the returned epoch.
    pub(crate) fn dispatched(&mut self, id: RequestId) -> Epoch {
        if let Circuit::HalfOpen { trial, .. } = &mut self.state {
            *trial = Some(Trial::Request(id));
        }
        self.epoch
    }

    /// A request ended. If it was the trial, another request may be tried.
    pub(crate) fn released(&mut self, id: RequestId) {
        if let Circuit::HalfOpen { trial, .. } = &mut self.state
            && *trial == Some(Trial::Request(id))
        {
            *trial = None;
        }
    }

    /// The node began to answer a request.
    pub(crate) fn started(&mut self, epoch: Epoch) {
        if epoch == self.epoch && self.is_live() {
            self.transitions.closed += u64::from(matches!(self.state, Circuit::HalfOpen { .. }));
            self.state = Circuit::Closed;
            self.is_mute = false;
            self.forget_failures();
        }
    }

    /// The node answered a request in full.
    pub(crate) fn succeeded(&mut self, epoch: Epoch) {
        if epoch == self.epoch && self.is_live() {
            self.started(epoch);
            self.broken_streams.clear();
            self.was_out_by_word = false;
            self.openings = 0;
        }
    }

    /// The node failed a request, and the fault is the node's.
    pub(crate) fn failed(&mut self, epoch: Epoch, now: Time) {
        if epoch == self.epoch {
            self.request_failures += 1;
            self.open_if_due(now);
        }
    }

    /// A request failed; the fault may be the request's.
    pub(crate) fn accused(&mut self, accusation: Accusation<'_>, epoch: Epoch, now: Time) {
        if epoch == self.epoch {
            if self.accusations.add(accusation, now) {
                self.request_failures += FAILURES_TO_OPEN;
                self.was_out_by_word = true;
            }
            self.open_if_due(now);
        }
    }

    /// A request failed after the node had begun to answer; the fault may be the request's.
    pub(crate) fn broke_off(&mut self, accusation: Accusation<'_>, epoch: Epoch, now: Time) {
        if epoch != self.epoch {
            return;
        }
        if self.broken_streams.add(accusation, now) {
            self.was_out_by_word = true;
            self.take_out(now);
        } else {
            self.accused(accusation, epoch, now);
        }
    }

    /// The requests of `user` fail on other nodes as well.
    pub(crate) fn doubt(&mut self, user: &str) {
        self.accusations.doubt(user);
        self.broken_streams.doubt(user);
    }

    /// Another node answered a request of `user` that had failed here, so the request was not at fault.
    pub(crate) fn convicted(&mut self, user: &str, failure: Failure, epoch: Epoch, now: Time) {
        if epoch == self.epoch {
            self.accusations.withdraw_one(user);
            let is_stuck = failure == Failure::Stuck;
            self.request_failures += if is_stuck { FAILURES_TO_OPEN } else { 1 };
            self.is_mute |= is_stuck;
            self.open_if_due(now);
        }
    }

    /// Whether any user's requests may have to avoid this node.
    pub(crate) fn is_accused(&self) -> bool {
        self.accusations.stand() || self.broken_streams.stand()
    }

    /// Whether requests of `user` should go to another node if they can.
    pub(crate) fn is_avoided_by(&self, user: &str, is_stranger: bool, now: Time) -> bool {
        let make_avoid = |accusations: &Accusations| accusations.make_avoid(user, is_stranger, now);
        make_avoid(&self.accusations) || make_avoid(&self.broken_streams)
    }

    /// The node could not be reached.
    pub(crate) fn unreachable(&mut self, epoch: Epoch, now: Time) {
        if epoch == self.epoch {
            self.take_out(now);
            self.was_away();
        }
    }

    /// Takes the node out at once, whatever its probes say.
    pub(crate) fn take_out(&mut self, now: Time) {
        if self.is_live() {
            self.open(now);
        }
    }

    /// The node produces nothing.
    pub(crate) fn fell_silent(&mut self, now: Time) {
        if self.is_live() {
            self.is_mute = true;
        }
        self.take_out(now);
    }

    /// Whether a canary should try the node.
    pub(crate) fn is_canary_due(&self, now: Time) -> bool {
        self.is_mute && self.reopens_at().is_some_and(|until| until <= now)
    }

    /// Puts the node on trial by a canary, which lasts until [`Self::canary_ended`].
    pub(crate) fn begin_canary(&mut self, now: Time) {
        if self.is_canary_due(now) {
            self.transitions.half_open += 1;
            self.state = Circuit::HalfOpen { trial: Some(Trial::Canary), since: now };
        }
    }

    /// A canary ended. If the breaker has opened since it began, it says nothing. An answer of one token does not shorten
    /// the time that the node is out when it fails again; a complete answer to a user does.
    pub(crate) fn canary_ended(&mut self, verdict: CanaryVerdict, now: Time) {
        let Circuit::HalfOpen { trial: trial @ Some(Trial::Canary), .. } = &mut self.state else { return };
        match verdict {
            CanaryVerdict::Answered => self.started(self.epoch),
            CanaryVerdict::Failed => self.open(now),
            CanaryVerdict::Inconclusive => *trial = None,
        }
    }

    /// A probe was answered.
    pub(crate) fn answered(&mut self, now: Time) {
        self.probe_failures = 0;
        match self.state {
            Circuit::Unseen => self.state = Circuit::Closed,
            Circuit::Open { until } if until <= now => {
                self.transitions.half_open += 1;
                self.state = Circuit::HalfOpen { trial: None, since: now };
            }
            // No request came to try it, so its probes decide.
            Circuit::HalfOpen { trial: None, since } if since + UNTRIED <= now => {
                self.transitions.closed += 1;
                self.state = Circuit::Closed;
            }
            Circuit::HalfOpen { trial: Some(Trial::Canary), since } if since + LOST <= now => {
                self.state = Circuit::HalfOpen { trial: None, since };
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

    /// The node was away, which explains the answers that broke off. They say nothing about how well it works once it
    /// is back.
    fn was_away(&mut self) {
        self.was_out_by_word = false;
        self.broken_streams.clear();
    }

    fn weight(&self) -> u32 {
        self.request_failures + self.probe_failures + u32::from(self.accusations.weigh())
    }

    fn forget_failures(&mut self) {
        self.request_failures = 0;
        self.probe_failures = 0;
        self.accusations.clear();
    }

    fn open_if_due(&mut self, now: Time) {
        let is_due = match self.state {
            Circuit::Unseen | Circuit::Open { .. } => false,
            Circuit::HalfOpen { .. } => self.request_failures + self.probe_failures > 0,
            Circuit::Closed => self.weight() >= FAILURES_TO_OPEN,
        };
        if is_due {
            self.open(now);
        }
    }

    fn open(&mut self, now: Time) {
        let seconds = (1 << self.openings.min(5)).min(LONGEST_OPEN_SECONDS);
        self.state = Circuit::Open { until: now + Duration::from_secs(seconds) };
        self.forget_failures();
        self.openings = self.openings.saturating_add(1);
        self.transitions.open += 1;
        self.epoch.0 += 1;
    }
}

#[cfg(test)]
mod tests;
