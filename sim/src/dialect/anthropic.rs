//! `/v1/messages`: Anthropic's shape.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::work::{Generate, Work};
use super::{Dialect, End, Usage, limit, named_sse, read, text_of, thinking_of};
use crate::ask::{Ask, Piece, Reason, Tool, Turn};
use crate::clock;
use crate::config::SimKind;
use crate::error::ApiError;
use crate::text::{Numbers, hash};

#[derive(Deserialize)]
struct MessagesRequest {
    model: Option<String>,
    max_tokens: Option<i64>,
    system: Option<Value>,
    messages: Option<Vec<MessagesTurn>>,
    stream: Option<bool>,
    tools: Option<Vec<MessagesTool>>,
    thinking: Option<Thinking>,
}

#[derive(Deserialize)]
struct MessagesTurn {
    role: Option<String>,
    content: Option<Value>,
}

#[derive(Deserialize)]
struct MessagesTool {
    name: String,
    #[serde(default)]
    input_schema: Value,
}

#[derive(Deserialize)]
struct Thinking {
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Reads a request to `/v1/messages`.
pub(crate) fn messages(body: &[u8]) -> Result<Work, ApiError> {
    let request: MessagesRequest = read(body)?;
    let model = request.model.unwrap_or_default();
    if model.is_empty() {
        return Err(ApiError::bad_request("model is required"));
    }
    if request.max_tokens.unwrap_or_default() <= 0 {
        return Err(ApiError::bad_request("max_tokens is required and must be positive"));
    }
    let messages = request.messages.unwrap_or_default();
    if messages.is_empty() {
        return Err(ApiError::bad_request("messages is required"));
    }
    let mut turns = Vec::new();
    if let Some(system) = &request.system {
        turns.push(read_content("system", system)?);
    }
    for message in &messages {
        let role = message.role.as_deref().unwrap_or_default();
        turns.push(read_content(role, message.content.as_ref().unwrap_or(&Value::Null))?);
    }
    let tools = request.tools.unwrap_or_default().into_iter();
    let ask = Ask {
        model: model.clone(),
        turns,
        max_tokens: limit(request.max_tokens),
        tools: tools.map(|tool| Tool { name: tool.name, parameters: tool.input_schema }).collect(),
        format: None,
        // Only this route lets any model be asked to think; models that cannot, do not.
        think: request.thinking.filter(|thinking| thinking.kind.as_deref() != Some("enabled")).map(|_| false),
        purpose: "chat",
    };
    let dialect = Box::new(Messages::new(model, &ask));
    Ok(Work::Generate(Generate::plain(ask, request.stream.unwrap_or(false), dialect)))
}

fn read_content(role: &str, content: &Value) -> Result<Turn, ApiError> {
    let mut turn = Turn::new(role, "");
    match content {
        Value::String(text) => turn.text.push_str(text),
        Value::Array(blocks) => {
            for block in blocks {
                match block.get("type").and_then(Value::as_str) {
                    Some("image") => {
                        let kind = block.get("source").and_then(|source| source.get("type"));
                        if kind.and_then(Value::as_str) != Some("base64") {
                            return Err(ApiError::bad_request("invalid image source type: only base64 is supported"));
                        }
                        turn.images += 1;
                    }
                    Some("tool_result") => turn.role = "tool".to_owned(),
                    _ => turn.text.push_str(block.get("text").and_then(Value::as_str).unwrap_or_default()),
                }
            }
        }
        _ => return Err(ApiError::bad_request("invalid message content type")),
    }
    Ok(turn)
}

/// Writes the events of one message.
pub(crate) struct Messages {
    model: String,
    id: String,
    kind: SimKind,
    /// The counts that `message_start` reports: a rough guess in Ollama, the true counts elsewhere.
    prompt: Usage,
    started: bool,
    /// Blocks begun so far.
    blocks: usize,
    open: Option<Open>,
}

/// The block that is being written.
#[derive(Clone, Copy, PartialEq)]
enum Open {
    Text,
    Thinking,
}

impl Messages {
    fn new(model: String, ask: &Ask) -> Self {
        let mut numbers = Numbers::seeded(hash([model.as_str()]) ^ u64::from(clock::wall().nanosecond()));
        let id = format!("msg_{:024x}", u128::from(numbers.next()));
        let characters: usize = ask.turns.iter().map(|turn| turn.text.len()).sum();
        let prompt = Usage { prompt: characters as u64 / 4, cached: 0, completion: 0 };
        Self { model, id, kind: SimKind::Ollama, prompt, started: false, blocks: 0, open: None }
    }

    /// In the form of another server.
    pub(crate) fn of_kind(kind: SimKind, model: String, ask: &Ask) -> Self {
        Self { kind, ..Self::new(model, ask) }
    }

