//! What comes back of a request: an answer, or the reason why there is none.
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::meter::Meter;
use super::metered::MeteredBody;
use super::open_requests::Stopped;
use scheduler::Refusal;

/// A node's answer.
#[derive(Debug)]
pub struct Answer {
    /// By whom, and after what.
    pub served: Served,
    /// What it said.
    pub content: Content,
}

/// How a request came to its answer.
#[derive(Clone, Debug)]
pub struct Served {
    /// Which node.
    pub node: Arc<str>,
    /// Waiting, over all attempts.
    pub queued: Duration,
    /// Nodes asked.
    pub attempts: u32,
    /// Requests that waited when this one came.
    pub ahead: usize,
    /// When the first token was expected, after the request came; `None` if it was too far back to say.
    pub expected: Option<Duration>,
}

/// What a node said.
#[derive(Debug)]
pub enum Content {
    /// A whole JSON body; a status of 4xx is the node's verdict on the request.
    Plain {
        /// The node's status.
        status: u16,
        /// JSON.
        body: Bytes,
    },
    /// A stream that has begun.
    Stream(Box<MeteredBody>),
}

/// A request that got no answer. Its account is still open: whoever words the error closes it.
#[derive(Debug)]
pub struct CarryError {
    /// The open account.
    pub meter: Meter,
    /// What happened.
    pub why: WhyNot,
}

/// Why a request got no answer.
#[derive(Clone, Debug)]
pub enum WhyNot {
    /// The scheduler refused it; `detail` is what the last attempt met, if there was one.
    Refused {
        /// Why, and when to come back.
        refusal: Refusal,
        /// For people.
        detail: Option<String>,
    },
    /// It took longer than the service allows.
    TooLong,
    /// The gateway stops.
    Stopping,
    /// The answer is here, or begins, but its usage could not be stored in time.
    Unrecorded,
    /// The key it came with is revoked.
    Revoked,
    /// Somebody stopped it.
    Stopped(Stopped),
    /// It made nodes fail that answer other requests, and is not tried again for so long.
    Indicted(Duration),
}

impl WhyNot {
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Refused { refusal, .. } => refusal.reason.label(),
            Self::TooLong => "deadline",
            Self::Stopping => "stopping",
            Self::Unrecorded => "storage",
            Self::Revoked => "revoked",
            Self::Stopped(_) => "stopped",
            Self::Indicted(_) => "indicted",
        }
    }
}
