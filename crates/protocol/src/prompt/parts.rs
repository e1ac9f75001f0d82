//! Which parts does a prompt consist of, in the order in which a node reads them? If the first parts of two prompts are
//! equal, the prompts begin alike, so a node may have read that beginning before.
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;

use serde_json::value::RawValue;

use crate::endpoint::Endpoint;
use crate::json::{Object, span};

/// The most parts that are reported for a prompt.
const MOST: usize = 64;
/// How many bytes of a part are digested at each end. Only images are longer than both ends together.
const LOOKED_AT: usize = 32 * 1024;
/// What templates put before the messages, in this order.
const BEFORE: [&str; 5] = ["tools", "functions", "system", "instructions", "suffix"];

/// The end of a part: the digest of everything up to there, and its share of the whole prompt.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct PromptPrefix {
    /// Depends on the hasher's seed.
    pub digest: u64,
    /// Between 0 and 1.
    pub share: f64,
}

/// Where the parts of a prompt are in its body: what comes before the messages, then each message. Empty for endpoints
/// whose prompts no node caches.
pub(crate) fn parts(endpoint: Endpoint, body: &[u8], object: &Object<'_>) -> Vec<Range<usize>> {
    let messages = match endpoint {
        Endpoint::ChatCompletions | Endpoint::Messages | Endpoint::Chat => "messages",
        Endpoint::Responses => "input",
        Endpoint::Completions | Endpoint::Generate => "prompt",
        Endpoint::Embeddings | Endpoint::Embed | Endpoint::EmbedOne => return Vec::new(),
    };
    let before = BEFORE.iter().filter_map(|name| object.present(name));
    let mut parts: Vec<Range<usize>> = before.map(|value| span(body, value)).collect();
    let Some(messages) = object.present(messages) else { return parts };
    match serde_json::from_str::<Vec<&RawValue>>(messages.get()) {
        Ok(list) => parts.extend(list.into_iter().map(|message| span(body, message))),
        Err(_) => parts.push(span(body, messages)),
    }
    parts
}

/// The prefixes up to the end of each part; the first and the last ones if there are many.
pub(crate) fn prefixes(parts: &[Range<usize>], body: &[u8], seed: &impl BuildHasher) -> Vec<PromptPrefix> {
    let whole: usize = parts.iter().map(ExactSizeIterator::len).sum();
    let mut hasher = seed.build_hasher();
    let mut read = 0;
    let mut prefixes = Vec::with_capacity(parts.len().min(MOST));
    for (index, part) in parts.iter().enumerate() {
        let text = body.get(part.clone()).unwrap_or_default();
        hasher.write_usize(text.len());
        hasher.write(&text[..text.len().min(LOOKED_AT)]);
        hasher.write(&text[text.len().saturating_sub(LOOKED_AT)..]);
        read += text.len();
        if index == 0 || index + MOST > parts.len() {
            prefixes.push(PromptPrefix { digest: hasher.finish(), share: read as f64 / whole.max(1) as f64 });
        }
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasherDefault, DefaultHasher};

    use super::*;

    fn of(endpoint: Endpoint, body: &str) -> Vec<PromptPrefix> {
        let object = Object::parse(body.as_bytes()).unwrap();
        let parts = parts(endpoint, body.as_bytes(), &object);
        prefixes(&parts, body.as_bytes(), &BuildHasherDefault::<DefaultHasher>::default())
    }

    #[test]
    fn a_turn_begins_with_what_the_turn_before_was() {
        for (endpoint, list) in [
            (Endpoint::ChatCompletions, "messages"),
            (Endpoint::Chat, "messages"),
            (Endpoint::Messages, "messages"),
            (Endpoint::Responses, "input"),
        ] {
            let first = format!(r#"{{"tools":[1],"{list}":[{{"a":1}},{{"b":2}}]}}"#);
            let next = format!(r#"{{"{list}": [{{"a":1}}, {{"b":2}}, {{"c":3}}], "tools":[1], "stream":true}}"#);
            let (first, next) = (of(endpoint, &first), of(endpoint, &next));
            assert_eq!((first.len(), next.len()), (3, 4), "{endpoint:?}");
            let digests = |prefixes: &[PromptPrefix]| prefixes.iter().map(|it| it.digest).collect::<Vec<_>>();
            assert_eq!(digests(&first), digests(&next[..3]));
            assert!((next[3].share - 1.0).abs() < 1e-9 && next.is_sorted_by(|a, b| a.share < b.share));
        }
    }

    #[test]
    fn other_tools_and_other_first_words_begin_otherwise() {
        let prompt = |tools: &str, prompt: &str| {
            of(Endpoint::Generate, &format!(r#"{{"system":"{tools}","prompt":"{prompt}"}}"#))
        };
        assert_eq!(prompt("a", "b")[0], prompt("a", "c")[0]);
        assert_ne!(prompt("a", "b")[1], prompt("a", "c")[1]);
        assert_ne!(prompt("a", "b")[0].digest, prompt("d", "b")[0].digest);
        // The boundary between two parts is part of the digest.
        assert_ne!(prompt("ab", "c")[1].digest, prompt("a", "bc")[1].digest);
    }

    #[test]
    fn of_many_messages_the_first_and_the_last_are_told_and_embeddings_have_none() {
        let messages: Vec<String> = (0..200).map(|number| format!(r#"{{"n":{number}}}"#)).collect();
        let all = of(Endpoint::Chat, &format!(r#"{{"messages":[{}]}}"#, messages.join(",")));
        let most = of(Endpoint::Chat, &format!(r#"{{"messages":[{}]}}"#, messages[..198].join(",")));
        assert_eq!((all.len(), most.len()), (MOST, MOST));
        assert_eq!(all[0].digest, most[0].digest);
        assert!(all.iter().any(|prefix| prefix.digest == most[MOST - 1].digest));
        assert!(of(Endpoint::Embed, r#"{"input":"a"}"#).is_empty());
    }
}
