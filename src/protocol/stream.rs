//! What passes in a stream of server-sent events, and what is changed on the way?
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::Usage;
use super::frames::{EventData, Frames, Framing, event_data};
use super::json::{Object, Splices, member_span, span};

/// Follows one stream from its first byte to `data: [DONE]`: counts, reads the usage, splices the edits in.
#[derive(Debug)]
pub struct StreamEditor {
    frames: Frames,
    scan: Scan,
}

#[derive(Debug)]
struct Scan {
    /// A JSON string, quotes included.
    id: String,
    hide_usage: bool,
    usage: Option<Usage>,
    token_chunks: u64,
    done: bool,
}

/// How far a stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What the node reported, once it did.
    pub usage: Option<Usage>,
    /// Chunks with text, reasoning or a tool call so far: about one token each.
    pub token_chunks: u64,
    /// `[DONE]` has passed: the answer is whole.
    pub done: bool,
}

/// Why a stream is of no use any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamFault {
    /// Not what Ollama sends.
    #[error("the node sent what is not an event of a completion: {0}")]
    Garbled(String),
    /// The node says that it failed.
    #[error("the node reported an error in the stream: {0}")]
    Node(String),
}

impl StreamEditor {
    /// `id` is a JSON string with its quotes; `hide_usage` when the client did not ask for the usage chunk.
    pub fn new(id: String, hide_usage: bool) -> Self {
        let scan = Scan { id, hide_usage, usage: None, token_chunks: 0, done: false };
        Self { frames: Frames::new(Framing::Events), scan }
    }

    /// Takes the next bytes of the node and appends to `out` what the client gets of the events that are complete.
    ///
    /// # Errors
    /// [`StreamFault`]; `out` then holds the good events before it.
    pub fn push(&mut self, chunk: Bytes, out: &mut Vec<u8>) -> Result<(), StreamFault> {
        let scan = &mut self.scan;
        let mut result = Ok(());
        let pushed = self.frames.push(chunk, |frame| {
            // What stands behind `[DONE]` belongs to nobody.
            if result.is_ok() && !scan.done {
                result = scan.event(&frame, out);
            }
        });
        result.and_then(|()| pushed.map_err(|error| StreamFault::Garbled(error.to_string())))
    }

    /// How far the stream has come.
    pub fn progress(&self) -> Progress {
        Progress { usage: self.scan.usage, token_chunks: self.scan.token_chunks, done: self.scan.done }
    }
}

impl Scan {
    fn event(&mut self, frame: &[u8], out: &mut Vec<u8>) -> Result<(), StreamFault> {
        let data = match event_data(frame) {
            EventData::None => {
                out.extend_from_slice(frame);
                return Ok(());
            }
            EventData::Many => return Err(StreamFault::Garbled("an event has several data lines".to_owned())),
            EventData::One(data) => data,
        };
        if &frame[data.clone()] == b"[DONE]" {
            self.done = true;
            out.extend_from_slice(frame);
            return Ok(());
        }
        let object = Object::parse(&frame[data]).map_err(StreamFault::Garbled)?;
        if let Some(error) = object.present("error") {
            return Err(StreamFault::Node(error.get().chars().take(300).collect()));
        }
        // Ollama's one sign of a failure in a stream: a chunk of no model, after which the stream just ends.
        if object.get("model").is_some_and(|model| model.get() == "\"\"") {
            return Err(StreamFault::Node("the model stopped unexpectedly".to_owned()));
        }
        let Some(splices) = self.chunk(frame, &object)? else {
            return Ok(());
        };
        splices.apply(frame, out);
        Ok(())
    }

