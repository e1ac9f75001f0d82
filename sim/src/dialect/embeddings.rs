//! `/api/embed`, `/api/embeddings` and `/v1/embeddings`, the answers: vectors, never streamed.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::Timings;
use crate::clock;
use crate::error::{ApiError, json};
use crate::options::{CONTEXT_LENGTH, LoadOptions};
use crate::text::{EMBEDDING_LENGTH, count_tokens, embedding};

/// An embedding request, whichever route it came on.
pub(crate) struct Embed {
    /// The model as the request named it.
    pub(crate) model: String,
    pub(crate) inputs: Vec<String>,
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) options: Result<LoadOptions, ApiError>,
    pub(super) dimensions: Option<usize>,
    pub(super) shape: Shape,
}

/// The shape of the answer.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Shape {
    Native,
    NativeOld,
    OpenAiFloat,
    OpenAiBase64,
}

#[derive(Serialize)]
struct NativeBody<'a> {
    model: &'a str,
    embeddings: &'a [Vec<f32>],
    #[serde(skip_serializing_if = "Option::is_none")]
    total_duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    load_duration: Option<u64>,
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
    /// Whether there is nothing to embed.
    pub(crate) fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }

    /// The error of a model that cannot embed. It comes only once the model is loaded.
    pub(crate) fn unsupported(&self) -> ApiError {
        let status = if self.shape == Shape::NativeOld { 500 } else { 501 };
        ApiError { status, message: "This server does not support embeddings. Start it with `--embeddings`".to_owned() }
    }

    /// Tokens of all inputs. An input that is too long is truncated.
    pub(crate) fn prompt_tokens(&self) -> u64 {
        self.inputs.iter().map(|input| count_tokens(input).clamp(1, CONTEXT_LENGTH)).sum()
    }

    /// The answer; without `usage` it reports no counts.
    pub(crate) fn body(&self, timings: &Timings, usage: Option<u64>) -> String {
        let length = self.dimensions.map_or(EMBEDDING_LENGTH, |dimensions| dimensions.min(EMBEDDING_LENGTH));
        let vectors: Vec<Vec<f32>> = self.inputs.iter().map(|input| embedding(input, length)).collect();
        // A request without input only loads the model, and reports nothing else.
        let worked = !self.is_empty();
        match self.shape {
            Shape::Native => json(&NativeBody {
                model: &self.model,
                embeddings: &vectors,
                total_duration: worked.then(|| clock::nanos(timings.total())),
                load_duration: worked.then(|| clock::nanos(timings.load)),
                prompt_eval_count: usage.filter(|_| worked),
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
