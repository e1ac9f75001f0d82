//! Why does a gateway not start?
use std::io;

use crate::store::StoreError;

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The address cannot be used.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// The address.
        address: String,
        /// The reason.
        error: io::Error,
    },
    /// TLS cannot be spoken.
    #[error("server.tls: {0}")]
    Tls(#[from] rustls::Error),
    /// A setting is invalid; [`crate::config::load`] would have refused it.
    #[error("{0}")]
    Setting(String),
    /// Two metrics contradict each other.
    #[error("{0}")]
    Metrics(#[from] prometheus::Error),
}
