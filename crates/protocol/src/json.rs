//! Where in the bytes is a member of a JSON object? Finds spans to read and to replace, without re-serialising.
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

/// The members of a JSON object in order, borrowed from the text.
#[derive(Debug)]
pub(crate) struct Object<'a> {
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Object<'a> {
    /// Parses a whole text as one object. The error says what is wrong and where, but never quotes the text: that is a
    /// user's prompt or answer, and the error may reach a log.
    pub(crate) fn parse(text: &'a [u8]) -> Result<Self, String> {
        // Checked once, and not again for each member; the slice's own way words the error.
        let parsed = match std::str::from_utf8(text) {
            Ok(valid) => serde_json::from_str(valid),
            Err(_) => serde_json::from_slice(text),
        };
        parsed.map_err(|error| describe(text, &error))
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.members.iter().find(|(name, _)| name == key).map(|(_, value)| *value)
    }

    /// The member's value; `None` if it is absent or `null`.
    pub(crate) fn present(&self, key: &str) -> Option<&'a RawValue> {
        self.get(key).filter(|value| value.get() != "null")
    }

    /// Each member's name and its span in `text`, the object's own text. A span covers the key and the value.
    fn spans(&self, text: &[u8]) -> Vec<(&str, Range<usize>)> {
        let mut from = text.iter().position(|byte| *byte == b'{').map_or(0, |brace| brace + 1);
        self.members
            .iter()
            .map(|(name, value)| {
                let gap = text[from..].iter().take_while(|byte| byte.is_ascii_whitespace() || **byte == b',').count();
                let member = from + gap..span(text, value).end;
                from = member.end;
                (name.as_ref(), member)
            })
            .collect()
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.members.iter().map(|(name, value)| (name.as_ref(), *value))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|(name, _)| name.as_ref())
    }
}

/// What is wrong with a text that is not an object.
fn describe(text: &[u8], error: &serde_json::Error) -> String {
    let text = text.trim_ascii_start();
    let is_form = || {
        let name = text.split(|byte| *byte == b'=').next().unwrap_or_default();
        name.len() < text.len() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_-.[]%+".contains(byte))
    };
    match (error.classify(), text.first()) {
        (_, None) => "it is empty".to_owned(),
        (Category::Syntax, Some(b'\'')) => "it is in single quotes".to_owned(),
        (Category::Syntax, Some(b'-')) if text.starts_with(b"--") => "it is a multipart form".to_owned(),
        (Category::Syntax, Some(b'<')) => "it is HTML or XML".to_owned(),
        (Category::Syntax, _) if is_form() => "it is a form".to_owned(),
        // The whole text is of another kind; a member's value could not cause this, as any value is accepted.
        (Category::Data, Some(first)) => match first {
            b'{' => "a name in it cannot be read".to_owned(),
            b'[' => "it is a list".to_owned(),
            b'"' => "it is a string".to_owned(),
            b'n' => "it is null".to_owned(),
            b't' | b'f' => "it is true or false".to_owned(),
            _ => "it is a number".to_owned(),
        },
        (Category::Eof, _) => format!("it ends too early: {error}"),
        // The parser's own words name a kind of mistake and a place, and quote nothing.
        _ => error.to_string(),
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some((MemberName(key), value)) = map.next_entry::<MemberName<'de>, &'de RawValue>()? {
                    members.push((key, value));
                }
                Ok(Object { members })
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// A member's name, borrowed unless it contains an escape.
struct MemberName<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for MemberName<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl<'de> Visitor<'de> for Name {
            type Value = MemberName<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_borrowed_bytes<E: Error>(self, name: &'de [u8]) -> Result<MemberName<'de>, E> {
                // A name without escapes must be valid in the same way as a string.
                let name = std::str::from_utf8(name).map_err(|_| E::custom("a name is not UTF-8"))?;
                match name.bytes().any(|byte| byte < b' ') {
                    true => Err(E::custom("a name holds a control character")),
                    false => Ok(MemberName(Cow::Borrowed(name))),
                }
            }

            fn visit_bytes<E: Error>(self, name: &[u8]) -> Result<MemberName<'de>, E> {
                // A name with its escapes decoded: half of a surrogate pair is three bytes that are not UTF-8.
                let is_surrogate = |bytes: &[u8]| bytes.is_empty() || matches!(bytes[0], 0xed | 0x80..=0xbf);
                match name.utf8_chunks().all(|chunk| is_surrogate(chunk.invalid())) {
                    true => Ok(MemberName(Cow::Owned(String::from_utf8_lossy(name).into_owned()))),
                    false => Err(E::custom("a name is not UTF-8")),
                }
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<MemberName<'de>, E> {
                Ok(MemberName(Cow::Borrowed(name)))
            }
        }
        // As bytes, because a name may contain half of a surrogate pair, which a `str` may not.
        deserializer.deserialize_bytes(Name)
    }
}

/// The span of `value` in `text`, which it was parsed from.
pub(crate) fn span(text: &[u8], value: &RawValue) -> Range<usize> {
    part_of(text, value.get())
}

/// Where `part` is in `text`, of which it is a slice.
pub(crate) fn part_of(text: &[u8], part: &str) -> Range<usize> {
    let start = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    start..start + part.len()
}

/// Replacements of spans of one text, applied in one pass.
#[derive(Debug, Default)]
pub(crate) struct Splices {
    edits: Vec<(Range<usize>, String)>,
}

