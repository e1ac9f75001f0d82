//! What do both ends of a link need?
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::handshake::Secret;
use crate::dispatch::Dispatcher;

/// The time between two warnings about strangers, who could fill the log otherwise.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(60);

/// One gateway's end of its links.
#[derive(Clone)]
pub struct LinkContext {
    pub(super) dispatcher: Arc<Dispatcher>,
    /// This gateway's name.
    pub(super) own: Arc<str>,
    /// Where this gateway's link listens.
    pub(super) address: Arc<str>,
    pub(super) secret: Secret,
    /// When the log was last warned of a stranger.
    warned: Arc<Mutex<Option<Instant>>>,
}

impl LinkContext {
    /// The context of the gateway `own`, whose link is reached at `address`.
    pub fn new(dispatcher: Arc<Dispatcher>, own: Arc<str>, address: Arc<str>, secret: String) -> Self {
        Self { dispatcher, own, address, secret: Secret::new(secret), warned: Arc::default() }
    }
}

impl LinkContext {
    /// Warns that somebody without the secret called, once a minute.
    pub(super) fn warn_of_stranger(&self) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| at.elapsed() >= BETWEEN_WARNINGS) {
            *warned = Some(Instant::now());
            tracing::warn!("somebody without the cluster's secret called this gateway's link");
        }
    }
}

impl std::fmt::Debug for LinkContext {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("LinkContext").field("address", &self.address).finish_non_exhaustive()
    }
}
