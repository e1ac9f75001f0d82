//! What does a request hear from the scheduler?
use std::time::Duration;

use scheduler::{NodeId, Refusal};

/// A slot on a node, granted to a request.
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    /// The node.
    pub node: NodeId,
    /// Starts at 1.
    pub attempt: u32,
}

/// What the core tells a request.
#[derive(Debug)]
pub(super) enum Word {
    /// With the time at which it was decided here.
    Granted(Grant, Duration),
    Refused(Refusal),
    /// The running attempt is over.
    Abandoned,
    /// Whether the client may have the first byte of this attempt.
    Began {
        attempt: u32,
        goes_on: bool,
    },
}

/// Why an attempt must stop.
#[derive(Clone, Copy, Debug)]
pub enum Interruption {
    /// Its node fell silent; the request waits again.
    Abandoned,
    /// The request is over.
    Refused(Refusal),
}
