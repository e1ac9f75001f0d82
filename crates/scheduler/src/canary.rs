//! What did a request of the gateway's own show about a node that had produced nothing?

use serde::{Deserialize, Serialize};

/// How a canary ended.
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
