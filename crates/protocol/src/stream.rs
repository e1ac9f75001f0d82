//! What passes in a stream, and what is changed on the way? In each dialect, from the first frame to the terminal one.
#[cfg(test)]
mod cut_tests;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::Usage;
use super::cut::{self, StreamLimit};
use super::endpoint::{Dialect, Endpoint};
use super::error::ErrorObject;
use super::frames::{EventData, Frames, Framing, event_data};
use super::json::{Object, Splices, span};

/// Follows one stream up to its terminal frame (`data: [DONE]`, `"done":true`, `message_stop`, `response.completed`):
/// counts, reads the usage, splices the edits in.
#[derive(Debug)]
pub struct StreamEditor {
    frames: Frames,
    scan: Scan,
}

#[derive(Debug)]
struct Scan {
    endpoint: Endpoint,
    /// A JSON string, quotes included.
    id: String,
    hide_usage: bool,
    usage: Option<Usage>,
    token_chunks: u64,
    /// Events so far, for dialects that number them.
    events: u64,
    done: bool,
    limit: Option<StreamLimit>,
    /// The gateway has ended it, as it had come to its limit.
    is_cut: bool,
    /// Where the terminal frame began in what the last push appended to.
    terminal_at: usize,
}

/// How far a stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What the node reported, once it did.
    pub usage: Option<Usage>,
    /// Chunks with text, reasoning or a tool call so far: about one token each.
    pub token_chunks: u64,
    /// The terminal frame has passed: the answer is whole.
    pub done: bool,
}

/// Why a stream is of no use any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamFault {
    /// Not what Ollama sends.
    #[error("the node sent what is not a part of an answer: {0}")]
    Garbled(String),
    /// The node says that it failed.
    #[error("the node reported an error in the stream: {0}")]
    Node(String),
}

impl StreamEditor {
    /// A stream of `endpoint`, whose answer gets an id made from the request's; `hide_usage` when an OpenAI client did
    /// not ask for the usage chunk.
    pub fn new(endpoint: Endpoint, request_id: &str, hide_usage: bool) -> Self {
        let framing = if endpoint.dialect() == Dialect::Ollama { Framing::Lines } else { Framing::Events };
        let id = endpoint.answer_id(request_id);
        let scan = Scan {
            endpoint,
            id,
            hide_usage,
            usage: None,
            token_chunks: 0,
            events: 0,
            done: false,
            limit: None,
            is_cut: false,
            terminal_at: 0,
        };
        Self { frames: Frames::new(framing), scan }
    }

    /// Ends the stream with `length` once it has so many tokens, should the node not do so itself.
    pub fn limited(mut self, limit: Option<StreamLimit>) -> Self {
        self.scan.limit = limit;
        self
    }

    /// Whether the stream was ended at its limit, with the node still at it.
    pub fn is_cut(&self) -> bool {
        self.scan.is_cut
    }

    /// Takes the next bytes of the node and appends to `out` what the client gets of the frames that are complete.
    ///
    /// # Errors
    /// [`StreamFault`]; `out` then holds the good frames before it.
    pub fn push(&mut self, chunk: Bytes, out: &mut Vec<u8>) -> Result<(), StreamFault> {
        let scan = &mut self.scan;
        let mut result = Ok(());
        let pushed = self.frames.push(chunk, |frame| {
            // What stands behind the terminal frame belongs to nobody.
            if result.is_ok() && !scan.done {
                let before = out.len();
                result = scan.frame(&frame, out);
                if result.is_ok() && scan.is_over(&frame) {
                    out.truncate(before);
                    scan.cut(&frame, out);
                }
                if scan.done {
                    scan.terminal_at = before;
                }
            }
        });
        result.and_then(|()| pushed.map_err(|error| StreamFault::Garbled(error.to_string())))
    }

    /// Cuts the terminal frame off what the push that found it has appended to `out`.
    pub fn split_terminal(&self, out: &mut Vec<u8>) -> Vec<u8> {
        if self.scan.done { out.split_off(self.scan.terminal_at.min(out.len())) } else { Vec::new() }
    }

    /// How far the stream has come.
    pub fn progress(&self) -> Progress {
        Progress { usage: self.scan.usage, token_chunks: self.scan.token_chunks, done: self.scan.done }
    }

    /// The frame that tells the client of a failure, instead of the terminal one.
    pub fn error_frame(&self, error: &ErrorObject<'_>) -> String {
        error.frame(self.scan.endpoint, &self.scan.id, self.scan.events)
    }
}

impl Scan {
    /// Whether this frame is one token too many. A frame that says why the answer ends is none.
    fn is_over(&self, frame: &[u8]) -> bool {
        let is_beyond = self.limit.is_some_and(|limit| self.token_chunks > limit.output);
        !self.done && is_beyond && memchr::memmem::find(frame, b"\"finish_reason\":\"").is_none()
    }

    fn cut(&mut self, frame: &[u8], out: &mut Vec<u8>) {
        let data = match event_data(frame) {
            EventData::One(data) if self.endpoint.dialect() != Dialect::Ollama => &frame[data],
            _ => frame,
        };
        // It was read as an object before.
        let (Some(limit), Ok(over)) = (self.limit, Object::parse(data)) else { return };
        self.token_chunks = limit.output;
        (self.done, self.is_cut) = (true, true);
        let terminal = cut::terminal(self.endpoint, &self.id, &over, limit, self.hide_usage, self.events);
        out.extend_from_slice(terminal.as_bytes());
    }

