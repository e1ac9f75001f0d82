//! Which frames need not be parsed? Those that differ from an earlier one in nothing but the text that the model wrote.
//!
//! In the streams of OpenAI's and Anthropic's dialects, almost every frame is the one before with another text. Where one
//! string of a JSON text gives way to another valid string, the rest keeps its place and its meaning. So everything that
//! follows from a frame, what passes through and what is counted, is known beforehand, except for that string.
use std::ops::Range;

/// The longest frame that is remembered, in bytes.
const MAX_FRAME: usize = 4 * 1024;
/// How many templates of one stream may be of no use before no more are made: in some streams every frame has another number
/// or time in it.
const MOST_UNUSED: u32 = 8;

/// What is around the text of the ordinary frames of a stream.
#[derive(Debug, Default)]
pub(super) struct Template {
    /// Empty until there is a frame to go by.
    node: Around,
    client: Around,
    /// Templates since one was of use.
    unused: u32,
}

/// What is before a string, and what is after it.
#[derive(Debug, Default)]
struct Around {
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Around {
    fn of(frame: &[u8], text: Range<usize>) -> Option<Self> {
        Some(Self { before: frame.get(..text.start)?.to_vec(), after: frame.get(text.end..)?.to_vec() })
    }
}

impl Template {
    /// The text of a frame that is like the template, as JSON; never an empty one, as not every dialect counts that as a token.
    pub(super) fn text_of<'a>(&self, frame: &'a [u8]) -> Option<&'a str> {
        let Around { before, after } = &self.node;
        if before.is_empty() {
            return None;
        }
        let text = std::str::from_utf8(frame.strip_prefix(&before[..])?.strip_suffix(&after[..])?).ok()?;
        is_written_string(text).then_some(text)
    }

    /// Appends the frame with this text to `out`, as the client gets it.
    pub(super) fn fill(&mut self, text: &str, out: &mut Vec<u8>) {
        self.unused = 0;
        let Around { before, after } = &self.client;
        out.reserve(before.len() + text.len() + after.len());
        out.extend_from_slice(before);
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(after);
    }

    /// Goes by this frame from now on, given what the client gets in its place, and where the only text is in both. The frame
    /// must be an ordinary one: it counts as one token, and reports and ends nothing.
    pub(super) fn learn(&mut self, frame: (&[u8], Range<usize>), edited: (&[u8], Range<usize>)) {
        if self.unused >= MOST_UNUSED || frame.0.len() > MAX_FRAME {
            return;
        }
        self.unused += 1;
        (self.node, self.client) = match (Around::of(frame.0, frame.1), Around::of(edited.0, edited.1)) {
            (Some(node), Some(client)) => (node, client),
            _ => Default::default(),
        };
    }
}

/// Whether it is one JSON string, with its quotes, that is not empty.
fn is_written_string(text: &str) -> bool {
    let Some(inner) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else { return false };
    let mut rest = inner.as_bytes();
    if rest.is_empty() || rest.iter().any(|byte| *byte < b' ') {
        return false;
    }
    while let Some(at) = memchr::memchr2(b'"', b'\\', rest) {
        rest = match &rest[at..] {
            [b'\\', b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', rest @ ..] => rest,
            [b'\\', b'u', a, b, c, d, rest @ ..] if [a, b, c, d].into_iter().all(u8::is_ascii_hexdigit) => rest,
            _ => return false,
        };
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn only_what_the_parser_takes_for_a_string_is_one(text in r#""?([a"\\/bu0-9é\n]|\\[a-u"\\/]|\\u[0-9a-g]{4}){0,6}"?"#) {
            let parsed: Result<&serde_json::value::RawValue, _> = serde_json::from_str(&text);
            let is_string = parsed.is_ok_and(|value| value.get() == text && text.starts_with('"') && text != "\"\"");
            prop_assert_eq!(is_written_string(&text), is_string, "{}", text);
        }
    }

    #[test]
    fn a_stream_whose_frames_are_all_different_makes_few_templates() {
        let mut template = Template::default();
        for number in 0..100 {
            let frame = format!("data: {{\"n\":{number},\"text\":\"a\"}}\n\n");
            let text = frame.find("\"a\"").unwrap();
            let at = text..text + 3;
            template.learn((frame.as_bytes(), at.clone()), (frame.as_bytes(), at));
        }
        assert_eq!(template.text_of(b"data: {\"n\":7,\"text\":\"b\"}\n\n"), Some("\"b\""));
        assert_eq!(template.text_of(b"data: {\"n\":8,\"text\":\"b\"}\n\n"), None);
    }
}
