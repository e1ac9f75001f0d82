//! `/api/chat` and `/api/generate`, the requests.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::keep_alive::keep_alive;
use super::native::{Native, Route, chat_residence, generate_residence};
use super::work::{FunctionTool, Generate, Residence, Work};
use super::{limit, read};
use crate::ask::{Ask, Tool, Turn};
use crate::error::{ApiError, json};
use crate::options::RequestOptions;

#[derive(Deserialize)]
struct NativeRequest {
    model: Option<String>,
    messages: Option<Vec<NativeMessage>>,
    prompt: Option<String>,
    system: Option<String>,
    images: Option<Vec<String>>,
    template: Option<String>,
    context: Option<Vec<i64>>,
    raw: Option<bool>,
    truncate: Option<bool>,
    stream: Option<bool>,
    format: Option<Value>,
    keep_alive: Option<Value>,
    tools: Option<Vec<FunctionTool>>,
    options: Option<Map<String, Value>>,
    shift: Option<bool>,
    think: Option<Value>,
}

#[derive(Deserialize)]
struct NativeMessage {
    role: Option<String>,
    content: Option<String>,
    images: Option<Vec<String>>,
}

/// Reads a request to `/api/chat`.
pub(crate) fn chat(body: &[u8]) -> Result<Work, ApiError> {
    let mut request: NativeRequest = read(body)?;
    if request.model.as_deref().unwrap_or_default().is_empty() {
        return Err(ApiError::bad_request("model is required"));
    }
    let messages = request.messages.take().unwrap_or_default();
    let turns = messages.into_iter().map(|message| Turn {
        role: message.role.unwrap_or_default(),
        text: message.content.unwrap_or_default(),
        images: message.images.map_or(0, |images| images.len()),
    });
    let turns: Vec<Turn> = turns.collect();
    if turns.is_empty() {
        return residence(request, chat_residence, "chat");
    }
    work(request, turns, Route::Chat)
}

/// Reads a request to `/api/generate`.
pub(crate) fn generate(body: &[u8]) -> Result<Work, ApiError> {
    let mut request: NativeRequest = read(body)?;
    let prompt = request.prompt.take().unwrap_or_default();
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let has_context = request.context.as_ref().is_some_and(|context| !context.is_empty());
    if request.raw == Some(true) && (given(&request.template) || given(&request.system) || has_context) {
        return Err(ApiError::bad_request("raw mode does not support template, system, or context"));
    }
    if prompt.is_empty() {
        return residence(request, generate_residence, "generate");
    }
    let system = request.system.take().filter(|system| !system.is_empty());
    let mut turns: Vec<Turn> = system.map(|system| Turn::new("system", system)).into_iter().collect();
    let images = request.images.as_ref().map_or(0, Vec::len);
    turns.push(Turn { role: "user".to_owned(), text: prompt, images });
    work(request, turns, Route::Generate)
}

fn residence(request: NativeRequest, reply: fn(&str, &str) -> String, purpose: &'static str) -> Result<Work, ApiError> {
    let keep_alive = keep_alive(request.keep_alive.as_ref())?;
    let options = RequestOptions::read(&request.options.unwrap_or_default());
    let options = options.map(|options| options.load.with_shift(request.shift));
    let residence = Residence { model: request.model.unwrap_or_default(), keep_alive, options, purpose, reply };
    Ok(if keep_alive == Some(Duration::ZERO) { Work::Unload(residence) } else { Work::Load(residence) })
}

fn work(request: NativeRequest, turns: Vec<Turn>, route: Route) -> Result<Work, ApiError> {
    let keep_alive = keep_alive(request.keep_alive.as_ref())?;
    let model = request.model.unwrap_or_default();
    let options = RequestOptions::read(&request.options.unwrap_or_default());
    let max_tokens = options.as_ref().ok().and_then(|options| limit(options.num_predict));
    let (format, format_error) = format(request.format);
    let tools = request.tools.unwrap_or_default().into_iter();
    let ask = Ask {
        model: model.clone(),
        turns,
        max_tokens,
        tools: tools.map(Tool::from).collect(),
        format,
        think: request.think.map(|think| think != Value::Bool(false)),
        purpose: if route == Route::Chat { "chat" } else { "generate" },
    };
    let raw = request.raw.unwrap_or(false);
    let dialect = Box::new(Native::new(route, model, raw));
    Ok(Work::Generate(Generate {
        ask,
        stream: request.stream.unwrap_or(true),
        include_usage: false,
        keep_alive,
        options: options.map(|options| options.load.with_shift(request.shift)),
        truncates: request.truncate.unwrap_or(true),
        format_error,
        dialect,
    }))
}

/// The schema of the answer. Ollama notices a mistake in it only in the runner, so the error is passed along.
fn format(format: Option<Value>) -> (Option<Value>, Option<ApiError>) {
    match format {
        None | Some(Value::Null) => (None, None),
        Some(Value::String(format)) if format.is_empty() => (None, None),
        Some(Value::String(format)) if format == "json" => (Some(Value::Null), None),
        Some(schema @ Value::Object(_)) => (Some(schema), None),
        Some(other) => {
            let quoted = json(&other.to_string());
            let message = format!("invalid format: {quoted}; expected \"json\" or a valid JSON Schema object");
            (None, Some(ApiError::internal(message)))
        }
    }
}