    fn frame(&mut self, frame: &[u8], out: &mut Vec<u8>) -> Result<(), StreamFault> {
        if self.endpoint.dialect() == Dialect::Ollama {
            return self.line(frame, out);
        }
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
            self.done = true;
            out.extend_from_slice(frame);
            return Ok(());
        }
        let offset = data.start;
        let object = Object::parse(&frame[data.clone()]).map_err(StreamFault::Garbled)?;
        if let Some(error) = object.present("error") {
            return Err(StreamFault::Node(error.get().chars().take(300).collect()));
        }
        let splices = match self.endpoint {
            Endpoint::Messages | Endpoint::Responses => Some(self.typed_event(frame, &object)?),
            _ => self.chunk(frame, &frame[data], offset, &object)?,
        };
        if let Some(splices) = splices {
            splices.apply(frame, out);
        }
        Ok(())
    }

    /// OpenAI's chunks: says what to splice into one; `None` hides it.
    fn chunk(
        &mut self,
        frame: &[u8],
        data: &[u8],
        offset: usize,
        object: &Object<'_>,
    ) -> Result<Option<Splices>, StreamFault> {
        // Ollama's one sign of a failure in a stream: a chunk of no model, after which the stream just ends.
        if object.get("model").is_some_and(|model| model.get() == "\"\"") {
            return Err(StreamFault::Node("the model stopped unexpectedly".to_owned()));
        }
        let choices = choices_of(object)?;
        if choices.iter().any(Choice::has_token) {
            self.token_chunks += 1;
        }
        let mut splices = Splices::default();
        if let Some(usage) = object.get("usage") {
            if choices.is_empty() && usage.get() != "null" {
                self.usage = Some(Usage::parse(usage).map_err(StreamFault::Garbled)?);
                if self.hide_usage {
                    return Ok(None);
                }
            } else if self.hide_usage {
                splices.remove(data, offset, object, |name| name == "usage");
            }
        }
        if let Some(id) = object.get("id") {
            splices.replace(span(frame, id), self.id.as_str());
        }
        Ok(Some(splices))
    }

    /// Anthropic's events and those of `/v1/responses`, which name their type.
    fn typed_event(&mut self, frame: &[u8], object: &Object<'_>) -> Result<Splices, StreamFault> {
        self.events += 1;
        let mut splices = Splices::default();
        let kind = object.get("type").map_or("", RawValue::get).trim_matches('"');
        match kind {
            "message_start" => self.rename(frame, object.get("message"), &mut splices)?,
            "message_delta" => self.take_usage(object.present("usage"))?,
            "message_stop" => self.done = true,
            "response.created" | "response.in_progress" => self.rename(frame, object.get("response"), &mut splices)?,
            "response.completed" | "response.incomplete" => {
                self.rename(frame, object.get("response"), &mut splices)?;
                let response = object.get("response").map(|response| Object::parse(response.get().as_bytes()));
                let response = response.transpose().map_err(StreamFault::Garbled)?;
                self.take_usage(response.and_then(|response| response.present("usage")))?;
                self.done = true;
            }
            "response.failed" => return Err(StreamFault::Node("the response failed".to_owned())),
            "content_block_delta" => self.token_chunks += 1,
            kind if kind.starts_with("response.") && kind.ends_with(".delta") => self.token_chunks += 1,
            _ => {}
        }
        Ok(splices)
    }

    /// Replaces the id of the object that an event carries.
    fn rename(&self, frame: &[u8], inner: Option<&RawValue>, splices: &mut Splices) -> Result<(), StreamFault> {
        let Some(inner) = inner else { return Ok(()) };
        let object = Object::parse(inner.get().as_bytes()).map_err(StreamFault::Garbled)?;
        if let Some(id) = object.get("id") {
            splices.replace(span(frame, id), self.id.as_str());
        }
        Ok(())
    }

    fn take_usage(&mut self, usage: Option<&RawValue>) -> Result<(), StreamFault> {
        if let Some(usage) = usage {
            self.usage = Some(Usage::parse(usage).map_err(StreamFault::Garbled)?);
        }
        Ok(())
    }

    /// A line of Ollama's own dialect, which passes as it is.
    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Result<(), StreamFault> {
        if line.trim_ascii().is_empty() {
            // No client of this dialect stands a blank line.
            return Ok(());
        }
        let object = Object::parse(line).map_err(StreamFault::Garbled)?;
        if let Some(error) = object.present("error") {
            return Err(StreamFault::Node(error.get().chars().take(300).collect()));
        }
        if object.get("done").is_some_and(|done| done.get() == "true") {
            self.usage = Some(Usage::of_native(&object).map_err(StreamFault::Garbled)?);
            self.done = true;
        } else {
            self.token_chunks += 1;
        }
        out.extend_from_slice(line);
        Ok(())
    }
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    delta: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
}

impl Choice<'_> {
    /// Ollama sends the finish reason in a chunk of its own, with an empty delta or text.
    fn has_token(&self) -> bool {
        self.delta.is_some_and(|delta| delta.get() != "{}") || self.text.is_some_and(|text| text.get() != "\"\"")
    }
}

/// Whether an event without data says nothing to anybody.
fn is_comment(frame: &[u8]) -> bool {
    frame.split(|byte| *byte == b'\n').all(|line| matches!(line, [] | b"\r" | [b':', ..]))
}

fn choices_of<'a>(object: &Object<'a>) -> Result<Vec<Choice<'a>>, StreamFault> {
    match object.present("choices") {
        None => Ok(Vec::new()),
        Some(choices) => serde_json::from_str(choices.get())
            .map_err(|_| StreamFault::Garbled("the choices are of another kind".to_owned())),
    }
}
