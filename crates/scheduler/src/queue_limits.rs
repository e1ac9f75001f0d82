//! How much may wait?

use serde::{Deserialize, Serialize};

/// How much may wait.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueLimits {
    /// Requests that may wait in all. Default 1000. Zero: nothing waits; what
    /// finds no free slot is refused.
    pub max_queued: usize,
    /// Requests of one user that may wait. Default 100. Zero: as above.
    pub max_queued_per_user: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { max_queued: 1000, max_queued_per_user: 100 }
    }
}
