//! What does one frame of a stream say, and how much of it passes through? In each dialect.
use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::template::Template;
use crate::endpoint::{Dialect, Endpoint};
use crate::frames::{EventData, event_data};
use crate::json::{Object, Splices, part_of, span};
use crate::repeats::Repeats;
use crate::tally::AnswerProgress;
use crate::text::{text_len, written};
use crate::usage::Usage;

/// Reads the frames of one stream in order.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) endpoint: Endpoint,
    /// The answer's id: a JSON string, quotes included.
    pub(super) id: String,
    pub(super) hide_usage: bool,
    pub(super) progress: AnswerProgress,
    pub(super) repeats: Repeats,
    /// Events so far, for dialects that number them.
    pub(super) events: u64,
    pub(super) template: Template,
    seen: Contents,
}

/// What the frame has in it.
#[derive(Clone, Debug, Default)]
struct Contents {
    texts: usize,
    /// Where the last of them is.
    text: Range<usize>,
    has_usage: bool,
}

impl Scan {
    /// At the beginning of a stream, whose answer gets this id: a JSON string with its quotes.
    pub(super) fn new(endpoint: Endpoint, id: String, hide_usage: bool) -> Self {
        Self {
            endpoint,
            id,
            hide_usage,
            progress: AnswerProgress::default(),
            repeats: Repeats::default(),
            events: 0,
            template: Template::default(),
            seen: Contents::default(),
        }
    }

    /// Reads a frame and appends to `out` the part that passes through.
    pub(super) fn frame(&mut self, frame: &[u8], out: &mut Vec<u8>) -> Result<(), StreamFault> {
        if self.endpoint.dialect() == Dialect::Ollama {
            return self.line(frame, out);
        }
        match self.template.text_of(frame) {
            Some(text) => {
                self.template.fill(text, out);
                self.events += 1;
                self.progress.token_chunks += 1;
                self.count(text);
                Ok(())
            }
            None => self.event(frame, out),
        }
    }

    /// Reads an event that is not like the template.
    fn event(&mut self, frame: &[u8], out: &mut Vec<u8>) -> Result<(), StreamFault> {
        let data = match event_data(frame) {
            EventData::None if is_comment(frame) => {
                out.extend_from_slice(frame);
                return Ok(());
            }
            EventData::None => return Err(StreamFault::Garbled("neither an event nor a comment".to_owned())),
            EventData::Many => return Err(StreamFault::Garbled("an event has several data lines".to_owned())),
            EventData::One(data) => data,
        };
        if &frame[data.clone()] == b"[DONE]" {
            self.progress.done = true;
            out.extend_from_slice(frame);
            return Ok(());
        }
        let offset = data.start;
        let object = Object::parse(&frame[data.clone()]).map_err(StreamFault::Garbled)?;
        if let Some(error) = object.present("error") {
            return Err(StreamFault::Node(error.get().chars().take(300).collect()));
        }
        let tokens_before = self.progress.token_chunks;
        self.seen = Contents::default();
        self.events += 1;
        let splices = match self.endpoint {
            Endpoint::Messages | Endpoint::Responses => Some(self.typed_event(frame, &frame[data], &object)?),
            _ => self.chunk(frame, &frame[data], offset, &object)?,
        };
        if let Some(splices) = splices {
            let Contents { texts, text, has_usage } = std::mem::take(&mut self.seen);
            let (edited_from, moved) = (out.len(), splices.moved(text.start));
            splices.apply(frame, out);
            let AnswerProgress { token_chunks, done, .. } = self.progress;
            if texts == 1 && !has_usage && !done && token_chunks == tokens_before + 1 {
                let moved = moved..moved + text.len();
                self.template.learn((frame, text), (&out[edited_from..], moved));
            }
        }
        Ok(())
    }

    /// Edits OpenAI's chunks: returns what to replace; `None` hides the chunk.
    fn chunk(
        &mut self,
        frame: &[u8],
        data: &[u8],
        offset: usize,
        object: &Object<'_>,
    ) -> Result<Option<Splices>, StreamFault> {
        // The only sign of a failure in Ollama's streams: a chunk without a model, after which the stream just ends.
        if object.get("model").is_some_and(|model| model.get() == "\"\"") {
            return Err(StreamFault::Node("the model stopped unexpectedly".to_owned()));
        }
        let choices = choices_of(object)?;
        if choices.iter().any(ChunkChoice::has_token) {
            self.progress.token_chunks += 1;
        }
        self.take_text(frame, object.present("choices").map_or("", RawValue::get));
        // Before the last chunk, a usage only shows the progress, which the chunks themselves show too.
        if choices.is_empty() || choices.iter().any(ChunkChoice::is_last) {
            self.report(Usage::of(self.endpoint, object));
        }
        let mut splices = Splices::default();
        if let Some(usage) = object.get("usage").filter(|_| self.hide_usage) {
            if choices.is_empty() && usage.get() != "null" {
                return Ok(None);
            }
            splices.remove(data, offset, object, |name| name == "usage");
        }
        if let Some(id) = object.get("id") {
            splices.replace(span(frame, id), self.id.as_str());
        }
        Ok(Some(splices))
    }

