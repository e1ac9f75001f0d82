//! What does a request ask, and what is the answer? Independent of dialects and of time.

use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::model::SimModel;
use crate::text::{Numbers, WORD, count_tokens, hash, length_mark, pieces_of, repeat_mark};

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Turn {
    pub(crate) role: String,
    pub(crate) text: String,
    pub(crate) images: usize,
}

impl Turn {
    pub(crate) fn new(role: &str, text: impl Into<String>) -> Self {
        Self { role: role.to_owned(), text: text.into(), images: 0 }
    }
}

/// A tool on offer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) parameters: Value,
}

/// A generation request, whichever route it came on.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// The model as the request named it.
    pub(crate) model: String,
    pub(crate) turns: Vec<Turn>,
    /// The most tokens of the answer; `None` leaves the length to the prompt.
    pub(crate) max_tokens: Option<u64>,
    pub(crate) tools: Vec<Tool>,
    /// When set, the answer is a JSON value that fits this schema (`Null`: any object).
    pub(crate) format: Option<Value>,
    /// Whether the model should reason first; `None` leaves that to the model.
    pub(crate) think: Option<bool>,
    /// `chat` or `generate`, for the error that an embedding model does not support it.
    pub(crate) purpose: &'static str,
}

impl Ask {
    pub(crate) fn prompt_tokens(&self) -> u64 {
        self.turns.iter().map(|turn| count_tokens(&turn.text) + 10 + 256 * turn.images as u64).sum()
    }

    /// The conversation as one text.
    pub(crate) fn transcript(&self) -> String {
        self.turns.iter().map(|turn| format!("{}: {}\n", turn.role, turn.text)).collect()
    }

    pub(crate) fn images(&self) -> usize {
        self.turns.iter().map(|turn| turn.images).sum()
    }

    /// Refuses what the model cannot do.
    pub(crate) fn check(&self, model: &SimModel) -> Result<(), ApiError> {
        let library_name = format!("registry.ollama.ai/library/{}", model.name);
        if !model.can("completion") {
            return Err(ApiError::bad_request(format!("\"{}\" does not support {}", self.model, self.purpose)));
        }
        if self.think == Some(true) && !model.can("thinking") {
            return Err(ApiError::bad_request(format!("\"{}\" does not support thinking", self.model)));
        }
        if !self.tools.is_empty() && !model.can("tools") {
            return Err(ApiError::bad_request(format!("{library_name} does not support tools")));
        }
        if self.images() > 0 && !model.can("vision") {
            return Err(ApiError::bad_request(format!("{library_name} does not support vision")));
        }
        Ok(())
    }

    /// The tool to call: the first one, if the user spoke last and mentioned a tool or the weather.
    fn called_tool(&self) -> Option<&Tool> {
        let users = self.turns.iter().rev().take_while(|turn| turn.role == "user");
        let mentions = |turn: &Turn| {
            let text = turn.text.to_lowercase();
            text.contains("tool") || text.contains("weather")
        };
        if users.into_iter().any(mentions) { self.tools.first() } else { None }
    }

    /// The turns to answer, and the start of the answer if the last turn is the assistant's.
    fn split_prefill(&self) -> (&[Turn], &str) {
        match self.turns.split_last() {
            Some((last, before)) if last.role == "assistant" && !before.is_empty() => (before, &last.text),
            _ => (&self.turns, ""),
        }
    }
}

/// One step of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece {
    /// One token of reasoning.
    Thinking(String),
    /// One token of text.
    Text(String),
    /// One complete call.
    ToolCall {
        /// As `call_ab12cd34`.
        id: String,
        name: String,
        /// A JSON object.
        arguments: Value,
    },
}

impl Piece {
    pub(crate) fn tokens(&self) -> u64 {
        match self {
            Piece::Thinking(_) | Piece::Text(_) => 1,
            Piece::ToolCall { arguments, .. } => 8 + count_tokens(&arguments.to_string()),
        }
    }
}

/// Why an answer ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Reason {
    Stop,
    Length,
    ToolCalls,
}

/// A whole answer, before any of it is sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) reason: Reason,
}

