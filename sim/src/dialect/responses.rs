//! `/v1/responses`, the answers: OpenAI's newer shape, with named events.

use std::collections::VecDeque;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Dialect, End, Usage, named_sse, text_of, thinking_of};
use crate::ask::Piece;
use crate::clock;
use crate::text::{Numbers, hash};

/// Writes the events of one response.
pub(crate) struct Responses {
    model: String,
    id: String,
    message_id: String,
    created: i64,
    sequence: u64,
    /// The finished items.
    output: Vec<Value>,
    open: Option<Open>,
    text: String,
}

/// The item that is being written.
#[derive(Clone, Copy, PartialEq)]
enum Open {
    Reasoning,
    Message,
}

impl Responses {
    pub(crate) fn new(model: String) -> Self {
        let mut numbers = Numbers::seeded(hash([model.as_str()]) ^ u64::from(clock::wall().nanosecond()));
        Self {
            id: format!("resp_{}", numbers.below(999_999)),
            message_id: format!("msg_{}", numbers.below(999_999)),
            created: clock::unix_seconds(),
            model,
            sequence: 0,
            output: Vec::new(),
            open: None,
            text: String::new(),
        }
    }

    fn event(&mut self, name: &str, mut data: Value, out: &mut VecDeque<Bytes>) {
        data["type"] = name.into();
        data["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        out.push_back(named_sse(name, &data));
    }

    fn response(&self, status: &str, usage: Option<Usage>) -> Value {
        json!({
            "id": self.id, "object": "response", "created_at": self.created, "status": status,
            "model": self.model, "output": self.output, "error": null, "store": false,
            "usage": usage.map(|usage| json!({
                "input_tokens": usage.prompt,
                "output_tokens": usage.completion,
                "total_tokens": usage.prompt + usage.completion,
                "input_tokens_details": {"cached_tokens": usage.cached},
                "output_tokens_details": {"reasoning_tokens": 0},
            })),
        })
    }

    fn begin(&mut self, out: &mut VecDeque<Bytes>) {
        if self.sequence == 0 {
            for (name, status) in [("response.created", "in_progress"), ("response.in_progress", "in_progress")] {
                let response = self.response(status, None);
                self.event(name, json!({"response": response}), out);
            }
        }
    }

    /// Opens the item, after closing the one before.
    fn open(&mut self, item: Open, out: &mut VecDeque<Bytes>) {
        if self.open == Some(item) {
            return;
        }
        self.close(out);
        self.open = Some(item);
        let index = self.output.len();
        let message_id = self.message_id.clone();
        match item {
            Open::Reasoning => {
                let item = json!({"id": format!("rs_{}", self.id), "type": "reasoning", "summary": []});
                self.event("response.output_item.added", json!({"output_index": index, "item": item}), out);
            }
            Open::Message => {
                let item = json!({"id": message_id, "type": "message", "status": "in_progress",
                    "role": "assistant", "content": []});
                self.event("response.output_item.added", json!({"output_index": index, "item": item}), out);
                let part = output_text("");
                self.event(
                    "response.content_part.added",
                    json!({"item_id": message_id, "output_index": index, "content_index": 0, "part": part}),
                    out,
                );
            }
        }
    }

    fn close(&mut self, out: &mut VecDeque<Bytes>) {
        let text = std::mem::take(&mut self.text);
        let index = self.output.len();
        let message_id = self.message_id.clone();
        let item = match self.open.take() {
            None => return,
            Some(Open::Reasoning) => {
                let id = format!("rs_{}", self.id);
                let data = json!({"item_id": id, "output_index": index, "summary_index": 0, "text": text});
                self.event("response.reasoning_summary_text.done", data, out);
                self.reasoning(&text)
            }
            Some(Open::Message) => {
                let at = json!({"item_id": message_id, "output_index": index, "content_index": 0});
                self.event("response.output_text.done", with(&at, "text", json!(text)), out);
                self.event("response.content_part.done", with(&at, "part", output_text(&text)), out);
                self.message(&text)
            }
        };
        self.output.push(item.clone());
        self.event("response.output_item.done", json!({"output_index": index, "item": item}), out);
    }

    fn message(&self, text: &str) -> Value {
        json!({"id": self.message_id, "type": "message", "status": "completed", "role": "assistant",
            "content": [output_text(text)]})
    }

    fn reasoning(&self, text: &str) -> Value {
        let summary = json!([{"type": "summary_text", "text": text}]);
        json!({"id": format!("rs_{}", self.id), "type": "reasoning", "summary": summary})
    }
}

fn output_text(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn with(object: &Value, name: &str, value: Value) -> Value {
    let mut object = object.clone();
    object[name] = value;
    object
}

fn call(id: &str, name: &str, arguments: &Value) -> Value {
    json!({"id": format!("fc_{id}"), "type": "function_call", "status": "completed", "call_id": id,
        "name": name, "arguments": arguments.to_string()})
}

impl Dialect for Responses {
    fn piece(&mut self, piece: &Piece, out: &mut VecDeque<Bytes>) {
        self.begin(out);
        match piece {
            Piece::Thinking(text) => {
                self.open(Open::Reasoning, out);
                self.text.push_str(text);
                let id = format!("rs_{}", self.id);
                let index = self.output.len();
                let data = json!({"item_id": id, "output_index": index, "summary_index": 0, "delta": text});
                self.event("response.reasoning_summary_text.delta", data, out);
            }
            Piece::Text(text) => {
                self.open(Open::Message, out);
                self.text.push_str(text);
                let (id, index) = (self.message_id.clone(), self.output.len());
                let data = json!({"item_id": id, "output_index": index, "content_index": 0, "delta": text});
                self.event("response.output_text.delta", data, out);
            }
            Piece::ToolCall { id, name, arguments } => {
                self.close(out);
                let index = self.output.len();
                let item = call(id, name, arguments);
                self.output.push(item.clone());
                self.event("response.output_item.added", json!({"output_index": index, "item": item}), out);
                let arguments = arguments.to_string();
                let data = json!({"item_id": item["id"], "output_index": index, "arguments": arguments});
                self.event("response.function_call_arguments.done", data, out);
                self.event("response.output_item.done", json!({"output_index": index, "item": item}), out);
            }
        }
    }

    fn end(&mut self, end: &End, out: &mut VecDeque<Bytes>) {
        self.begin(out);
        self.close(out);
        let response = self.response("completed", end.usage);
        self.event("response.completed", json!({"response": response}), out);
    }

    /// On this route, an error just ends the stream.
    fn error(&mut self) -> Option<Bytes> {
        None
    }

    fn whole(&mut self, pieces: &[Piece], end: &End) -> String {
        let (thinking, text) = (thinking_of(pieces), text_of(pieces));
        if !thinking.is_empty() {
            self.output.push(self.reasoning(&thinking));
        }
        if !text.is_empty() {
            self.output.push(self.message(&text));
        }
        for piece in pieces {
            if let Piece::ToolCall { id, name, arguments } = piece {
                self.output.push(call(id, name, arguments));
            }
        }
        self.response(if end.reason.is_some() { "completed" } else { "in_progress" }, end.usage).to_string()
    }
}
