//! `/v1/chat/completions`, the requests.

use serde::Deserialize;
use serde_json::Value;

use super::openai::Chat;
use super::work::{FunctionTool, Generate, Work};
use super::{check_image_url, limit, read};
use crate::ask::{Ask, Tool, Turn};
use crate::error::ApiError;

#[derive(Deserialize)]
struct ChatRequest {
    model: Option<String>,
    messages: Option<Vec<ChatMessage>>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<i64>,
    response_format: Option<ResponseFormat>,
    tools: Option<Vec<FunctionTool>>,
    reasoning_effort: Option<String>,
    reasoning: Option<Reasoning>,
}

/// `stream_options` of the OpenAI routes.
#[derive(Deserialize)]
pub(super) struct StreamOptions {
    pub(super) include_usage: Option<bool>,
}

#[derive(Deserialize)]
struct ChatMessage {
    role: Option<String>,
    content: Option<Value>,
    tool_calls: Option<Vec<Value>>,
}

#[derive(Deserialize)]
struct ResponseFormat {
    #[serde(rename = "type")]
    kind: Option<String>,
    json_schema: Option<JsonSchema>,
}

#[derive(Deserialize)]
struct JsonSchema {
    schema: Option<Value>,
}

/// The depth of reasoning, as several OpenAI routes carry it.
#[derive(Deserialize)]
pub(super) struct Reasoning {
    pub(super) effort: Option<String>,
}

/// Reads a request to `/v1/chat/completions`.
pub(crate) fn chat(body: &[u8]) -> Result<Work, ApiError> {
    let request: ChatRequest = read(body)?;
    let model = request.model.unwrap_or_default();
    let messages = request.messages.unwrap_or_default();
    if messages.is_empty() {
        return Err(ApiError::bad_request("[] is too short - 'messages'"));
    }
    if model.is_empty() {
        return Err(ApiError::bad_request("model is required"));
    }
    let mut turns = Vec::new();
    for message in messages {
        read_message(message, &mut turns)?;
    }
    let effort = request.reasoning_effort.or(request.reasoning.and_then(|reasoning| reasoning.effort));
    let tools = request.tools.unwrap_or_default().into_iter();
    let ask = Ask {
        model: model.clone(),
        turns,
        max_tokens: limit(request.max_tokens),
        tools: tools.map(Tool::from).collect(),
        format: request.response_format.and_then(format),
        think: think(effort.as_deref())?,
        purpose: "chat",
    };
    let include_usage = request.stream_options.and_then(|options| options.include_usage).unwrap_or(false);
    let dialect = Box::new(Chat::new(model, include_usage));
    let generate = Generate::plain(ask, request.stream.unwrap_or(false), dialect);
    Ok(Work::Generate(Generate { include_usage, ..generate }))
}

/// Every part of a message becomes a message of its own.
fn read_message(message: ChatMessage, turns: &mut Vec<Turn>) -> Result<(), ApiError> {
    let role = message.role.unwrap_or_default();
    match message.content {
        Some(Value::String(text)) => turns.push(Turn::new(&role, text)),
        Some(Value::Array(parts)) => {
            for part in parts {
                turns.push(read_part(&role, &part)?);
            }
        }
        None | Some(Value::Null) if message.tool_calls.is_some() => turns.push(Turn::new(&role, "")),
        None | Some(Value::Null) => return Err(ApiError::bad_request("invalid message content type: <nil>")),
        Some(_) => return Err(ApiError::bad_request("invalid message content type")),
    }
    Ok(())
}

fn read_part(role: &str, part: &Value) -> Result<Turn, ApiError> {
    let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
    match kind {
        "text" => {
            let text = part.get("text").and_then(Value::as_str);
            Ok(Turn::new(role, text.ok_or_else(|| ApiError::bad_request("invalid message format"))?))
        }
        "image_url" => {
            let image = part.get("image_url");
            let url = image.and_then(|image| image.get("url").unwrap_or(image).as_str());
            check_image_url(url.ok_or_else(|| ApiError::bad_request("invalid message format"))?)?;
            Ok(Turn { images: 1, ..Turn::new(role, "") })
        }
        "input_audio" => Ok(Turn::new(role, "")),
        _ => Err(ApiError::bad_request("invalid message format")),
    }
}

fn format(format: ResponseFormat) -> Option<Value> {
    match format.kind.as_deref() {
        Some("json_object") => Some(Value::Null),
        Some("json_schema") => format.json_schema.and_then(|json_schema| json_schema.schema),
        _ => None,
    }
}

/// Whether an effort asks for thinking.
pub(super) fn think(effort: Option<&str>) -> Result<Option<bool>, ApiError> {
    match effort {
        None | Some("") => Ok(None),
        Some("none") => Ok(Some(false)),
        Some("minimal" | "low" | "medium" | "high" | "max" | "xhigh" | "ultra") => Ok(Some(true)),
        Some(other) => Err(ApiError::bad_request(format!(
            "invalid reasoning value: '{other}' (must be \"high\", \"medium\", \"low\", \"max\", or \"none\")"
        ))),
    }
}