    /// Reads one chunk and says what to splice into it; `None` hides it.
    fn chunk(&mut self, frame: &[u8], object: &Object<'_>) -> Result<Option<Splices>, StreamFault> {
        let choices = choices_of(object)?;
        let mut splices = Splices::default();
        if choices.iter().any(Choice::has_token) {
            self.token_chunks += 1;
        }
        if let Some(usage) = object.get("usage") {
            if choices.is_empty() && usage.get() != "null" {
                let usage = serde_json::from_str(usage.get());
                self.usage = Some(usage.map_err(|_| StreamFault::Garbled("the usage is of another kind".to_owned()))?);
                if self.hide_usage {
                    return Ok(None);
                }
            } else if self.hide_usage
                && let Some(member) = member_span(frame, "usage", span(frame, usage))
            {
                splices.replace(member, "");
            }
        }
        if let Some(id) = object.get("id") {
            splices.replace(span(frame, id), self.id.as_str());
        }
        Ok(Some(splices))
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

fn choices_of<'a>(object: &Object<'a>) -> Result<Vec<Choice<'a>>, StreamFault> {
    match object.present("choices") {
        None => Ok(Vec::new()),
        Some(choices) => serde_json::from_str(choices.get())
            .map_err(|_| StreamFault::Garbled("the choices are of another kind".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &str = concat!(
        "data: {\"id\":\"chatcmpl-417\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"Hé\"},\"finish_reason\":null}]}\n\n",
        ": a comment\n\n",
        "data: {\"id\":\"chatcmpl-417\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"llo\"},\"finish_reason\":null}],\"usage\":{\"prompt_tokens\":0}}\n\n",
        "data: {\"id\":\"chatcmpl-417\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
        "data: {\"id\":\"chatcmpl-417\",\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":26,\"completion_tokens\":2,\"total_tokens\":28}}\n\n",
        "data: [DONE]\n\n",
    );

    fn run(hide: bool, chunks: &[&[u8]]) -> (Result<(), StreamFault>, Progress, String) {
        let mut editor = StreamEditor::new("\"new\"".to_owned(), hide);
        let mut out = Vec::new();
        let mut result = Ok(());
        for chunk in chunks {
            result = result.and_then(|()| editor.push(Bytes::copy_from_slice(chunk), &mut out));
        }
        (result, editor.progress(), String::from_utf8_lossy(&out).into_owned())
    }

    #[test]
    fn a_client_that_asked_gets_everything_but_the_old_ids() {
        let (result, progress, text) = run(false, &[STREAM.as_bytes()]);
        assert_eq!(result, Ok(()));
        assert_eq!(text, STREAM.replace("\"chatcmpl-417\"", "\"new\""));
        let usage = Usage { prompt_tokens: Some(26), completion_tokens: Some(2) };
        assert_eq!(progress, Progress { usage: Some(usage), token_chunks: 2, done: true });
    }

    #[test]
    fn a_client_that_did_not_ask_sees_no_usage_at_all() {
        let (_, progress, text) = run(true, &[STREAM.as_bytes()]);
        assert!(
            !text.contains("usage") && text.ends_with("\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"),
            "{text}"
        );
        assert_eq!(progress.usage.unwrap().prompt_tokens, Some(26));
    }

    #[test]
    fn the_silent_error_of_ollama_is_a_fault_and_is_not_passed_on() {
        let (result, progress, text) = run(
            false,
            &[b"data: {\"id\":\"x\",\"model\":\"\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"}}]}\n\n"],
        );
        assert!(matches!(result, Err(StreamFault::Node(_))));
        assert!(!progress.done && text.is_empty());
    }

    #[test]
    fn garbage_and_error_objects_are_faults() {
        for bad in
            ["data: nonsense\n\n", "data: {\"error\":{\"message\":\"x\"}}\n\n", "data: 1\ndata: 2\n\n", "data:\n\n"]
        {
            assert!(run(false, &[bad.as_bytes()]).0.is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_behind_done_is_passed_on() {
        let (_, _, text) = run(false, &[b"data: [DONE]\n\ndata: more\n\n"]);
        assert_eq!(text, "data: [DONE]\n\n");
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_stream(cuts in proptest::collection::vec(0usize..STREAM.len(), 0..12), hide: bool) {
            let whole = run(hide, &[STREAM.as_bytes()]);
            let mut cuts = cuts;
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in cuts {
                chunks.push(&STREAM.as_bytes()[from..cut]);
                from = cut;
            }
            chunks.push(&STREAM.as_bytes()[from..]);
            prop_assert_eq!(whole, run(hide, &chunks));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..STREAM.len()) {
            let _ = run(true, &[&STREAM.as_bytes()[..at], &bytes, &STREAM.as_bytes()[at..]]);
        }
    }
}