impl Splices {
    pub(crate) fn replace(&mut self, span: Range<usize>, with: impl Into<String>) {
        self.edits.push((span, with.into()));
    }

    /// Drops the edits of `span`.
    pub(crate) fn forget(&mut self, span: &Range<usize>) {
        self.edits.retain(|(edited, _)| edited != span);
    }

    /// Removes the members whose name `goes`, each with one comma. `text` is the object's own text, which begins at
    /// `offset` of the text being edited.
    pub(crate) fn remove(&mut self, text: &[u8], offset: usize, object: &Object<'_>, goes: impl Fn(&str) -> bool) {
        let mut kept_end = None;
        let mut members = object.spans(text).into_iter().peekable();
        while let Some((name, span)) = members.next() {
            if !goes(name) {
                kept_end = Some(span.end);
                continue;
            }
            let mut end = span.end;
            while let Some((_, next)) = members.next_if(|(name, _)| goes(name)) {
                end = next.end;
            }
            // With the comma before it if a kept member precedes it, otherwise with the one after it.
            let run = match (kept_end, members.peek()) {
                (Some(kept), _) => kept..end,
                (None, Some((_, next))) => span.start..next.start,
                (None, None) => span.start..end,
            };
            self.replace(run.start + offset..run.end + offset, "");
        }
    }

    /// Where a byte comes to stand that no edit replaces.
    pub(crate) fn moved(&self, at: usize) -> usize {
        let before = self.edits.iter().filter(|(span, _)| span.end <= at);
        before.fold(at, |at, (span, with)| at + with.len() - span.len())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// Writes `text` with all edits applied to `out`.
    pub(crate) fn apply(mut self, text: &[u8], out: &mut Vec<u8>) {
        self.edits.sort_by_key(|(span, _)| (span.start, span.end));
        let mut from = 0;
        for (span, with) in self.edits {
            debug_assert!(span.start >= from, "no two edits overlap");
            // If two edits did overlap, the first one would count.
            if span.start < from {
                continue;
            }
            out.extend_from_slice(&text[from..span.start]);
            out.extend_from_slice(with.as_bytes());
            from = span.end;
        }
        out.extend_from_slice(&text[from..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(text: &str, keys: &[&str]) -> String {
        let object = Object::parse(text.as_bytes()).unwrap();
        let mut splices = Splices::default();
        splices.remove(text.as_bytes(), 0, &object, |key| keys.contains(&key));
        let mut out = Vec::new();
        splices.apply(text.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_member_is_removed_wherever_it_stands() {
        assert_eq!(without(r#"{"a":1,"b":{"c":2},"d":3}"#, &["b"]), r#"{"a":1,"d":3}"#);
        assert_eq!(without(r#"{ "a" : 1 , "b":2}"#, &["a"]), r#"{ "b":2}"#);
        assert_eq!(without(r#"{"a":1,"b":2 }"#, &["b"]), r#"{"a":1 }"#);
        assert_eq!(without(r#"{"a":1}"#, &["a"]), "{}");
    }

    #[test]
    fn neighbours_are_removed_together() {
        assert_eq!(without(r#"{"a":1, "b":2 ,"c":3,"d":4}"#, &["a", "b"]), r#"{"c":3,"d":4}"#);
        assert_eq!(without(r#"{"a":1,"b":2,"c":3,"d":4}"#, &["b", "c"]), r#"{"a":1,"d":4}"#);
        assert_eq!(without(r#"{"a":1,"b":2,"c":3,"d":4}"#, &["a", "c", "d"]), r#"{"b":2}"#);
        assert_eq!(without(r#"{"a":1,"b":2}"#, &["a", "b"]), "{}");
    }

    #[test]
    fn an_error_says_what_kind_of_thing_is_wrong_and_quotes_nothing() {
        for (text, says) in [
            ("", "empty"),
            (" \n", "empty"),
            ("[]", "a list"),
            (r#""secret""#, "a string"),
            ("7", "a number"),
            ("null", "null"),
            ("false", "true or false"),
            ("'{}'", "single quotes"),
            ("model=secret&prompt=secret", "a form"),
            ("--boundary\r\nsecret", "multipart"),
            ("<html>secret", "HTML"),
            (r#"{"a":1,}"#, "trailing comma at line 1 column 8"),
            (r#"{"a":"secret"#, "EOF while parsing a string"),
            (r#"{secret:1}"#, "key must be a string"),
            (r#"{"a":'secret'}"#, "expected value at line 1 column 6"),
            (r#"{"a":None}"#, "expected value"),
            (r#"{"a":"x" "b"}"#, "expected `,` or `}`"),
            ("{\"a\":\"secret\n\"}", "control character"),
            (r#"{} {"a":"secret"}"#, "trailing characters"),
            ("{\"secret\n\":1}", "a name in it"),
        ] {
            let error = Object::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(says) && !error.contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn a_name_may_hold_half_a_surrogate() {
        let object = Object::parse(br#"{"\ud83d":1,"\u0061":2,"b":3}"#).unwrap();
        assert_eq!(object.keys().skip(1).collect::<Vec<_>>(), ["a", "b"]);
        for bad in [&b"{\"\xff\":1}"[..], b"{\"\xff\\u0061\":1}", b"{\"\0\":1}"] {
            assert!(Object::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_objects_parse() {
        for text in ["[]", "\"x\"", "1", "{", "{} {}", "", "null"] {
            assert!(Object::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
