//! Where does one event of a stream end? Splits bytes, as they arrive, into server-sent events or lines of JSON.
//!
//! The frames are the same however the bytes are cut into chunks. Each frame keeps its terminator, so all frames
//! together are exactly the input.
use bytes::{Bytes, BytesMut};

/// The longest incomplete frame that is held, in bytes. A whole tool call arrives in one frame.
const MAX_FRAME: usize = 16 * 1024 * 1024;

/// How a stream is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events: a frame ends with a blank line.
    Events,
    /// Newline-delimited JSON: a frame is a line.
    Lines,
}

/// A frame exceeded 16 MiB without ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of the stream is longer than {MAX_FRAME} bytes")]
pub struct FrameTooLong;

/// Splits a stream; holds at most one incomplete frame.
#[derive(Debug)]
pub struct Frames {
    framing: Framing,
    held: BytesMut,
    /// The first `searched` bytes of `held` are known to contain no end of a frame.
    searched: usize,
}

impl Frames {
    /// A splitter at the beginning of a stream.
    pub fn new(framing: Framing) -> Self {
        Self { framing, held: BytesMut::new(), searched: 0 }
    }

    /// Takes the next bytes and calls `each` for every frame that is complete now. A frame that lies within `chunk` is
    /// not copied.
    ///
    /// # Errors
    /// [`FrameTooLong`] if the incomplete frame exceeds the limit; the splitter must not be used any more then.
    pub fn push(&mut self, mut chunk: Bytes, mut each: impl FnMut(Bytes)) -> Result<(), FrameTooLong> {
        if self.held.is_empty() {
            while let Some(end) = end_of_frame(self.framing, &chunk, 0) {
                each(chunk.split_to(end));
            }
        }
        self.held.extend_from_slice(&chunk);
        while let Some(end) = end_of_frame(self.framing, &self.held, self.searched) {
            each(self.held.split_to(end).freeze());
            self.searched = 0;
        }
        if self.held.len() > MAX_FRAME {
            return Err(FrameTooLong);
        }
        // The last bytes may be the beginning of a terminator.
        self.searched = self.held.len().saturating_sub(2);
        Ok(())
    }

    /// The bytes of the incomplete frame: what is left over if the stream ends now.
    pub fn rest(&self) -> &[u8] {
        &self.held
    }
}

/// Where the first frame of `bytes` ends, given that no frame ends before `from`.
fn end_of_frame(framing: Framing, bytes: &[u8], from: usize) -> Option<usize> {
    let mut newlines = memchr::memchr_iter(b'\n', &bytes[from..]).map(|at| from + at);
    match framing {
        Framing::Lines => newlines.next().map(|at| at + 1),
        // Two line ends in a row, each of them "\n" or "\r\n".
        Framing::Events => newlines.find_map(|at| match bytes.get(at + 1..) {
            Some([b'\n', ..]) => Some(at + 2),
            Some([b'\r', b'\n', ..]) => Some(at + 3),
            _ => None,
        }),
    }
}

/// The payload of an event: its single `data:` line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum EventData {
    /// No data: a comment, or fields that the gateway does not read.
    None,
    /// The span of the data within the frame.
    One(std::ops::Range<usize>),
    /// More than one data line. Ollama never sends that.
    Many,
}

/// Finds the data of a server-sent event.
pub(crate) fn event_data(frame: &[u8]) -> EventData {
    let mut found = EventData::None;
    let mut start = 0;
    for newline in memchr::memchr_iter(b'\n', frame) {
        let line = &frame[start..newline];
        if let Some(data) = line.strip_prefix(b"data:") {
            if found != EventData::None {
                return EventData::Many;
            }
            let data = data.strip_suffix(b"\r").unwrap_or(data);
            let blank = usize::from(data.first() == Some(&b' '));
            found = EventData::One(start + 5 + blank..start + 5 + data.len());
        }
        start = newline + 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(framing: Framing, chunks: &[&[u8]]) -> (Vec<Vec<u8>>, Vec<u8>) {
        let (mut frames, mut out) = (Frames::new(framing), Vec::new());
        for chunk in chunks {
            frames.push(Bytes::copy_from_slice(chunk), |frame| out.push(frame.to_vec())).unwrap();
        }
        (out, frames.rest().to_vec())
    }

    #[test]
    fn events_end_with_a_blank_line_of_either_kind() {
        let (frames, rest) = split(Framing::Events, &[b"data: a\n\n", b"data: b\r\n\r\n: c\n\ndata"]);
        assert_eq!(frames, [&b"data: a\n\n"[..], b"data: b\r\n\r\n", b": c\n\n"]);
        assert_eq!(rest, b"data");
    }

    #[test]
    fn the_data_of_an_event_is_found_behind_other_fields() {
        assert_eq!(event_data(b"event: x\ndata: {}\n\n"), EventData::One(15..17));
        assert_eq!(event_data(b"data:{}\r\n\r\n"), EventData::One(5..7));
        assert_eq!(event_data(b": comment\n\n"), EventData::None);
        assert_eq!(event_data(b"data: a\ndata: b\n\n"), EventData::Many);
    }

    #[test]
    fn a_frame_without_end_is_refused_and_not_held_for_ever() {
        let mut frames = Frames::new(Framing::Lines);
        let chunk = Bytes::from(vec![b'x'; MAX_FRAME]);
        frames.push(chunk, |_| ()).unwrap();
        assert_eq!(frames.push(Bytes::from_static(b"y"), |_| ()), Err(FrameTooLong));
    }

    fn texts() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'a'), Just(b':'), any::<u8>()], 0..200)
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_frames(text in texts(), cuts in proptest::collection::vec(0usize..200, 0..8)) {
            for framing in [Framing::Events, Framing::Lines] {
                let whole = split(framing, &[&text]);
                let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
                cuts.sort_unstable();
                let mut chunks = Vec::new();
                let mut from = 0;
                for cut in cuts {
                    chunks.push(&text[from..cut]);
                    from = cut;
                }
                chunks.push(&text[from..]);
                let parts = split(framing, &chunks);
                prop_assert_eq!(&whole, &parts);
                let joined: Vec<u8> = parts.0.concat().into_iter().chain(parts.1).collect();
                prop_assert_eq!(joined, text.clone());
            }
        }

        #[test]
        fn no_bytes_make_the_event_reader_panic(text in texts()) {
            if let EventData::One(span) = event_data(&text) {
                prop_assert!(text.get(span).is_some());
            }
        }
    }
}
