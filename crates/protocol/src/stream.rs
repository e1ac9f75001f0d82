//! What passes through in a stream, and what is changed? In each dialect, from the first frame to the terminal one.
mod scan;
mod template;
#[cfg(test)]
mod tests;

use bytes::Bytes;

use self::scan::Scan;
pub use self::scan::StreamFault;
use super::cut::{self, StreamLimit, Terminal};
use super::endpoint::{Dialect, Endpoint};
use super::error::ErrorObject;
use super::frames::{EventData, Frames, Framing, event_data};
use super::json::Object;
use super::repeats::is_repetition;
use super::tally::AnswerProgress;

/// Follows one stream up to its terminal frame (`data: [DONE]`, `"done":true`, `message_stop`, `response.completed`):
/// counts tokens, reads the usage, and applies the edits.
#[derive(Debug)]
pub struct StreamEditor {
    frames: Frames,
    scan: Scan,
    limit: StreamLimit,
    /// Whether the gateway has ended the stream at its limit.
    is_cut: bool,
    /// The last good frame, which the gateway's own terminal frames are modelled on.
    last: Bytes,
    /// Where the terminal frame began in the buffer of the last push.
    terminal_at: usize,
}

impl StreamEditor {
    /// An editor for a stream of `endpoint`, whose answer gets an id made from the request's. Set `hide_usage` if an
    /// OpenAI client did not ask for the usage chunk.
    pub fn new(endpoint: Endpoint, request_id: &str, hide_usage: bool) -> Self {
        let framing = if endpoint.dialect() == Dialect::Ollama { Framing::Lines } else { Framing::Events };
        let scan = Scan::new(endpoint, endpoint.answer_id(request_id), hide_usage);
        let limit = StreamLimit { output: None, prompt: 0 };
        Self { frames: Frames::new(framing), scan, limit, is_cut: false, last: Bytes::new(), terminal_at: 0 }
    }

    /// Ends the stream with `length` once it has as many tokens as `limit` allows, if the node does not do so itself.
    pub fn limited(mut self, limit: StreamLimit) -> Self {
        self.limit = limit;
        self
    }

    /// Whether the stream was ended at its limit while the node was still working on it.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Takes the node's next bytes and appends to `out` what the client gets of the frames that are complete.
    ///
    /// # Errors
    /// [`StreamFault`]; `out` then holds the good frames before it.
    pub fn push(&mut self, chunk: Bytes, out: &mut Vec<u8>) -> Result<(), StreamFault> {
        let mut result = Ok(());
        // Taken out for the call, as the closure needs the rest of `self`.
        let mut frames = std::mem::replace(&mut self.frames, Frames::new(Framing::Lines));
        let pushed = frames.push(chunk, |frame| {
            // Anything after the terminal frame is dropped.
            if result.is_ok() && !self.scan.progress.done {
                result = self.take(frame, out);
            }
        });
        self.frames = frames;
        result.and_then(|()| pushed.map_err(|error| StreamFault::Garbled(error.to_string())))
    }

    /// The node's stream has ended properly. If it was broken off because the model repeated itself, appends the
    /// terminal frames to `out`. Returns whether the answer is complete.
    pub fn end(&mut self, out: &mut Vec<u8>) -> bool {
        if !self.scan.progress.done && self.frames.rest().is_empty() && self.scan.repeats.are_many() {
            self.break_off(out);
        }
        self.scan.progress.done
    }

    /// Splits the terminal frame off the buffer that the last push appended it to.
    pub fn split_terminal(&self, out: &mut Vec<u8>) -> Vec<u8> {
        if self.scan.progress.done { out.split_off(self.terminal_at.min(out.len())) } else { Vec::new() }
    }

    /// How far the stream has come.
    pub fn progress(&self) -> AnswerProgress {
        self.scan.progress
    }

    /// The frame that tells the client about a failure, in place of the terminal one.
    pub fn error_frame(&self, error: &ErrorObject<'_>) -> String {
        error.frame(self.scan.endpoint, &self.scan.id, self.scan.events)
    }

    fn take(&mut self, frame: Bytes, out: &mut Vec<u8>) -> Result<(), StreamFault> {
        let before = out.len();
        match self.scan.frame(&frame, out) {
            // The model repeated itself, which is no failure of the node.
            Err(StreamFault::Node(message)) if is_repetition(&message) && !self.last.is_empty() => self.break_off(out),
            Err(fault) => return Err(fault),
            Ok(()) if self.is_over(&frame) => {
                // The frame that goes beyond the limit is not passed on: the gateway's own end takes its place.
                out.truncate(before);
                self.last = frame;
                self.cut(out);
            }
            Ok(()) => self.last = frame,
        }
        if self.scan.progress.done {
            self.terminal_at = before;
        }
        Ok(())
    }

    /// Whether this frame is one token too many. A frame with the reason for the end is not.
    fn is_over(&self, frame: &[u8]) -> bool {
        let progress = &self.scan.progress;
        let is_beyond = self.limit.output.is_some_and(|most| progress.counted() > most);
        !progress.done && is_beyond && memchr::memmem::find(frame, b"\"finish_reason\":\"").is_none()
    }

    /// Ends the stream at its limit.
    fn cut(&mut self, out: &mut Vec<u8>) {
        self.scan.progress.cut_at(self.limit.output.unwrap_or_default());
        self.is_cut = true;
        self.finish(out);
    }

    /// Ends the stream where its node broke it off.
    fn break_off(&mut self, out: &mut Vec<u8>) {
        self.terminal_at = out.len();
        self.finish(out);
    }

    /// Appends the terminal frames after the node's last frame.
    fn finish(&mut self, out: &mut Vec<u8>) {
        let data = match event_data(&self.last) {
            EventData::One(data) if self.scan.endpoint.dialect() != Dialect::Ollama => &self.last[data],
            _ => &self.last[..],
        };
        let terminal = Terminal {
            endpoint: self.scan.endpoint,
            id: &self.scan.id,
            // It was parsed as an object before, unless it was a comment.
            after: Object::parse(data).ok(),
            prompt: self.limit.prompt,
            output: self.scan.progress.counted(),
            hide_usage: self.scan.hide_usage,
            sequence: self.scan.events,
        };
        out.extend_from_slice(cut::terminal(&terminal).as_bytes());
        self.scan.progress.done = true;
    }
}