    /// Edits Anthropic's events and those of `/v1/responses`, which carry their type.
    fn typed_event(&mut self, frame: &[u8], data: &[u8], object: &Object<'_>) -> Result<Splices, StreamFault> {
        let mut splices = Splices::default();
        let usage = |inner: &Object<'_>| {
            inner.present("usage").map(|usage| Usage::parse(self.endpoint, usage)).unwrap_or_default()
        };
        let kind = object.get("type").map_or("", RawValue::get).trim_matches('"');
        match kind {
            "message_start" => {
                if let Some(message) = self.rename(frame, object.get("message"), &mut splices)? {
                    // Nothing has been written yet, whatever it says about the output.
                    let begun = Usage { completion_tokens: None, ..usage(&message) };
                    self.report(begun);
                }
            }
            "message_delta" => self.report(usage(object)),
            "message_stop" => self.progress.done = true,
            "response.created" | "response.in_progress" => {
                self.rename(frame, object.get("response"), &mut splices)?;
            }
            "response.completed" | "response.incomplete" => {
                if let Some(response) = self.rename(frame, object.get("response"), &mut splices)? {
                    self.report(usage(&response));
                }
                self.progress.done = true;
            }
            "response.failed" => return Err(StreamFault::Node("the response failed".to_owned())),
            kind if kind == "content_block_delta" || (kind.starts_with("response.") && kind.ends_with(".delta")) => {
                self.progress.token_chunks += 1;
                self.take_text(frame, std::str::from_utf8(data).unwrap_or_default());
            }
            _ => {}
        }
        Ok(splices)
    }

    /// Replaces the id of the object in an event, and returns the object.
    fn rename<'a>(
        &self,
        frame: &[u8],
        inner: Option<&'a RawValue>,
        splices: &mut Splices,
    ) -> Result<Option<Object<'a>>, StreamFault> {
        let Some(inner) = inner else { return Ok(None) };
        let object = Object::parse(inner.get().as_bytes()).map_err(StreamFault::Garbled)?;
        if let Some(id) = object.get("id") {
            splices.replace(span(frame, id), self.id.as_str());
        }
        Ok(Some(object))
    }

    /// A line of Ollama's own dialect, which passes through unchanged.
    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Result<(), StreamFault> {
        if line.trim_ascii().is_empty() {
            // Clients of this dialect do not accept blank lines.
            return Ok(());
        }
        let object = Object::parse(line).map_err(StreamFault::Garbled)?;
        if let Some(error) = object.present("error") {
            return Err(StreamFault::Node(error.get().chars().take(300).collect()));
        }
        self.take_text(line, std::str::from_utf8(line).unwrap_or_default());
        if object.get("done").is_some_and(|done| done.get() == "true") {
            self.report(Usage::of_native(self.endpoint, &object));
            self.progress.done = true;
        } else {
            self.progress.token_chunks += 1;
        }
        out.extend_from_slice(line);
        Ok(())
    }

    /// Counts the text in a part of a frame.
    fn take_text(&mut self, frame: &[u8], part: &str) {
        written(part, |text| {
            (self.seen.texts, self.seen.text) = (self.seen.texts + 1, part_of(frame, text));
            self.count(text);
        });
    }

    /// Counts a text, a JSON string with its quotes.
    fn count(&mut self, text: &str) {
        if text != "\"\"" {
            self.progress.text_bytes = self.progress.text_bytes.saturating_add(text_len(text) as u64);
            self.repeats.take(text);
        }
    }

    /// Usage may come in pieces; a later number takes precedence.
    fn report(&mut self, usage: Usage) {
        self.seen.has_usage = true;
        let whole = usage.or(self.progress.usage.unwrap_or_default());
        if whole != Usage::default() {
            self.progress.usage = Some(whole);
        }
    }
}

#[derive(Deserialize)]
struct ChunkChoice<'a> {
    #[serde(borrow)]
    delta: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
}

impl ChunkChoice<'_> {
    /// Ollama sends the finish reason in a separate chunk, with an empty delta or text.
    fn has_token(&self) -> bool {
        self.delta.is_some_and(|delta| delta.get() != "{}") || self.text.is_some_and(|text| text.get() != "\"\"")
    }

    fn is_last(&self) -> bool {
        self.finish_reason.is_some_and(|reason| reason.get() != "null")
    }
}

/// Whether an event without data is just a comment.
fn is_comment(frame: &[u8]) -> bool {
    frame.split(|byte| *byte == b'\n').all(|line| matches!(line, [] | b"\r" | [b':', ..]))
}

fn choices_of<'a>(object: &Object<'a>) -> Result<Vec<ChunkChoice<'a>>, StreamFault> {
    match object.present("choices") {
        None => Ok(Vec::new()),
        Some(choices) => serde_json::from_str(choices.get())
            .map_err(|_| StreamFault::Garbled("`choices` is not a list of choices".to_owned())),
    }
}

/// What ended a stream before its terminal frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamFault {
    /// It sent something that no node should send.
    #[error("the node sent something that is not part of an answer: {0}")]
    Garbled(String),
    /// The node reported a failure.
    #[error("the node reported an error in the stream: {0}")]
    Node(String),
}
