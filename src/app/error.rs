//! Why does a gateway not start?
use std::io;

use crate::store::StoreError;

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The address.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// Where.
        address: String,
        /// Why not.
        error: io::Error,
    },
    /// A setting that [`crate::config::load`] would have refused.
    #[error("{0}")]
    Setting(String),
    /// Metrics that contradict each other.
    #[error("{0}")]
    Metrics(#[from] prometheus::Error),
}
