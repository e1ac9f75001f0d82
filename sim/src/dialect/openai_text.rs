//! `/v1/completions`: OpenAI's older text shape.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::openai::{DONE, FINGERPRINT, UsageBody, finish_reason, short_id};
use super::openai_request::StreamOptions;
use super::work::{Generate, Work};
use super::{Dialect, End, limit, read, sse, text_of};
use crate::ask::{Ask, Piece, Turn};
use crate::clock;
use crate::error::{ApiError, json};

#[derive(Deserialize)]
struct TextRequest {
    model: Option<String>,
    prompt: Option<Value>,
    max_tokens: Option<i64>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
}

/// Reads a request to `/v1/completions`.
pub(crate) fn complete(body: &[u8]) -> Result<Work, ApiError> {
    let request: TextRequest = read(body)?;
    let model = request.model.unwrap_or_default();
    let prompt = match request.prompt {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(prompt)) => prompt,
        Some(_) => {
            return Err(ApiError::bad_request(
                "json: cannot unmarshal array into Go struct field CompletionRequest.prompt of type string",
            ));
        }
    };
    let ask = Ask {
        model: model.clone(),
        turns: vec![Turn::new("user", prompt)],
        max_tokens: limit(request.max_tokens),
        tools: Vec::new(),
        format: None,
        think: None,
        purpose: "generate",
    };
    let include_usage = request.stream_options.and_then(|options| options.include_usage).unwrap_or(false);
    let dialect = Box::new(Text { model, include_usage, opening: None });
    let generate = Generate::plain(ask, request.stream.unwrap_or(false), dialect);
    Ok(Work::Generate(Generate { include_usage, ..generate }))
}

/// Writes the chunks of one text completion.
struct Text {
    model: String,
    include_usage: bool,
    /// Id and time, set by the first chunk.
    opening: Option<(String, i64)>,
}

#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    choices: &'a [Choice],
    model: &'a str,
    system_fingerprint: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageBody>,
}

#[derive(Serialize)]
struct Choice {
    text: String,
    index: usize,
    finish_reason: Option<&'static str>,
}

impl Text {
    fn body<'a>(&'a mut self, choices: &'a [Choice], usage: Option<UsageBody>) -> Body<'a> {
        let model = &self.model;
        let (id, created) = self.opening.get_or_insert_with(|| (short_id("cmpl", model), clock::unix_seconds()));
        Body {
            id,
            object: "text_completion",
            created: *created,
            choices,
            model,
            system_fingerprint: FINGERPRINT,
            usage,
        }
    }

    fn chunk(&mut self, text: String, finish_reason: Option<&'static str>) -> Bytes {
        let zero = self.include_usage.then(UsageBody::default);
        sse(&self.body(&[Choice { text, index: 0, finish_reason }], zero))
    }
}

impl Dialect for Text {
    /// Thinking is dropped, because the shape has no place for it.
    fn piece(&mut self, piece: &Piece, out: &mut VecDeque<Bytes>) {
        let chunk = self.chunk(text_of(std::slice::from_ref(piece)), None);
        out.push_back(chunk);
    }

    fn end(&mut self, end: &End, out: &mut VecDeque<Bytes>) {
        out.push_back(self.chunk(String::new(), end.reason.map(finish_reason)));
        if let Some(usage) = end.usage.filter(|_| self.include_usage) {
            out.push_back(sse(&self.body(&[], Some(usage.into()))));
        }
        out.push_back(Bytes::from_static(DONE));
    }

    fn error(&mut self) -> Option<Bytes> {
        self.body(&[], None);
        self.model.clear();
        Some(self.chunk(String::new(), None))
    }

    fn whole(&mut self, pieces: &[Piece], end: &End) -> String {
        let usage = if end.reason.is_none() { Some(UsageBody::default()) } else { end.usage.map(UsageBody::from) };
        let finish_reason = end.reason.map(finish_reason);
        json(&self.body(&[Choice { text: text_of(pieces), index: 0, finish_reason }], usage))
    }
}
