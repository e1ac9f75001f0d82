//! How many requests may wait?

use serde::{Deserialize, Serialize};

/// How many requests may wait for a slot.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueLimits {
    /// Requests that may wait, over all users; the next one gets 503. 0 = none may wait. Default `1000`.
    pub max_queued: usize,
    /// Requests of one user that may wait; the next one gets 429. 0 = none may wait. Default `100`.
    pub max_queued_per_user: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { max_queued: 1000, max_queued_per_user: 100 }
    }
}
