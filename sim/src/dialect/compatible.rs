//! `/v1/chat/completions` and `/v1/completions` as llama.cpp's server and vLLM write them.

use std::collections::VecDeque;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::openai::{DONE, finish_reason};
use super::{Dialect, End, Timings, Usage, sse, text_of, thinking_of};
use crate::ask::Piece;
use crate::clock;
use crate::config::SimKind;
use crate::error::{ApiError, Wire};
use crate::text::{Numbers, hash};

/// Which of the two routes.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum CompatibleRoute {
    Chat,
    Text,
}

/// Writes the chunks of one answer.
pub(crate) struct Compatible {
    kind: SimKind,
    route: CompatibleRoute,
    model: String,
    include_usage: bool,
    id: String,
    created: i64,
    role_sent: bool,
    calls: usize,
}

impl Compatible {
    pub(crate) fn new(kind: SimKind, route: CompatibleRoute, model: &str, include_usage: bool) -> Self {
        let mut numbers = Numbers::seeded(hash([model]) ^ u64::from(clock::wall().nanosecond()));
        let prefix = if route == CompatibleRoute::Text && kind == SimKind::Vllm { "cmpl" } else { "chatcmpl" };
        Self {
            kind,
            route,
            model: model.to_owned(),
            include_usage,
            id: format!("{prefix}-{:016x}{:016x}", numbers.next(), numbers.next()),
            created: clock::unix_seconds(),
            role_sent: false,
            calls: 0,
        }
    }

    fn is_chat(&self) -> bool {
        self.route == CompatibleRoute::Chat
    }

    fn body(&self, object: &str, choices: Value) -> Map<String, Value> {
        let mut body = Map::from_iter([
            ("id".to_owned(), json!(self.id)),
            ("object".to_owned(), json!(object)),
            ("created".to_owned(), json!(self.created)),
            ("model".to_owned(), json!(self.model)),
            ("choices".to_owned(), choices),
        ]);
        if self.kind == SimKind::LlamaServer {
            body.insert("system_fingerprint".to_owned(), json!("b10488-0123456"));
        }
        body
    }

    fn object(&self) -> &'static str {
        if self.is_chat() { "chat.completion.chunk" } else { "text_completion" }
    }

    fn chunk(&self, choices: Value) -> Map<String, Value> {
        self.body(self.object(), choices)
    }

    /// A chunk with one choice that contains `said`.
    fn said(&self, said: Value, finish_reason: Option<&str>) -> Map<String, Value> {
        let name = if self.is_chat() { "delta" } else { "text" };
        let mut choice = json!({"index": 0, "logprobs": null, "finish_reason": finish_reason});
        choice[name] = said;
        self.chunk(json!([choice]))
    }

    /// Writes the first chunk of a chat, which has only the role.
    fn begin(&mut self, out: &mut VecDeque<Bytes>) {
        if self.is_chat() && !self.role_sent {
            self.role_sent = true;
            let content = if self.kind == SimKind::LlamaServer { Value::Null } else { json!("") };
            out.push_back(sse(&self.said(json!({"role": "assistant", "content": content}), None)));
        }
    }

    fn usage(&self, usage: &Usage) -> Value {
        let details = (self.kind == SimKind::LlamaServer).then(|| json!({"cached_tokens": usage.cached}));
        json!({
            "prompt_tokens": usage.prompt, "completion_tokens": usage.completion,
            "total_tokens": usage.prompt + usage.completion, "prompt_tokens_details": details,
        })
    }

    /// Adds the counts and times that llama.cpp's server reports even without usage.
    fn add_timings(&self, body: &mut Map<String, Value>, end: &End) {
        if let (SimKind::LlamaServer, Some(usage)) = (self.kind, &end.usage) {
            body.insert("timings".to_owned(), timings(usage, &end.timings));
        }
    }
}

