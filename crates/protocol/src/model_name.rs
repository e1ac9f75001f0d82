//! When do two names mean the same model? Read as Ollama's own parser does: `Llama3.2`, `library/llama3.2` and
//! `registry.ollama.ai/library/llama3.2:latest` are the same.
use std::fmt;

use bytes::Bytes;

use crate::json::{Object, Splices, span};

const HOST: &str = "registry.ollama.ai";
const NAMESPACE: &str = "library";
const TAG: &str = "latest";
/// The longest host, in bytes.
const MAX_HOST: usize = 350;
/// The longest of the other parts, in bytes.
const MAX_PART: usize = 80;

/// A model's name with Ollama's defaults filled in: `[host/][namespace/]model[:tag]`. Equal values mean the same model.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelName {
    /// All four parts in lower case, because Ollama ignores case.
    whole: String,
}

impl ModelName {
    /// Reads a name; `None` if Ollama would not accept it.
    pub fn parse(name: &str) -> Option<Self> {
        let name = ["http://", "https://"].into_iter().find_map(|scheme| name.strip_prefix(scheme)).unwrap_or(name);
        // A colon before the last slash belongs to the host's port.
        let (path, tag) = match name.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (name, TAG),
        };
        let mut parts = path.rsplitn(3, '/');
        let model = parts.next().unwrap_or_default();
        let namespace = parts.next().unwrap_or(NAMESPACE);
        let host = parts.next().unwrap_or(HOST);
        let is_valid = is_part(host, MAX_HOST, b"_-.:")
            && is_part(namespace, MAX_PART, b"_-")
            && is_part(model, MAX_PART, b"_-.")
            && is_part(tag, MAX_PART, b"_-.");
        is_valid.then(|| Self { whole: format!("{host}/{namespace}/{model}:{tag}").to_ascii_lowercase() })
    }

    /// Whether two names mean the same model. Names that Ollama would not accept must be equal.
    pub fn same(one: &str, other: &str) -> bool {
        one == other || Self::parse(one).is_some_and(|one| Self::parse(other) == Some(one))
    }
}

/// The shortest form with the same meaning, including the tag, as Ollama lists models.
impl fmt::Display for ModelName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = self.whole.strip_prefix(HOST).and_then(|rest| rest.strip_prefix('/')).unwrap_or(&self.whole);
        let is_ours = short.len() < self.whole.len();
        let short =
            short.strip_prefix(NAMESPACE).and_then(|rest| rest.strip_prefix('/')).filter(|_| is_ours).unwrap_or(short);
        formatter.write_str(short)
    }
}

/// Whether this is a valid part of a name: it begins with a letter, a digit or `_`.
fn is_part(part: &str, longest: usize, others: &[u8]) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    part.len() <= longest
        && part.bytes().next().is_some_and(is_word)
        && part.bytes().all(|byte| is_word(byte) || others.contains(&byte))
}

/// The body with this model in it; `None` if the body names no model.
pub fn with_model(body: &Bytes, model: &str) -> Option<Bytes> {
    let object = Object::parse(body).ok()?;
    let mut splices = Splices::default();
    splices.replace(span(body, object.get("model")?), serde_json::to_string(model).ok()?);
    let mut renamed = Vec::with_capacity(body.len() + model.len());
    splices.apply(body, &mut renamed);
    Some(renamed.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_as_ollama_matches_them() {
        for name in [
            "llama3.2",
            "llama3.2:latest",
            "Llama3.2",
            "LLAMA3.2:LATEST",
            "library/llama3.2",
            "Library/llama3.2:latest",
            "registry.ollama.ai/library/llama3.2",
            "https://registry.ollama.ai/library/llama3.2:latest",
        ] {
            assert!(ModelName::same("llama3.2", name), "{name}");
            assert_eq!(ModelName::parse(name).unwrap().to_string(), "llama3.2:latest", "{name}");
        }
        for name in ["llama3.2:1b", "mine/llama3.2", "hf.co/library/llama3.2", "llama3_2", "x/library/llama3.2:latest"]
        {
            assert!(!ModelName::same("llama3.2", name), "{name}");
        }
        let hugging = "hf.co/Bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M";
        assert!(ModelName::same(hugging, "hf.co/bartowski/llama-3.2-3b-instruct-gguf:q4_k_m"));
        assert_eq!(ModelName::parse("localhost:5000/a/b").unwrap().to_string(), "localhost:5000/a/b:latest");
        assert_eq!(ModelName::parse("meta-llama/Llama-3.2").unwrap().to_string(), "meta-llama/llama-3.2:latest");
        assert_eq!(ModelName::parse("x/library/a").unwrap().to_string(), "x/library/a:latest");
    }

    #[test]
    fn what_is_no_name_means_only_itself() {
        let long = "a".repeat(81);
        for name in
            ["", ":", "a:", ":a", "/a", "a/", "a//b", "a/b.c/d/e", "-a", ".a", "a b", "a:b:c", "ä", "a/b.c/d", &long]
        {
            assert_eq!(ModelName::parse(name), None, "{name}");
            assert!(ModelName::same(name, name));
        }
        assert!(!ModelName::same("A b", "a b"));
    }

    #[test]
    fn only_the_model_changes() {
        let body = Bytes::from_static(br#"{ "x":{"model":"y"}, "model" : "llama3.2", "messages":[1.0,  2]}"#);
        let renamed = with_model(&body, "meta-llama/Llama \"3\"").unwrap();
        assert_eq!(renamed, r#"{ "x":{"model":"y"}, "model" : "meta-llama/Llama \"3\"", "messages":[1.0,  2]}"#);
        assert_eq!(with_model(&Bytes::from_static(b"{}"), "m"), None);
        assert_eq!(with_model(&Bytes::from_static(b"["), "m"), None);
    }
}
