//! `/api/embed`, `/api/embeddings` and `/v1/embeddings`, the requests.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::embeddings::{Embed, Shape};
use super::keep_alive::keep_alive;
use super::read;
use super::work::Work;
use crate::error::ApiError;
use crate::options::{CONTEXT_LENGTH, RequestOptions};
use crate::text::count_tokens;

#[derive(Deserialize)]
struct EmbedRequest {
    model: Option<String>,
    input: Option<Value>,
    prompt: Option<String>,
    keep_alive: Option<Value>,
    options: Option<Map<String, Value>>,
    dimensions: Option<usize>,
    truncate: Option<bool>,
    encoding_format: Option<String>,
}

/// Reads a request to `/api/embed`.
pub(crate) fn native(body: &[u8]) -> Result<Work, ApiError> {
    let request: EmbedRequest = read(body)?;
    // An empty text counts as no input here, but not within a list.
    let input = request.input.as_ref().filter(|input| input.as_str() != Some(""));
    let inputs = inputs(input)?;
    embed(request, inputs, Shape::Native)
}

/// Reads a request to `/api/embeddings`.
pub(crate) fn native_old(body: &[u8]) -> Result<Work, ApiError> {
    let mut request: EmbedRequest = read(body)?;
    let inputs = request.prompt.take().filter(|prompt| !prompt.is_empty()).into_iter().collect();
    embed(request, inputs, Shape::NativeOld)
}

/// Reads a request to `/v1/embeddings`.
pub(crate) fn openai(body: &[u8]) -> Result<Work, ApiError> {
    // Ollama's own fields have no meaning on this route.
    let request = EmbedRequest { keep_alive: None, options: None, ..read(body)? };
    let shape = match request.encoding_format.as_deref() {
        None | Some("" | "float") => Shape::OpenAiFloat,
        Some("base64") => Shape::OpenAiBase64,
        Some(other) => {
            return Err(ApiError::bad_request(format!(
                "Invalid value for 'encoding_format' = {other}. Supported values: ['float', 'base64']."
            )));
        }
    };
    let inputs = inputs(request.input.as_ref())?;
    if inputs.is_empty() {
        return Err(ApiError::bad_request("invalid input"));
    }
    embed(request, inputs, shape)
}

fn inputs(input: Option<&Value>) -> Result<Vec<String>, ApiError> {
    match input {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(Value::Array(texts)) => texts.iter().map(text).collect(),
        Some(_) => Err(ApiError::bad_request("invalid input type")),
    }
}

fn text(value: &Value) -> Result<String, ApiError> {
    value.as_str().map(str::to_owned).ok_or_else(|| ApiError::bad_request("invalid input type"))
}

fn embed(request: EmbedRequest, inputs: Vec<String>, shape: Shape) -> Result<Work, ApiError> {
    let truncate = request.truncate.unwrap_or(true);
    if !truncate && inputs.iter().any(|input| count_tokens(input) > CONTEXT_LENGTH) {
        return Err(ApiError::bad_request("the input length exceeds the context length"));
    }
    Ok(Work::Embed(Embed {
        model: request.model.unwrap_or_default(),
        inputs,
        keep_alive: keep_alive(request.keep_alive.as_ref())?,
        options: RequestOptions::read(&request.options.unwrap_or_default()).map(|options| options.load),
        dimensions: request.dimensions.filter(|dimensions| *dimensions > 0),
        shape,
    }))
}