fn timings(usage: &Usage, timings: &Timings) -> Value {
    let milliseconds = |time: std::time::Duration| time.as_secs_f64().max(1e-6) * 1e3;
    let (read, decoded) = (usage.prompt - usage.cached, usage.completion);
    let (prompt_ms, predicted_ms) = (milliseconds(timings.prefill), milliseconds(timings.decode()));
    json!({
        "cache_n": usage.cached,
        "prompt_n": read, "prompt_ms": prompt_ms, "prompt_per_token_ms": prompt_ms / read.max(1) as f64,
        "prompt_per_second": read as f64 / prompt_ms * 1e3,
        "predicted_n": decoded, "predicted_ms": predicted_ms,
        "predicted_per_token_ms": predicted_ms / decoded.max(1) as f64,
        "predicted_per_second": decoded as f64 / predicted_ms * 1e3,
    })
}

impl Dialect for Compatible {
    fn piece(&mut self, piece: &Piece, out: &mut VecDeque<Bytes>) {
        self.begin(out);
        let said = match piece {
            Piece::Text(text) if self.is_chat() => json!({"content": text}),
            Piece::Text(text) | Piece::Thinking(text) if !self.is_chat() => json!(text),
            Piece::Text(text) | Piece::Thinking(text) => json!({"reasoning_content": text}),
            Piece::ToolCall { id, name, arguments } => {
                let index = self.calls;
                self.calls += 1;
                let function = json!({"name": name, "arguments": ""});
                let call = json!({"index": index, "id": id, "type": "function", "function": function});
                out.push_back(sse(&self.said(json!({"tool_calls": [call]}), None)));
                // Unlike Ollama, these servers send the arguments in pieces.
                let arguments = arguments.to_string();
                let (start, end) = arguments.split_at(1.min(arguments.len()));
                let piece = |text: &str| json!({"index": index, "function": {"arguments": text}});
                out.push_back(sse(&self.said(json!({"tool_calls": [piece(start)]}), None)));
                json!({"tool_calls": [piece(end)]})
            }
        };
        out.push_back(sse(&self.said(said, None)));
    }

    fn end(&mut self, end: &End, out: &mut VecDeque<Bytes>) {
        self.begin(out);
        let said = if self.is_chat() { json!({}) } else { json!("") };
        let mut last = self.said(said, end.reason.map(finish_reason));
        // In llama.cpp's server, text streams have no separate usage chunk.
        let has_usage_chunk = self.include_usage && (self.is_chat() || self.kind == SimKind::Vllm);
        if !has_usage_chunk {
            self.add_timings(&mut last, end);
        }
        out.push_back(sse(&last));
        if let Some(usage) = end.usage.as_ref().filter(|_| has_usage_chunk) {
            let mut chunk = self.chunk(json!([]));
            chunk.insert("usage".to_owned(), self.usage(usage));
            self.add_timings(&mut chunk, end);
            out.push_back(sse(&chunk));
        }
        out.push_back(Bytes::from_static(DONE));
    }

    fn error(&mut self) -> Option<Bytes> {
        let wire = if self.kind == SimKind::Vllm { Wire::Vllm } else { Wire::LlamaServer };
        let body = ApiError::internal("the simulated engine failed").body(wire);
        Some(Bytes::from(format!("data: {body}\n\n")))
    }

    fn whole(&mut self, pieces: &[Piece], end: &End) -> String {
        let mut choice = json!({"index": 0, "logprobs": null, "finish_reason": end.reason.map(finish_reason)});
        if self.is_chat() {
            let mut message = json!({"role": "assistant", "content": text_of(pieces)});
            let thinking = thinking_of(pieces);
            if !thinking.is_empty() {
                message["reasoning_content"] = json!(thinking);
            }
            let call = |piece: &Piece| match piece {
                Piece::ToolCall { id, name, arguments } => Some(json!({
                    "id": id, "type": "function",
                    "function": {"name": name, "arguments": arguments.to_string()},
                })),
                Piece::Text(_) | Piece::Thinking(_) => None,
            };
            let calls: Vec<Value> = pieces.iter().filter_map(call).collect();
            if !calls.is_empty() {
                message["tool_calls"] = json!(calls);
            }
            choice["message"] = message;
        } else {
            choice["text"] = json!(text_of(pieces));
        }
        let object = if self.is_chat() { "chat.completion" } else { "text_completion" };
        let mut body = self.body(object, json!([choice]));
        if let Some(usage) = &end.usage {
            body.insert("usage".to_owned(), self.usage(usage));
        }
        self.add_timings(&mut body, end);
        Value::Object(body).to_string()
    }
}
