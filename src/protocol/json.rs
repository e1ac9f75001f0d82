//! Where in these bytes does a member of a JSON object stand? Spans to read and to splice, without re-serialising.
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

/// A JSON object's members in their order, borrowed from the text.
#[derive(Debug)]
pub(super) struct Object<'a> {
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Object<'a> {
    /// Parses a whole text as one object. The error says where it is wrong, and never quotes the text: that is
    /// somebody's prompt or answer, and the error may reach a log.
    pub(super) fn parse(text: &'a [u8]) -> Result<Self, String> {
        serde_json::from_slice(text).map_err(|error| match error.classify() {
            Category::Eof => "it ends too early".to_owned(),
            Category::Data => "it is of another kind".to_owned(),
            Category::Syntax | Category::Io => format!("line {}, column {}", error.line(), error.column()),
        })
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.members.iter().find(|(name, _)| name == key).map(|(_, value)| *value)
    }

    /// The member's value, unless it is absent or `null`.
    pub(super) fn present(&self, key: &str) -> Option<&'a RawValue> {
        self.get(key).filter(|value| value.get() != "null")
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|(name, _)| name.as_ref())
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
                while let Some((Key(key), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    members.push((key, value));
                }
                Ok(Object { members })
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// A member's name, borrowed where it holds no escape.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl<'de> Visitor<'de> for Name {
            type Value = Key<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(Name)
    }
}

/// Where `value`, which was parsed out of `text`, stands in it.
pub(super) fn span(text: &[u8], value: &RawValue) -> Range<usize> {
    let start = (value.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    start..start + value.get().len()
}

/// The span of the whole member whose value stands at `value`, with one of its commas; `None` where the key is spelled
/// with escapes.
pub(super) fn member_span(text: &[u8], key: &str, value: Range<usize>) -> Option<Range<usize>> {
    let before = trim_end(&text[..value.start]).strip_suffix(b":")?;
    let before = trim_end(before).strip_suffix(b"\"")?.strip_suffix(key.as_bytes())?.strip_suffix(b"\"")?;
    let outer = trim_end(before);
    if let Some(rest) = outer.strip_suffix(b",") {
        return Some(rest.len()..value.end);
    }
    let blanks = text[value.end..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    let comma = usize::from(text.get(value.end + blanks) == Some(&b','));
    Some(before.len()..value.end + if comma == 1 { blanks + 1 } else { 0 })
}

fn trim_end(text: &[u8]) -> &[u8] {
    text.trim_ascii_end()
}

/// Replacements of spans of one text, applied in one pass.
#[derive(Debug, Default)]
pub(super) struct Splices {
    edits: Vec<(Range<usize>, String)>,
}

impl Splices {
    pub(super) fn replace(&mut self, span: Range<usize>, with: impl Into<String>) {
        self.edits.push((span, with.into()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// Writes `text` with every edit to `out`.
    pub(super) fn apply(mut self, text: &[u8], out: &mut Vec<u8>) {
        self.edits.sort_by_key(|(span, _)| span.start);
        let mut from = 0;
        for (span, with) in self.edits {
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

    fn without(text: &str, key: &str) -> String {
        let object = Object::parse(text.as_bytes()).unwrap();
        let value = span(text.as_bytes(), object.get(key).unwrap());
        let mut splices = Splices::default();
        splices.replace(member_span(text.as_bytes(), key, value).unwrap(), "");
        let mut out = Vec::new();
        splices.apply(text.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_member_is_removed_wherever_it_stands() {
        assert_eq!(without(r#"{"a":1,"b":{"c":2},"d":3}"#, "b"), r#"{"a":1,"d":3}"#);
        assert_eq!(without(r#"{ "a" : 1 , "b":2}"#, "a"), r#"{  "b":2}"#);
        assert_eq!(without(r#"{"a":1,"b":2 }"#, "b"), r#"{"a":1 }"#);
        assert_eq!(without(r#"{"a":1}"#, "a"), "{}");
    }

    #[test]
    fn only_objects_parse() {
        for text in ["[]", "\"x\"", "1", "{", "{} {}", "", "null"] {
            assert!(Object::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
