//! `/api/chat` and `/api/generate`, the requests.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::keep_alive::keep_alive;
use super::native::{Native, Route, chat_residence, generate_residence};
use super::tools::FunctionTool;
use super::work::{Generate, Residence, Work};
use super::{limit, read};
use crate::ask::{Ask, Tool, Turn};
use crate::error::ApiError;
use crate::options::LoadOptions;

#[derive(Deserialize)]
struct NativeRequest {
    model: Option<String>,
    messages: Option<Vec<NativeMessage>>,
    prompt: Option<String>,
    system: Option<String>,
    images: Option<Vec<String>>,
    raw: Option<bool>,
    stream: Option<bool>,
    format: Option<Value>,
    keep_alive: Option<Value>,
    tools: Option<Vec<FunctionTool>>,
    options: Option<Options>,
    shift: Option<bool>,
    think: Option<Value>,
}

#[derive(Deserialize)]
struct NativeMessage {
    role: Option<String>,
    content: Option<String>,
    images: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
struct Options {
    num_predict: Option<i64>,
    #[serde(flatten)]
    load: LoadOptions,
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
    let options = request.options.unwrap_or_default().load.with_shift(request.shift);
    let residence = Residence { model: request.model.unwrap_or_default(), keep_alive, options, purpose, reply };
    Ok(if keep_alive == Some(Duration::ZERO) { Work::Unload(residence) } else { Work::Load(residence) })
}

fn work(request: NativeRequest, turns: Vec<Turn>, route: Route) -> Result<Work, ApiError> {
    let keep_alive = keep_alive(request.keep_alive.as_ref())?;
    let model = request.model.unwrap_or_default();
    let options = request.options.unwrap_or_default();
    let tools = request.tools.unwrap_or_default().into_iter();
    let ask = Ask {
        model: model.clone(),
        turns,
        max_tokens: limit(options.num_predict),
        tools: tools.map(Tool::from).collect(),
        format: format(request.format)?,
        think: request.think.map(|think| think != Value::Bool(false)),
        purpose: if route == Route::Chat { "chat" } else { "generate" },
    };
    let raw = request.raw.unwrap_or(false);
    let dialect = Box::new(Native::new(route, model, raw));
    let options = options.load.with_shift(request.shift);
    Ok(Work::Generate(Generate { ask, stream: request.stream.unwrap_or(true), keep_alive, options, dialect }))
}

fn format(format: Option<Value>) -> Result<Option<Value>, ApiError> {
    match format {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(format)) if format.is_empty() => Ok(None),
        Some(Value::String(format)) if format == "json" => Ok(Some(Value::Null)),
        Some(schema @ Value::Object(_)) => Ok(Some(schema)),
        Some(other) => Err(ApiError::bad_request(format!(
            "invalid format: {other}; expected \"json\" or a valid JSON Schema object"
        ))),
    }
}
