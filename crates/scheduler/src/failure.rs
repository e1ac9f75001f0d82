//! How can an attempt, and a request, end?

use std::fmt;

use serde::Serialize;

/// Why an attempt failed.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The connection was refused or not made in time. Takes the node out at once.
    Unreachable,
    /// The connection closed before the answer was whole: before its head (perhaps a stale pooled one), or within it.
    Reset,
    /// The node answered with a status of 500 or above (other than 503).
    Crashed,
    /// No first byte in time.
    TimedOut,
    /// The answer is not what Ollama sends, or is not finished although it ended properly.
    Garbled,
    /// 503 or 429. Not a health failure: the node gets no new request for 1 s.
    Busy,
    /// 404 for the model: the node's listing is stale, so the model is
    /// forgotten there until the next [`Event::Listed`].
    Missing,
    /// 401, 403 or a redirect: a mistake in the node's configuration.
    Denied,
    /// Far longer without a token than it was ever seen to need.
    Silent,
}

impl Failure {
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
            Self::Denied => "denied",
            Self::Silent => "silent",
        }
    }

    /// Whether the request itself may be the cause, or cost the node dearly:
    /// such a failure is retried once, within the retry budget.
    pub(crate) fn is_costly(self) -> bool {
        matches!(self, Self::Crashed | Self::TimedOut | Self::Garbled | Self::Silent)
    }

    /// Whether the same node may be tried again when no other is left.
    pub(crate) fn allows_same_node(self) -> bool {
        matches!(self, Self::Unreachable | Self::Reset | Self::Busy)
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
            Self::Denied => "refused access or redirected",
            Self::Silent => "fell silent",
        })
    }
}

/// How a request ended.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Outcome {
    /// The whole answer was delivered.
    Completed,
    /// The client left: no verdict on the node.
    Cancelled,
    /// After the first byte, or for good.
    Failed(Failure),
}