    /// llama.cpp's server reports cached tokens separately.
    fn usage(&self, usage: Usage) -> Value {
        match self.kind {
            SimKind::LlamaServer => json!({
                "cache_read_input_tokens": usage.cached, "input_tokens": usage.prompt - usage.cached,
                "output_tokens": usage.completion,
            }),
            SimKind::Ollama | SimKind::Vllm => {
                json!({"input_tokens": usage.prompt, "output_tokens": usage.completion})
            }
        }
    }

    fn message(&self, content: Value, stop_reason: Option<&str>, usage: Option<Usage>) -> Value {
        let mut message = json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model,
            "content": content, "stop_reason": stop_reason, "stop_sequence": null,
        });
        if let Some(usage) = usage {
            message["usage"] = self.usage(usage);
        }
        message
    }

    fn begin(&mut self, out: &mut VecDeque<Bytes>) {
        if !self.started {
            self.started = true;
            let message = self.message(json!([]), None, Some(self.prompt));
            event("message_start", json!({"message": message}), out);
        }
    }

    fn open(&mut self, block: Open, out: &mut VecDeque<Bytes>) {
        if self.open == Some(block) {
            return;
        }
        self.close(out);
        let content = match block {
            Open::Text => json!({"type": "text", "text": ""}),
            Open::Thinking => json!({"type": "thinking", "thinking": ""}),
        };
        event("content_block_start", json!({"index": self.blocks, "content_block": content}), out);
        self.open = Some(block);
        self.blocks += 1;
    }

    fn delta(&self, delta: Value, out: &mut VecDeque<Bytes>) {
        event("content_block_delta", json!({"index": self.blocks - 1, "delta": delta}), out);
    }

    fn close(&mut self, out: &mut VecDeque<Bytes>) {
        if self.open.take().is_some() {
            event("content_block_stop", json!({"index": self.blocks - 1}), out);
        }
    }
}

fn event(name: &str, mut data: Value, out: &mut VecDeque<Bytes>) {
    data["type"] = name.into();
    out.push_back(named_sse(name, &data));
}

fn stop_reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Stop => "end_turn",
        Reason::Length => "max_tokens",
        Reason::ToolCalls => "tool_use",
    }
}

impl Dialect for Messages {
    fn prompt_read(&mut self, usage: &Usage) {
        if self.kind != SimKind::Ollama {
            self.prompt = *usage;
        }
    }

    fn piece(&mut self, piece: &Piece, out: &mut VecDeque<Bytes>) {
        self.begin(out);
        match piece {
            Piece::Text(text) => {
                self.open(Open::Text, out);
                self.delta(json!({"type": "text_delta", "text": text}), out);
            }
            Piece::Thinking(text) => {
                self.open(Open::Thinking, out);
                self.delta(json!({"type": "thinking_delta", "thinking": text}), out);
            }
            Piece::ToolCall { id, name, arguments } => {
                self.close(out);
                let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                event("content_block_start", json!({"index": self.blocks, "content_block": block}), out);
                self.blocks += 1;
                self.delta(json!({"type": "input_json_delta", "partial_json": arguments.to_string()}), out);
                event("content_block_stop", json!({"index": self.blocks - 1}), out);
            }
        }
    }

    fn end(&mut self, end: &End, out: &mut VecDeque<Bytes>) {
        self.begin(out);
        self.close(out);
        let mut data = json!({"delta": {"stop_reason": end.reason.map(stop_reason), "stop_sequence": null}});
        if let Some(usage) = end.usage {
            data["usage"] = match self.kind {
                SimKind::LlamaServer => json!({"output_tokens": usage.completion}),
                SimKind::Ollama | SimKind::Vllm => self.usage(usage),
            };
        }
        event("message_delta", data, out);
        event("message_stop", json!({}), out);
    }

    /// On this route, an error just ends the stream.
    fn error(&mut self) -> Option<Bytes> {
        None
    }

    fn whole(&mut self, pieces: &[Piece], end: &End) -> String {
        let (thinking, text) = (thinking_of(pieces), text_of(pieces));
        let mut content = Vec::new();
        if !thinking.is_empty() {
            content.push(json!({"type": "thinking", "thinking": thinking}));
        }
        if !text.is_empty() {
            content.push(json!({"type": "text", "text": text}));
        }
        for piece in pieces {
            if let Piece::ToolCall { id, name, arguments } = piece {
                content.push(json!({"type": "tool_use", "id": id, "name": name, "input": arguments}));
            }
        }
        // An empty list is `nil` in Go, and `null` on the wire.
        let is_nil = content.is_empty() && self.kind == SimKind::Ollama;
        let content = if is_nil { Value::Null } else { Value::Array(content) };
        self.message(content, end.reason.map(stop_reason), end.usage).to_string()
    }
}
