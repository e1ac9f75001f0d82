//! `/api/chat` and `/api/generate`, the answers: NDJSON.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use super::{Dialect, End, text_of, thinking_of};
use crate::ask::{Piece, Reason};
use crate::clock;
use crate::error::json;

const STREAM_ERROR: &[u8] = b"{\"error\":\"an error was encountered while running the model: unexpected EOF\"}\n";

/// Which of the two routes.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Route {
    Chat,
    Generate,
}

/// Writes the lines of one answer.
pub(super) struct Native {
    route: Route,
    model: String,
    raw: bool,
    calls: usize,
    tokens: u64,
}

#[derive(Default, Serialize)]
struct Said {
    role: &'static str,
    content: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    thinking: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call>,
}

#[derive(Serialize)]
struct Call {
    id: String,
    function: CalledFunction,
}

#[derive(Serialize)]
struct CalledFunction {
    index: usize,
    name: String,
    arguments: Value,
}

#[derive(Default, Serialize)]
struct Line<'a> {
    model: &'a str,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Said>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call>,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    done_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Vec<u64>>,
    #[serde(flatten)]
    metrics: Metrics,
}

/// Nanoseconds and counts; Ollama leaves zeros out.
#[derive(Default, Serialize)]
struct Metrics {
    #[serde(skip_serializing_if = "is_zero")]
    total_duration: u64,
    #[serde(skip_serializing_if = "is_zero")]
    load_duration: u64,
    #[serde(skip_serializing_if = "is_zero")]
    prompt_eval_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    prompt_eval_duration: u64,
    #[serde(skip_serializing_if = "is_zero")]
    eval_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    eval_duration: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Metrics {
    fn of(end: &End) -> Self {
        Self {
            total_duration: clock::nanos(end.timings.total()),
            load_duration: clock::nanos(end.timings.load),
            prompt_eval_count: end.usage.map_or(0, |usage| usage.prompt),
            prompt_eval_duration: clock::nanos(end.timings.prefill),
            eval_count: end.usage.map_or(0, |usage| usage.completion),
            eval_duration: clock::nanos(end.timings.decode()),
        }
    }
}

/// The answer to a request that only loads or unloads on `/api/chat`.
pub(super) fn chat_residence(model: &str, reason: &str) -> String {
    let message = Some(Said { role: "assistant", ..Said::default() });
    json(&Line { message, ..Line::closing(model, reason) })
}

/// The same for `/api/generate`.
pub(super) fn generate_residence(model: &str, reason: &str) -> String {
    json(&Line { response: Some(String::new()), ..Line::closing(model, reason) })
}

impl<'a> Line<'a> {
    fn closing(model: &'a str, reason: &'a str) -> Self {
        Line { model, created_at: clock::timestamp(), done: true, done_reason: Some(reason), ..Line::default() }
    }
}

impl Native {
    pub(super) fn new(route: Route, model: String, raw: bool) -> Self {
        Self { route, model, raw, calls: 0, tokens: 0 }
    }

    /// A line with this content.
    fn line(&mut self, content: String, thinking: String, pieces: &[Piece]) -> Line<'_> {
        let tool_calls = self.calls(pieces);
        let line = Line { model: &self.model, created_at: clock::timestamp(), ..Line::default() };
        match self.route {
            Route::Chat => Line { message: Some(Said { role: "assistant", content, thinking, tool_calls }), ..line },
            Route::Generate => {
                let thinking = Some(thinking).filter(|thinking| !thinking.is_empty());
                Line { response: Some(content), thinking, tool_calls, ..line }
            }
        }
    }

    fn calls(&mut self, pieces: &[Piece]) -> Vec<Call> {
        let mut calls = Vec::new();
        for piece in pieces {
            if let Piece::ToolCall { id, name, arguments } = piece {
                let function = CalledFunction { index: self.calls, name: name.clone(), arguments: arguments.clone() };
                calls.push(Call { id: id.clone(), function });
                self.calls += 1;
            }
        }
        calls
    }

    /// The token numbers that continue the conversation; only their count means anything here.
    fn context(&self, end: &End) -> Option<Vec<u64>> {
        let wanted = self.route == Route::Generate && !self.raw;
        wanted.then(|| (0..end.usage.map_or(0, |usage| usage.prompt) + self.tokens).map(|i| 1000 + i).collect())
    }

    fn finish<'a>(line: Line<'a>, end: &End, context: Option<Vec<u64>>) -> Line<'a> {
        let Some(reason) = end.reason else { return line };
        let reason = if reason == Reason::Length { "length" } else { "stop" };
        Line { done: true, done_reason: Some(reason), context, metrics: Metrics::of(end), ..line }
    }
}

impl Dialect for Native {
    fn stream_type(&self) -> &'static str {
        "application/x-ndjson"
    }

    fn piece(&mut self, piece: &Piece, out: &mut VecDeque<Bytes>) {
        self.tokens += piece.tokens();
        let pieces = std::slice::from_ref(piece);
        let line = self.line(text_of(pieces), thinking_of(pieces), pieces);
        out.push_back(Bytes::from(json(&line) + "\n"));
    }

    fn end(&mut self, end: &End, out: &mut VecDeque<Bytes>) {
        let context = self.context(end);
        let line = Self::finish(self.line(String::new(), String::new(), &[]), end, context);
        out.push_back(Bytes::from(json(&line) + "\n"));
    }

    fn error(&mut self) -> Option<Bytes> {
        Some(Bytes::from_static(STREAM_ERROR))
    }

    fn garbage(&self) -> Bytes {
        Bytes::from_static(b"this is not json\n")
    }

    fn whole(&mut self, pieces: &[Piece], end: &End) -> String {
        self.tokens = pieces.iter().map(Piece::tokens).sum();
        let context = self.context(end);
        json(&Self::finish(self.line(text_of(pieces), thinking_of(pieces), pieces), end, context))
    }
}
