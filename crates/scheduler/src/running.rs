//! What is known of a request that runs on a node?

use std::sync::Arc;

use crate::{ids::RequestId, model::ModelId, prefix::Prefix};

/// An answer that has outgrown its estimate is expected to go on for this share of the estimate.
pub(crate) const LEAST_LEFT: f64 = 0.3;

/// A running request.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) id: RequestId,
    /// The model as it was asked for; its weights may have other names there.
    pub(crate) model: ModelId,
    /// When it was sent, in seconds.
    pub(crate) sent_at: f64,
    pub(crate) is_stream: bool,
    /// Prompt tokens that the node had to read, because they were not expected to be cached.
    pub(crate) uncached: f64,
    /// All tokens of the prompt.
    pub(crate) prompt: f64,
    /// Expected tokens of the answer.
    pub(crate) output: f64,
    /// Other requests on the node when this one was sent.
    pub(crate) others: f64,
    pub(crate) prefixes: Arc<[Prefix]>,
    /// Prompt tokens that the node should have cached, before `Trust` is applied.
    pub(crate) remembered: f64,
    /// Whether the cached part is expected in the host's memory only.
    pub(crate) is_in_host: bool,
    /// When its first token came, in seconds.
    pub(crate) began_at: Option<f64>,
    /// Tokens of the answer so far.
    pub(crate) delivered: f64,
    /// When a token of it was last seen, in seconds.
    pub(crate) heard_at: f64,
    /// When its client was last seen not reading, in seconds.
    pub(crate) stalled_at: Option<f64>,
    /// How long the node says that it worked on it, in seconds.
    pub(crate) worked: Option<f64>,
    /// How long it says that it wrote the answer, in seconds.
    pub(crate) writing: Option<f64>,
}
