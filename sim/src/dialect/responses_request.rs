//! `/v1/responses`, the requests.

use serde::Deserialize;
use serde_json::Value;

use super::openai_request::{Reasoning, think};
use super::responses::Responses;
use super::work::{Generate, Work};
use super::{check_image_url, limit, read};
use crate::ask::{Ask, Tool, Turn};
use crate::error::ApiError;

#[derive(Deserialize)]
struct ResponsesRequest {
    model: Option<String>,
    input: Option<Value>,
    instructions: Option<String>,
    stream: Option<bool>,
    max_output_tokens: Option<i64>,
    tools: Option<Vec<ResponsesTool>>,
    text: Option<TextOptions>,
    reasoning: Option<Reasoning>,
}

#[derive(Deserialize)]
struct ResponsesTool {
    name: Option<String>,
    #[serde(default)]
    parameters: Value,
}

#[derive(Deserialize)]
struct TextOptions {
    format: Option<TextFormat>,
}

#[derive(Deserialize)]
struct TextFormat {
    #[serde(rename = "type")]
    kind: Option<String>,
    schema: Option<Value>,
}

/// Reads a request to `/v1/responses`.
pub(crate) fn respond(body: &[u8]) -> Result<Work, ApiError> {
    let request: ResponsesRequest = read(body)?;
    let model = request.model.unwrap_or_default();
    if model.is_empty() {
        return Err(ApiError::bad_request("model is required"));
    }
    let mut turns: Vec<Turn> = request.instructions.map(|text| Turn::new("system", text)).into_iter().collect();
    match request.input {
        Some(Value::String(text)) => turns.push(Turn::new("user", text)),
        Some(Value::Array(items)) => {
            for item in &items {
                turns.push(read_item(item)?);
            }
        }
        _ => return Err(ApiError::bad_request("input is required")),
    }
    let tools = request.tools.unwrap_or_default().into_iter();
    let ask = Ask {
        model: model.clone(),
        turns,
        max_tokens: limit(request.max_output_tokens),
        tools: tools.filter_map(|tool| tool.name.map(|name| Tool { name, parameters: tool.parameters })).collect(),
        format: request.text.and_then(|text| text.format).and_then(|format| match format.kind.as_deref() {
            Some("json_object") => Some(Value::Null),
            Some("json_schema") => format.schema,
            _ => None,
        }),
        think: think(request.reasoning.and_then(|reasoning| reasoning.effort).as_deref())?,
        purpose: "chat",
    };
    let dialect = Box::new(Responses::new(model));
    Ok(Work::Generate(Generate::plain(ask, request.stream.unwrap_or(false), dialect)))
}

fn read_item(item: &Value) -> Result<Turn, ApiError> {
    if let Some(output) = item.get("output").and_then(Value::as_str) {
        return Ok(Turn::new("tool", output));
    }
    let role = item.get("role").and_then(Value::as_str).unwrap_or("assistant");
    let mut turn = Turn::new(role, "");
    match item.get("content") {
        Some(Value::String(text)) => turn.text.push_str(text),
        Some(Value::Array(parts)) => {
            for part in parts {
                turn.text.push_str(part.get("text").and_then(Value::as_str).unwrap_or_default());
                if let Some(url) = part.get("image_url").and_then(Value::as_str) {
                    check_image_url(url)?;
                    turn.images += 1;
                }
            }
        }
        _ => {}
    }
    Ok(turn)
}
