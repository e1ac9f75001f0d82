//! `/api/embed`, `/api/embeddings` and `/v1/embeddings`: vectors, never streamed.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::keep_alive::keep_alive;
use super::{Timings, Work, read};
use crate::clock;
use crate::error::{ApiError, json};
use crate::options::{CONTEXT_LENGTH, LoadOptions};
use crate::text::{EMBEDDING_LENGTH, count_tokens, embedding};

/// An embedding request in neutral form.
pub(crate) struct Embed {
    /// The model as the request named it.
    pub(crate) model: String,
    pub(crate) inputs: Vec<String>,
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) options: LoadOptions,
    dimensions: Option<usize>,
    shape: Shape,
}

#[derive(Clone, Copy, PartialEq)]
enum Shape {
    Native,
    NativeOld,
    OpenAiFloat,
    OpenAiBase64,
}

#[derive(Deserialize)]
struct Request {
    model: Option<String>,
    input: Option<Value>,
    prompt: Option<String>,
    keep_alive: Option<Value>,
    options: Option<LoadOptions>,
    dimensions: Option<usize>,
    truncate: Option<bool>,
    encoding_format: Option<String>,
}

/// Reads a request to `/api/embed`.
pub(crate) fn native(body: &[u8]) -> Result<Work, ApiError> {
    let request: Request = read(body)?;
    let inputs = inputs(request.input.as_ref())?;
    embed(request, inputs, Shape::Native)
}

/// Reads a request to `/api/embeddings`.
pub(crate) fn native_old(body: &[u8]) -> Result<Work, ApiError> {
    let mut request: Request = read(body)?;
    let inputs = request.prompt.take().filter(|prompt| !prompt.is_empty()).into_iter().collect();
    embed(request, inputs, Shape::NativeOld)
}

/// Reads a request to `/v1/embeddings`.
pub(crate) fn openai(body: &[u8]) -> Result<Work, ApiError> {
    // Ollama's own wishes mean nothing here.
    let request = Request { keep_alive: None, options: None, ..read(body)? };
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

fn embed(request: Request, inputs: Vec<String>, shape: Shape) -> Result<Work, ApiError> {
    let truncate = request.truncate.unwrap_or(true);
    if !truncate && inputs.iter().any(|input| count_tokens(input) > CONTEXT_LENGTH) {
        return Err(ApiError::bad_request("the input length exceeds the context length"));
    }
    Ok(Work::Embed(Embed {
        model: request.model.unwrap_or_default(),
        inputs,
        keep_alive: keep_alive(request.keep_alive.as_ref())?,
        options: request.options.unwrap_or_default(),
        dimensions: request.dimensions.filter(|dimensions| *dimensions > 0),
        shape,
    }))
}

#[derive(Serialize)]
struct NativeBody<'a> {
    model: &'a str,
    embeddings: &'a [Vec<f32>],
    total_duration: u64,
    load_duration: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_eval_count: Option<u64>,
}

#[derive(Serialize)]
struct NativeOldBody<'a> {
    embedding: &'a [f32],
}

#[derive(Serialize)]
struct OpenAiBody<'a> {
    object: &'static str,
    data: Vec<OpenAiVector<'a>>,
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<OpenAiUsage>,
}

#[derive(Serialize)]
struct OpenAiVector<'a> {
    object: &'static str,
    embedding: Vector<'a>,
    index: usize,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector<'a> {
    Floats(&'a [f32]),
    Base64(String),
}

#[derive(Serialize)]
struct OpenAiUsage {
    prompt_tokens: u64,
    total_tokens: u64,
}

impl Embed {
    /// Tokens of all inputs; one too long is cut.
    pub(crate) fn prompt_tokens(&self) -> u64 {
        self.inputs.iter().map(|input| count_tokens(input).clamp(1, CONTEXT_LENGTH)).sum()
    }

    /// The answer; without `usage` it reports no counts.
    pub(crate) fn body(&self, timings: &Timings, usage: Option<u64>) -> String {
        let length = self.dimensions.map_or(EMBEDDING_LENGTH, |dimensions| dimensions.min(EMBEDDING_LENGTH));
        let vectors: Vec<Vec<f32>> = self.inputs.iter().map(|input| embedding(input, length)).collect();
        match self.shape {
            Shape::Native => json(&NativeBody {
                model: &self.model,
                embeddings: &vectors,
                total_duration: clock::nanos(timings.total()),
                load_duration: clock::nanos(timings.load),
                prompt_eval_count: usage,
            }),
            Shape::NativeOld => {
                json(&NativeOldBody { embedding: vectors.first().map_or(&[], |vector| vector.as_slice()) })
            }
            Shape::OpenAiFloat | Shape::OpenAiBase64 => json(&OpenAiBody {
                object: "list",
                data: (vectors.iter().enumerate())
                    .map(|(index, vector)| OpenAiVector { object: "embedding", embedding: self.encoded(vector), index })
                    .collect(),
                model: &self.model,
                usage: usage.map(|tokens| OpenAiUsage { prompt_tokens: tokens, total_tokens: tokens }),
            }),
        }
    }

    fn encoded<'a>(&self, vector: &'a [f32]) -> Vector<'a> {
        if self.shape == Shape::OpenAiBase64 {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            Vector::Base64(STANDARD.encode(bytes))
        } else {
            Vector::Floats(vector)
        }
    }
}