/// The answer to a request. Every node gives the same one.
pub(crate) fn answer(ask: &Ask, model: &SimModel) -> Answer {
    let (turns, prefill) = ask.split_prefill();
    let images = ask.images().to_string();
    let parts = turns.iter().flat_map(|turn| [turn.role.as_str(), turn.text.as_str()]);
    let mut numbers = Numbers::seeded(hash(parts.chain([images.as_str()])));

    if let Some(tool) = ask.called_tool() {
        let id = format!("call_{:08x}", numbers.next() & 0xffff_ffff);
        let call = Piece::ToolCall { id, name: tool.name.clone(), arguments: sample(&tool.parameters) };
        return Answer { pieces: vec![call], reason: Reason::ToolCalls };
    }

    let length = turns.iter().rev().find_map(|turn| length_mark(&turn.text));
    let drawn = 20 + numbers.below(101);
    let thinks = ask.think.unwrap_or_else(|| model.can("thinking")) && prefill.is_empty();
    let thoughts = if thinks { (length.unwrap_or(drawn) / 4).min(16) } else { 0 };
    let mut pieces: Vec<Piece> = (0..thoughts).map(|i| Piece::Thinking(spaced(i, numbers.word()))).collect();
    match &ask.format {
        Some(schema) => {
            pieces.extend(pieces_of(&sample(schema).to_string()).into_iter().map(Piece::Text));
        }
        None if turns.iter().any(|turn| repeat_mark(&turn.text)) => {
            let count = length.unwrap_or(drawn) - thoughts;
            pieces.extend((0..count).map(|_| Piece::Text(WORD.to_owned())));
        }
        None => pieces.extend(words(ask.images(), length.unwrap_or(drawn) - thoughts, &mut numbers)),
    }
    skip_prefill(&mut pieces, prefill);
    limited(pieces, ask.max_tokens)
}

/// `count` tokens of prose. A vision model first says how many images it saw.
fn words(images: usize, count: u64, numbers: &mut Numbers) -> impl Iterator<Item = Piece> {
    let noun = if images == 1 { "image:" } else { "images:" };
    let mut sight = if images > 0 {
        vec!["I".to_owned(), "see".to_owned(), images.to_string(), noun.to_owned()].into_iter()
    } else {
        Vec::new().into_iter()
    };
    (0..count).map(move |i| {
        let word = sight.next().unwrap_or_else(|| numbers.word().to_owned());
        Piece::Text(spaced(i, &word))
    })
}

fn spaced(index: u64, word: &str) -> String {
    if index == 0 { word.to_owned() } else { format!(" {word}") }
}

/// Continues where a trailing assistant message stops, provided that the answer begins with it.
fn skip_prefill(pieces: &mut Vec<Piece>, prefill: &str) {
    let mut rest = prefill;
    let mut done = 0;
    for piece in pieces.iter() {
        let Piece::Text(text) = piece else { break };
        let Some(tail) = rest.strip_prefix(text.as_str()) else { break };
        rest = tail;
        done += 1;
    }
    if rest.trim().is_empty() {
        pieces.drain(..done);
    }
}

/// As in the runner, an answer that reaches the limit ends with `length` even if it would have stopped there anyway.
fn limited(mut pieces: Vec<Piece>, max_tokens: Option<u64>) -> Answer {
    let reason = match max_tokens {
        Some(limit) if limit <= pieces.len() as u64 => {
            pieces.truncate(limit as usize);
            Reason::Length
        }
        _ => Reason::Stop,
    };
    Answer { pieces, reason }
}

/// A small value that fits a JSON schema; a small object when there is none.
fn sample(schema: &Value) -> Value {
    if let Some(choice) = schema.get("enum").and_then(|choices| choices.get(0)) {
        return choice.clone();
    }
    let kind = schema.get("type").and_then(Value::as_str);
    match (kind, schema.get("properties").and_then(Value::as_object)) {
        (_, Some(properties)) => {
            Value::Object(properties.iter().map(|(name, schema)| (name.clone(), sample(schema))).collect())
        }
        (Some("string"), _) => Value::from("sample"),
        (Some("integer" | "number"), _) => Value::from(1),
        (Some("boolean"), _) => Value::from(true),
        (Some("array"), _) => Value::Array(schema.get("items").map(sample).into_iter().collect()),
        (Some("object"), _) => Value::Object(Map::new()),
        _ => Value::Object(Map::from_iter([("answer".to_owned(), Value::from("yes"))])),
    }
}
