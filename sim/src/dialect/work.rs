//! What does a request ask of the node, and which tools does it offer?

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::Dialect;
use super::embeddings::Embed;
use crate::ask::{Ask, Tool};
use crate::error::ApiError;
use crate::options::LoadOptions;

/// A request, as the node handles it.
pub(crate) enum Work {
    Generate(Generate),
    /// Load the model.
    Load(Residence),
    /// Unload the model once it is idle.
    Unload(Residence),
    Embed(Embed),
}

/// A generation request, and how to write its answer.
pub(crate) struct Generate {
    pub(crate) ask: Ask,
    pub(crate) stream: bool,
    /// Whether an OpenAI stream is to end with its token counts.
    pub(crate) include_usage: bool,
    pub(crate) keep_alive: Option<Duration>,
    /// A mistake in the options is noticed only when the model is loaded.
    pub(crate) options: Result<LoadOptions, ApiError>,
    /// Whether a prompt that is too long loses its oldest messages.
    pub(crate) truncates: bool,
    /// A mistake that the runner notices once the request has its slot.
    pub(crate) format_error: Option<ApiError>,
    pub(crate) dialect: Box<dyn Dialect>,
}

impl Generate {
    /// For a route that has no options for loading the model.
    pub(crate) fn plain(ask: Ask, stream: bool, dialect: Box<dyn Dialect>) -> Self {
        Self {
            ask,
            stream,
            include_usage: false,
            keep_alive: None,
            options: Ok(LoadOptions::default()),
            truncates: true,
            format_error: None,
            dialect,
        }
    }
}

/// A request that only moves a model in or out of memory.
pub(crate) struct Residence {
    pub(crate) model: String,
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) options: Result<LoadOptions, ApiError>,
    /// `chat` or `generate`, for the error that an embedding model does not support it.
    pub(crate) purpose: &'static str,
    /// The answer once that is done.
    pub(crate) reply: fn(model: &str, reason: &str) -> String,
}

/// A tool as both routes carry it.
#[derive(Deserialize)]
pub(super) struct FunctionTool {
    function: FunctionSpec,
}

#[derive(Deserialize)]
struct FunctionSpec {
    name: String,
    #[serde(default)]
    parameters: Value,
}

impl From<FunctionTool> for Tool {
    fn from(tool: FunctionTool) -> Self {
        Self { name: tool.function.name, parameters: tool.function.parameters }
    }
}
