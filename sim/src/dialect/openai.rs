//! `/v1/chat/completions`, the answers: server-sent events in OpenAI's shape.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use super::{Dialect, End, Usage, sse, text_of, thinking_of};
use crate::ask::{Piece, Reason};
use crate::clock;
use crate::error::json;
use crate::text::{Numbers, hash};

/// The end of every OpenAI stream.
pub(super) const DONE: &[u8] = b"data: [DONE]\n\n";
pub(super) const FINGERPRINT: &str = "fp_ollama";

/// Writes the chunks of one chat completion.
#[derive(Default)]
pub(super) struct Chat {
    model: String,
    include_usage: bool,
    /// Set by the first chunk.
    opening: Option<Opening>,
    role_sent: bool,
    calls: usize,
}

struct Opening {
    id: String,
    created: i64,
}

/// An id as Ollama draws it: one of 999, not unique.
pub(super) fn short_id(prefix: &str, model: &str) -> String {
    let mut numbers = Numbers::seeded(hash([model]) ^ clock::wall().nanosecond() as u64);
    format!("{prefix}-{}", numbers.below(999))
}

/// Token counts in OpenAI's names.
#[derive(Clone, Copy, Default, Serialize)]
pub(super) struct UsageBody {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
}

impl From<Usage> for UsageBody {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt,
            completion_tokens: usage.completion,
            total_tokens: usage.prompt + usage.completion,
        }
    }
}

/// The name for the end of an answer.
pub(super) fn finish_reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Stop => "stop",
        Reason::Length => "length",
        Reason::ToolCalls => "tool_calls",
    }
}

#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: &'a [Choice],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageBody>,
}

#[derive(Serialize)]
struct Choice {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Said>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Said>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Said {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reasoning: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call>,
}

#[derive(Serialize)]
struct Call {
    id: String,
    index: usize,
    #[serde(rename = "type")]
    kind: &'static str,
    function: CalledFunction,
}

#[derive(Serialize)]
struct CalledFunction {
    name: String,
    arguments: String,
}

impl Chat {
    pub(super) fn new(model: String, include_usage: bool) -> Self {
        Self { model, include_usage, ..Self::default() }
    }

    fn body<'a>(&'a mut self, object: &'static str, choices: &'a [Choice], usage: Option<UsageBody>) -> Body<'a> {
        let model = &self.model;
        let opening = self
            .opening
            .get_or_insert_with(|| Opening { id: short_id("chatcmpl", model), created: clock::unix_seconds() });
        Body {
            id: &opening.id,
            object,
            created: opening.created,
            model,
            system_fingerprint: FINGERPRINT,
            choices,
            usage,
        }
    }

    fn chunk(&mut self, choices: &[Choice], usage: Option<UsageBody>) -> Bytes {
        sse(&self.body("chat.completion.chunk", choices, usage))
    }

    fn delta(&mut self, said: Said) -> Bytes {
        let role = if self.role_sent { None } else { Some("assistant") };
        self.role_sent = true;
        let delta = Some(Said { role, ..said });
        self.chunk(&[Choice { index: 0, delta, message: None, finish_reason: None }], None)
    }

    fn call(&mut self, id: &str, name: &str, arguments: &Value) -> Call {
        self.calls += 1;
        Call {
            id: id.to_owned(),
            index: self.calls - 1,
            kind: "function",
            function: CalledFunction { name: name.to_owned(), arguments: arguments.to_string() },
        }
    }
}

impl Dialect for Chat {
    fn piece(&mut self, piece: &Piece, out: &mut VecDeque<Bytes>) {
        let said = match piece {
            Piece::Text(text) => Said { content: Some(text.clone()), ..Said::default() },
            Piece::Thinking(text) => Said { reasoning: text.clone(), content: Some(String::new()), ..Said::default() },
            Piece::ToolCall { id, name, arguments } => {
                let tool_calls = vec![self.call(id, name, arguments)];
                Said { content: Some(String::new()), tool_calls, ..Said::default() }
            }
        };
        let chunk = self.delta(said);
        out.push_back(chunk);
    }

    fn end(&mut self, end: &End, out: &mut VecDeque<Bytes>) {
        if !self.role_sent {
            let empty = self.delta(Said { content: Some(String::new()), ..Said::default() });
            out.push_back(empty);
        }
        let finish_reason = end.reason.map(finish_reason);
        let last = Choice { index: 0, delta: Some(Said::default()), message: None, finish_reason };
        out.push_back(self.chunk(&[last], None));
        if let Some(usage) = end.usage.filter(|_| self.include_usage) {
            out.push_back(self.chunk(&[], Some(usage.into())));
        }
        out.push_back(Bytes::from_static(DONE));
    }

    fn error(&mut self) -> Option<Bytes> {
        self.role_sent = true;
        self.body("", &[], None);
        self.model.clear();
        Some(self.delta(Said { content: Some(String::new()), ..Said::default() }))
    }

    fn whole(&mut self, pieces: &[Piece], end: &End) -> String {
        let mut tool_calls = Vec::new();
        for piece in pieces {
            if let Piece::ToolCall { id, name, arguments } = piece {
                tool_calls.push(self.call(id, name, arguments));
            }
        }
        let message = Said {
            role: Some("assistant"),
            reasoning: thinking_of(pieces),
            content: Some(text_of(pieces)),
            tool_calls,
        };
        let finish_reason = end.reason.map(finish_reason);
        // A runner that stopped without counts reports zeros rather than no counts.
        let usage = if end.reason.is_none() { Some(UsageBody::default()) } else { end.usage.map(UsageBody::from) };
        let choices = [Choice { index: 0, delta: None, message: Some(message), finish_reason }];
        json(&self.body("chat.completion", &choices, usage))
    }
}
