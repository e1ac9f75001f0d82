//! What does a request get in the end? An answer, or the reason why there is none.
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::meter::Meter;
use super::open_requests::Stopped;
use super::watched::WatchedBody;
use crate::store::Maintenance;
use scheduler::{Refusal, RefusalReason};

/// A node's answer.
#[derive(Debug)]
pub struct Answer {
    /// The node, and the way to it.
    pub served: Served,
    /// The answer itself.
    pub content: Content,
}

/// How a request came to its answer.
#[derive(Clone, Debug)]
pub struct Served {
    /// The node's name.
    pub node: Arc<str>,
    /// Time spent waiting, over all attempts.
    pub queued: Duration,
    /// How many nodes were asked.
    pub attempts: u32,
    /// How many requests waited when this one arrived; `None` if another gateway decided.
    pub ahead: Option<usize>,
    /// When the first token was expected, from the arrival on; `None` if another gateway decided, or the request was too
    /// far back in the queue to tell.
    pub expected: Option<Duration>,
}

/// The content of a node's answer.
#[derive(Debug)]
pub enum Content {
    /// A complete JSON body; a status of 4xx is the node's verdict on the request.
    Plain {
        /// The node's status.
        status: u16,
        /// The body, in JSON.
        body: Bytes,
    },
    /// A stream that has begun.
    Stream(Box<WatchedBody>),
}

/// A request without an answer. Its account is still open: whoever words the error closes it.
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
    /// The scheduler refused it; `detail` says how the last attempt failed, if there was one.
    Refused {
        /// The reason, and when to try again.
        refusal: Refusal,
        /// For people.
        detail: Option<String>,
    },
    /// Every node that has its model is drained.
    Maintenance {
        /// The one that ends first.
        maintenance: Maintenance,
        /// When to try again.
        retry_after: Duration,
    },
    /// It took longer than the service allows.
    TooLong,
    /// The gateway is stopping.
    Stopping,
    /// The answer is complete or has begun, but its usage could not be stored in time.
    Unrecorded,
    /// The key that it used was revoked.
    Revoked,
    /// Somebody stopped it.
    Stopped(Stopped),
    /// It made nodes fail that answer other requests, so it is not tried again for this long.
    Indicted(Duration),
}

impl WhyNot {
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Refused { refusal, .. } => refusal.reason.label(),
            Self::Maintenance { .. } => RefusalReason::NoNode.label(),
            Self::TooLong => "deadline",
            Self::Stopping => "stopping",
            Self::Unrecorded => "storage",
            Self::Revoked => "revoked",
            Self::Stopped(_) => "stopped",
            Self::Indicted(_) => "indicted",
        }
    }
}
