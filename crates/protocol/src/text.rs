//! How long is a JSON value once decoded, and which of its strings did a model write? Read without decoding and without
//! a limit on depth: the texts are valid JSON of any shape.

/// Members whose string a model wrote, in any dialect.
const WRITTEN: [&str; 11] = [
    "content",
    "text",
    "reasoning",
    "reasoning_content",
    "thinking",
    "refusal",
    "response",
    "delta",
    "arguments",
    "partial_json",
    "input",
];
/// Members that may be an object written entirely by the model: the arguments of a tool call.
const WRITTEN_WHOLE: [&str; 2] = ["arguments", "input"];
/// How deep nesting is followed; nothing that a model writes is nested deeper.
const MAX_DEPTH: usize = 64;

/// How a string is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As decoded text in UTF-8.
    Text,
    /// As a node writes it when it puts JSON into a prompt. Go also escapes `<`, `>` and `&`.
    Json,
}

/// The length of any JSON value in bytes: strings as `form` says, everything else as written, without the white space
/// between tokens.
pub(crate) fn weight(json: &str, form: Form) -> usize {
    let mut total = 0;
    for token in Tokens::of(json) {
        total += match token {
            Token::String(raw) => string_len(raw, form) + 2,
            Token::Other(_) => 1,
        };
    }
    total
}

/// The decoded length of a JSON string, which is given with its quotes; in bytes of UTF-8.
pub(crate) fn text_len(raw: &str) -> usize {
    string_len(raw, Form::Text)
}

fn string_len(raw: &str, form: Form) -> usize {
    let inner = raw.as_bytes().get(1..raw.len().saturating_sub(1)).unwrap_or_default();
    let plain = |bytes: &[u8]| match form {
        Form::Text => bytes.len(),
        Form::Json => bytes.len() + 5 * bytes.iter().filter(|byte| b"<>&".contains(byte)).count(),
    };
    let (mut total, mut from) = (0, 0);
    while let Some(at) = memchr::memchr(b'\\', &inner[from..]) {
        total += plain(&inner[from..from + at]);
        let (len, taken) = escape(&inner[from + at..], form);
        total += len;
        from = (from + at + taken).min(inner.len());
    }
    total + plain(&inner[from..])
}

/// The decoded length of the escape at the start of `bytes`, and the length of the escape itself.
fn escape(bytes: &[u8], form: Form) -> (usize, usize) {
    let as_json = form == Form::Json;
    let Some(code) = unit(bytes) else {
        // Only `\/` is written without its backslash.
        return (1 + usize::from(as_json && bytes.get(1) != Some(&b'/')), 2);
    };
    let is_pair = (0xd800..0xdc00).contains(&code)
        && bytes.get(6..).and_then(unit).is_some_and(|low| (0xdc00..0xe000).contains(&low));
    match code {
        _ if is_pair => (4, 12),
        0x00..0x20 | 0x3c | 0x3e | 0x26 | 0x2028 | 0x2029 if as_json => (6, 6),
        0x22 | 0x5c if as_json => (2, 6),
        0x00..0x80 => (1, 6),
        0x80..0x800 => (2, 6),
        // Half of a surrogate pair becomes U+FFFD, which is as long.
        _ => (3, 6),
    }
}

/// The code unit of a `\uXXXX` at the start of `bytes`.
fn unit(bytes: &[u8]) -> Option<u16> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Calls `each` for every string that a model wrote, with its quotes. `json` is part of an answer in any dialect.
pub(crate) fn written<'a>(json: &'a str, mut each: impl FnMut(&'a str)) {
    // For each open object or list: whether the model wrote all of its strings. Then the same for the next member.
    let mut whole: Vec<bool> = Vec::new();
    let (mut is_written, mut opens_whole, mut beyond) = (false, false, 0usize);
    let mut tokens = Tokens::of(json).peekable();
    while let Some(token) = tokens.next() {
        let inherited = whole.last().copied().unwrap_or(false);
        match token {
            Token::String(raw) if tokens.peek() == Some(&Token::Other(b':')) => {
                let name = raw.get(1..raw.len() - 1).unwrap_or_default();
                is_written = inherited || WRITTEN.contains(&name);
                opens_whole = inherited || WRITTEN_WHOLE.contains(&name);
            }
            Token::String(raw) if is_written => each(raw),
            Token::Other(b'{' | b'[') if whole.len() < MAX_DEPTH => {
                whole.push(opens_whole);
                is_written = opens_whole;
            }
            Token::Other(b'{' | b'[') => beyond += 1,
            Token::Other(b'}' | b']') if beyond > 0 => beyond -= 1,
            Token::Other(b'}' | b']') => {
                whole.pop();
                opens_whole = whole.last().copied().unwrap_or(false);
                is_written = opens_whole;
            }
            _ => {}
        }
    }
}

