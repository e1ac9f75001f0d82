//! What do requests and answers look like on the wire? Each family of routes has one file that reads its requests into
//! an [`Ask`](crate::ask::Ask) and one that writes the pieces of an answer.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::ask::{Piece, Reason};
use crate::clock;
use crate::error::{ApiError, json};

pub(crate) mod anthropic;
pub(crate) mod compatible;
pub(crate) mod embeddings;
pub(crate) mod embeddings_request;
mod keep_alive;
mod native;
pub(crate) mod native_request;
mod openai;
pub(crate) mod openai_request;
pub(crate) mod openai_text;
pub(crate) mod responses;
pub(crate) mod responses_request;
pub(crate) mod work;

/// The token counts of an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Usage {
    /// Tokens of the prompt, including the cached ones.
    pub(crate) prompt: u64,
    /// Tokens of the prompt that were cached from earlier prompts. Ollama does not report them.
    pub(crate) cached: u64,
    pub(crate) completion: u64,
}

/// Where the time of an answer went.
#[derive(Clone, Debug)]
pub(crate) struct Timings {
    started: Instant,
    pub(crate) load: Duration,
    pub(crate) prefill: Duration,
    pub(crate) decoding_since: Instant,
}

impl Timings {
    pub(crate) fn new(started: Instant, load: Duration) -> Self {
        Self { started, load, prefill: Duration::ZERO, decoding_since: clock::now() }
    }

    pub(crate) fn total(&self) -> Duration {
        clock::now() - self.started
    }

    pub(crate) fn decode(&self) -> Duration {
        clock::now() - self.decoding_since
    }
}

/// The end of an answer.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// `None` if the runner stopped without a reason.
    pub(crate) reason: Option<Reason>,
    /// `None` if no counts are reported.
    pub(crate) usage: Option<Usage>,
    pub(crate) timings: Timings,
}

/// Writes one answer in the shape of one route.
pub(crate) trait Dialect {
    /// The content type of the stream.
    fn stream_type(&self) -> &'static str {
        "text/event-stream"
    }

    /// Learns the counts of the prompt before anything is written.
    fn prompt_read(&mut self, _usage: &Usage) {}

    /// Writes one piece as one or more chunks.
    fn piece(&mut self, piece: &Piece, out: &mut VecDeque<Bytes>);

    /// Writes the chunks that end the stream.
    fn end(&mut self, end: &End, out: &mut VecDeque<Bytes>);

    /// The chunk by which Ollama reports an error in the middle of a stream, if it does.
    fn error(&mut self) -> Option<Bytes>;

    /// A chunk that is not JSON.
    fn garbage(&self) -> Bytes {
        Bytes::from_static(b"data: this is not json\n\n")
    }

    /// The answer as one JSON body.
    fn whole(&mut self, pieces: &[Piece], end: &End) -> String;
}

/// Parses a request body. Unknown fields are ignored, as in Ollama.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(ApiError::bad_request("missing request body"));
    }
    serde_json::from_slice(body).map_err(|error| ApiError::bad_request(error.to_string()))
}

/// The first of several fields that stand in for each other; an empty one counts as absent.
pub(crate) fn first_given<const N: usize>(fields: [Option<String>; N]) -> String {
    fields.into_iter().flatten().find(|field| !field.is_empty()).unwrap_or_default()
}

/// `max_tokens` in Ollama's reading: a negative number means no limit.
pub(crate) fn limit(max_tokens: Option<i64>) -> Option<u64> {
    max_tokens.and_then(|tokens| u64::try_from(tokens).ok())
}

/// One event of an SSE stream without a name.
pub(crate) fn sse(value: &impl Serialize) -> Bytes {
    Bytes::from(format!("data: {}\n\n", json(value)))
}

/// One event of an SSE stream with a name.
pub(crate) fn named_sse(name: &str, value: &impl Serialize) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {}\n\n", json(value)))
}

/// Whether an image reference is inline data; web addresses are refused.
pub(crate) fn check_image_url(url: &str) -> Result<(), ApiError> {
    const INLINE: [&str; 5] = [
        "data:image/jpeg;base64,",
        "data:image/jpg;base64,",
        "data:image/png;base64,",
        "data:image/webp;base64,",
        "data:;base64,",
    ];
    if url.starts_with("http://") || url.starts_with("https://") {
        return Err(ApiError::bad_request(
            "image URLs are not currently supported, please use base64 encoded data instead",
        ));
    }
    if INLINE.iter().any(|prefix| url.starts_with(prefix)) {
        Ok(())
    } else {
        Err(ApiError::bad_request("invalid image input"))
    }
}

/// The text of an answer, reasoning left out.
pub(crate) fn text_of(pieces: &[Piece]) -> String {
    pieces.iter().filter_map(|piece| if let Piece::Text(text) = piece { Some(text.as_str()) } else { None }).collect()
}

/// The reasoning of an answer.
pub(crate) fn thinking_of(pieces: &[Piece]) -> String {
    let thought = |piece: &Piece| if let Piece::Thinking(text) = piece { Some(text.clone()) } else { None };
    pieces.iter().filter_map(thought).collect()
}
