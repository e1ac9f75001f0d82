//! What does a request want of the node?

use std::time::Duration;

use super::Dialect;
use super::embeddings::Embed;
use crate::ask::Ask;
use crate::options::LoadOptions;

/// What a request wants.
pub(crate) enum Work {
    Generate(Generate),
    /// Load the model and say so with this body.
    Load(Residence),
    /// Unload the model when it is idle and say so with this body.
    Unload(Residence),
    Embed(Embed),
}

/// A generation request: what is asked, and how to write the answer.
pub(crate) struct Generate {
    pub(crate) ask: Ask,
    pub(crate) stream: bool,
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) options: LoadOptions,
    pub(crate) dialect: Box<dyn Dialect>,
}

impl Generate {
    /// On a route that cannot say how the model is to be loaded.
    pub(crate) fn plain(ask: Ask, stream: bool, dialect: Box<dyn Dialect>) -> Self {
        Self { ask, stream, keep_alive: None, options: LoadOptions::default(), dialect }
    }
}

/// A request that only moves a model in or out of memory.
pub(crate) struct Residence {
    pub(crate) model: String,
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) options: LoadOptions,
    /// The word of the error when a model that only embeds is to be loaded.
    pub(crate) purpose: &'static str,
    /// The answer once it is done.
    pub(crate) reply: fn(model: &str, reason: &str) -> String,
}
