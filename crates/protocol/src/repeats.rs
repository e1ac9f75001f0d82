//! Did a model get stuck repeating itself? Ollama silently breaks off such an answer after about thirty equal pieces in
//! a row: a stream just ends, and a plain answer has no reason for its end. The model did that, so it is no failure.
use std::hash::{DefaultHasher, Hash, Hasher};

/// Equal pieces in a row; slightly fewer than Ollama waits for.
const ENOUGH: usize = 28;
/// The longest repeated piece of a plain answer that is recognised, in bytes of its JSON.
const MAX_PIECE: usize = 64;
/// Ollama's words, in versions that report it.
const WORDS: &str = "token repeat limit reached";

/// Whether a node's error says that it broke off a repetition.
pub fn is_repetition(message: &str) -> bool {
    message.contains(WORDS)
}

/// Counts equal pieces of a stream.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    last: u64,
    count: usize,
}

impl Repeats {
    /// Takes the next piece, a JSON string with its quotes.
    pub(crate) fn take(&mut self, raw: &str) {
        let mut hasher = DefaultHasher::new();
        visible(raw).for_each(|byte| byte.hash(&mut hasher));
        let piece = hasher.finish();
        self.count = if self.count > 0 && piece == self.last { self.count + 1 } else { 1 };
        self.last = piece;
    }

    /// Whether the stream may have been broken off for repeating itself.
    pub(crate) fn are_many(&self) -> bool {
        self.count >= ENOUGH
    }
}

/// Whether a plain answer's text, a JSON string with its quotes, ends with many equal pieces.
pub(crate) fn ends_in_repetition(raw: &str) -> bool {
    let bytes = raw.as_bytes().get(1..raw.len().saturating_sub(1)).unwrap_or_default();
    let tail = &bytes[bytes.len().saturating_sub(4 * ENOUGH * MAX_PIECE)..];
    if blanks_at_the_end(tail) >= ENOUGH {
        // Whitespace alone also consists of equal pieces.
        return true;
    }
    let tail: Vec<u8> = visible_bytes(tail).collect();
    (1..=MAX_PIECE.min(tail.len() / ENOUGH)).any(|length| {
        let run = &tail[tail.len() - length * ENOUGH..];
        run[length..] == run[..run.len() - length]
    })
}

/// The bytes of a JSON string without its quotes and its whitespace, which Ollama ignores when it compares.
fn visible(raw: &str) -> impl Iterator<Item = u8> {
    visible_bytes(raw.as_bytes().get(1..raw.len().saturating_sub(1)).unwrap_or_default())
}

fn blanks_at_the_end(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let [rest @ .., b' '] | [rest @ .., b'\\', b'n' | b't' | b'r'] = bytes {
        (bytes, count) = (rest, count + 1);
    }
    count
}

fn visible_bytes(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            match bytes.get(at..)? {
                [b' ', ..] => at += 1,
                [b'\\', b'n' | b't' | b'r', ..] => at += 2,
                [byte, ..] => {
                    at += 1;
                    return Some(*byte);
                }
                [] => return None,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_pieces_in_a_row_are_counted_up_to_white_space() {
        let mut repeats = Repeats::default();
        for piece in [r#"" la""#, r#""la\n""#].iter().cycle().take(27) {
            repeats.take(piece);
        }
        assert!(!repeats.are_many());
        repeats.take(r#""la""#);
        assert!(repeats.are_many());
        repeats.take(r#""li""#);
        assert!(!repeats.are_many());
    }

    #[test]
    fn a_text_that_ends_in_equal_pieces_is_found() {
        let text = |start: &str, piece: &str, times| format!("\"{start}{}\"", piece.repeat(times));
        assert!(ends_in_repetition(&text("Once upon ", " la", 31)));
        assert!(ends_in_repetition(&text("", "ab\\n", 28)));
        assert!(ends_in_repetition(&text("x", "\\n", 40)));
        assert!(!ends_in_repetition(&text("Once upon ", " la", 27)));
        assert!(!ends_in_repetition("\"The quick brown fox jumps over the lazy dog.\""));
        assert!(!ends_in_repetition("\"\"") && !ends_in_repetition("\"") && !ends_in_repetition(""));
    }
}
