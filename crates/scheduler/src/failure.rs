//! How can an attempt or a request end, and who is to blame for a failed attempt?

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why an attempt failed.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The connection was refused or not established in time. Takes the node out at once.
    Unreachable,
    /// The connection closed before the answer was complete: before its head (perhaps a stale pooled connection), or
    /// within it.
    Reset,
    /// The node answered with a status of 500 or above, other than 503.
    Crashed,
    /// No first byte in time.
    TimedOut,
    /// The answer is not what such a node sends, or stops early although the connection ended properly.
    Garbled,
    /// The node answered 503 or 429. Not a health failure: the node gets no new request for 1 s.
    Busy,
    /// The node answered 404 for the model. Its listing is stale, so the model is forgotten there until the next
    /// [`crate::Event::Listed`].
    Missing,
    /// The node does not have the route. It gets no more requests for that route until the next
    /// [`crate::Event::Routes`].
    Unsupported,
    /// The node could not load the model. It is not loaded there again for a while.
    Unloadable,
    /// The node answered 401, 403 or a redirect: a mistake in its configuration.
    Denied,
    /// The node produced nothing for any of several requests, or did not answer probes either.
    Silent,
    /// No token for far longer than expected, but no other request on the node shows whether the node is at fault.
    Stuck,
    /// The gateway itself ran out of file descriptors. The request waits again.
    Starved,
}

/// What a failed attempt is evidence against.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub enum Blame {
    /// Nothing is wrong; it was just the wrong moment.
    Nobody,
    /// The gateway itself.
    Gateway,
    /// This model or this route, on that node.
    Model,
    /// The node, whatever it is asked for.
    Node,
    /// Either the node or the request. Failures of other users, or another node's answer, will tell which.
    Undecided,
}

impl Failure {
    /// Every variant.
    pub const ALL: [Self; 13] = [
        Self::Unreachable,
        Self::Reset,
        Self::Crashed,
        Self::TimedOut,
        Self::Garbled,
        Self::Busy,
        Self::Missing,
        Self::Unsupported,
        Self::Unloadable,
        Self::Denied,
        Self::Silent,
        Self::Stuck,
        Self::Starved,
    ];

    /// One word for it, for metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::Crashed => "crashed",
            Self::TimedOut => "timed_out",
            Self::Garbled => "garbled",
            Self::Busy => "busy",
            Self::Missing => "missing",
            Self::Unsupported => "unsupported",
            Self::Unloadable => "unloadable",
            Self::Denied => "denied",
            Self::Silent => "silent",
            Self::Stuck => "stuck",
            Self::Starved => "starved",
        }
    }

    /// What it is evidence against.
    pub fn blame(self) -> Blame {
        match self {
            Self::Busy => Blame::Nobody,
            Self::Starved => Blame::Gateway,
            Self::Missing | Self::Unsupported | Self::Unloadable => Blame::Model,
            Self::Unreachable | Self::Denied | Self::Silent => Blame::Node,
            Self::Reset | Self::Crashed | Self::TimedOut | Self::Garbled | Self::Stuck => Blame::Undecided,
        }
    }

    /// Whether the request itself may be the cause and may have cost the node dearly. Such a failure is retried once.
    pub(crate) fn is_costly(self) -> bool {
        matches!(self, Self::Crashed | Self::TimedOut | Self::Garbled | Self::Stuck)
    }

    /// Whether a retry after it counts against the retry budget, which all requests share.
    pub(crate) fn is_budgeted(self) -> bool {
        // A request that moves away from a stuck node has waited long enough.
        self.is_costly() && self != Self::Stuck
    }

    /// Whether it says so little about the request that it does not count as an attempt.
    pub(crate) fn is_excused(self) -> bool {
        matches!(self, Self::Silent | Self::Starved | Self::Unsupported)
    }

    /// Whether the same node may be tried again when no other is left.
    pub(crate) fn allows_same_node(self) -> bool {
        matches!(self, Self::Unreachable | Self::Reset | Self::Busy | Self::Silent | Self::Starved)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Unreachable => "could not be reached",
            Self::Reset => "closed the connection before answering",
            Self::Crashed => "answered with a server error",
            Self::TimedOut => "sent no first byte in time",
            Self::Garbled => "sent a broken answer",
            Self::Busy => "is busy",
            Self::Missing => "does not have the model it listed",
            Self::Unsupported => "does not have this route",
            Self::Unloadable => "could not load the model",
            Self::Denied => "refused access or redirected",
            Self::Silent => "fell silent",
            Self::Stuck => "sent nothing in far longer than expected",
            Self::Starved => "could not be asked, as the gateway has no file descriptors left",
        })
    }
}

/// How a request ended.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// The whole answer was delivered.
    Completed,
    /// The client left. Not counted for or against the node.
    Cancelled,
    /// The node rejected the request itself, as any other node would. Not counted for or against the node either.
    Rejected,
    /// It failed after the first byte, or no further attempt was allowed.
    Failed(Failure),
}

/// What a request of the gateway's own, the canary, showed about a node that had produced nothing.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
pub enum CanaryVerdict {
    /// Every model that was asked answered.
    Answered,
    /// A model did not answer.
    Failed,
    /// Nothing could be asked, so a user's request must show it.
    Inconclusive,
}

impl CanaryVerdict {
    /// One word for it, for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Inconclusive => "inconclusive",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_decided_against_anybody_else_costs_the_request_no_retry_budget() {
        for failure in Failure::ALL {
            let is_undecided = failure.blame() == Blame::Undecided;
            assert!(is_undecided || !failure.is_costly(), "{failure:?}");
            assert!(failure.is_costly() || !failure.is_budgeted(), "{failure:?}");
        }
    }

    #[test]
    fn labels_tell_failures_apart() {
        let labels: std::collections::BTreeSet<&str> = Failure::ALL.into_iter().map(Failure::label).collect();
        assert_eq!(labels.len(), Failure::ALL.len());
    }
}
