//! What do both ends of a link need?
use std::sync::Arc;

use super::handshake::Secret;
use crate::dispatch::Dispatcher;

/// One gateway's end of its links.
#[derive(Clone)]
pub struct LinkContext {
    pub(super) dispatcher: Arc<Dispatcher>,
    /// This gateway's name.
    pub(super) own: Arc<str>,
    /// Where this gateway's link listens.
    pub(super) address: Arc<str>,
    pub(super) secret: Secret,
}

impl LinkContext {
    /// The context of the gateway `own`, whose link is reached at `address`.
    pub fn new(dispatcher: Arc<Dispatcher>, own: Arc<str>, address: Arc<str>, secret: String) -> Self {
        Self { dispatcher, own, address, secret: Secret::new(secret) }
    }
}

impl std::fmt::Debug for LinkContext {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("LinkContext").field("address", &self.address).finish_non_exhaustive()
    }
}