/// The same for a member of an answer, given its name.
pub(crate) fn written_in<'a>(name: &str, value: &'a str, mut each: impl FnMut(&'a str)) {
    if !value.starts_with('"') {
        written(value, each);
    } else if WRITTEN.contains(&name) {
        each(value);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// Including its quotes.
    String(&'a str),
    /// One byte of anything else: punctuation, a digit, a letter of `true`.
    Other(u8),
}

/// The tokens of a valid JSON text, without the white space between them.
struct Tokens<'a> {
    json: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    fn of(json: &'a str) -> Self {
        Self { json, at: 0 }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let bytes = self.json.as_bytes();
        while bytes.get(self.at)?.is_ascii_whitespace() {
            self.at += 1;
        }
        let start = self.at;
        if bytes[start] != b'"' {
            self.at += 1;
            return Some(Token::Other(bytes[start]));
        }
        self.at += 1;
        while let Some(found) = bytes.get(self.at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
            if bytes[self.at + found] == b'"' {
                self.at += found + 1;
                return Some(Token::String(&self.json[start..self.at]));
            }
            // The escaped byte may be a quote.
            self.at += found + 2;
        }
        self.at = bytes.len();
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_escape_counts_as_what_it_stands_for() {
        for (raw, text, json) in [
            (r#""abc""#, 3, 3),
            (r#""é中""#, 5, 5),
            (r#""\u00e9\u4e2d""#, 5, 5),
            (r#""\ud83d\ude00""#, 4, 4),
            (r#""\ud83d""#, 3, 3),
            (r#""\ud83d\u0041""#, 4, 4),
            (r#""\n\/\"\\""#, 4, 7),
            (r#""<\u003c""#, 2, 12),
            (r#""""#, 0, 0),
        ] {
            assert_eq!((string_len(raw, Form::Text), string_len(raw, Form::Json)), (text, json), "{raw}");
        }
    }

    #[test]
    fn white_space_between_tokens_weighs_nothing() {
        assert_eq!(weight(" { \"a\" : [ 1 , \"b c\" ] }\n", Form::Text), r#"{"a":[1,"b c"]}"#.len());
    }

    #[test]
    fn only_what_the_model_wrote_is_found() {
        let found = |json| {
            let mut found = Vec::new();
            written(json, |raw| found.push(raw));
            found.join(" ")
        };
        let chat = r#"{"index":0,"delta":{"role":"assistant","content":"a","tool_calls":[{"id":"call_1","type":"function",
            "function":{"name":"f","arguments":"{\"x\":1}"}}]},"logprobs":{"content":[{"token":"no"}]}}"#;
        assert_eq!(found(chat), r#""a" "{\"x\":1}""#);
        let native = r#"{"message":{"content":"a","thinking":"b","tool_calls":[{"function":{"name":"f","arguments":
            {"x":["c",{"y":"d"}]}}}]},"model":"m"}"#;
        assert_eq!(found(native), r#""a" "b" "c" "d""#);
        assert_eq!(
            found(r#"[{"type":"tool_use","input":{"x":"a"},"id":"i"},{"type":"text","text":"b"}]"#),
            r#""a" "b""#
        );
        assert_eq!(found(r#"{"type":"response.output_text.delta","delta":"a","item_id":"i"}"#), r#""a""#);
        let deep = format!(r#"{{"content":{}{},"text":"a"}}"#, "[".repeat(500), "]".repeat(500));
        assert_eq!(found(&deep), r#""a""#);
    }

    proptest! {
        #[test]
        fn a_strings_length_is_that_of_its_text(text in "\\PC{0,40}|[\\x00-\\x7f]{0,20}") {
            let raw = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(text_len(&raw), text.len());
        }

        #[test]
        fn no_text_makes_it_panic(text in "[\"\\\\u{}\\[\\]:,a0d8-f]{0,60}") {
            weight(&text, Form::Json);
            written(&text, |raw| { text_len(raw); });
        }
    }
}
