//! How large is a prompt, and is it well formed? Checked and measured in each dialect, without interpreting the text.
//!
//! Every token stands for at least one byte of text, and the JSON around a text only makes it longer. So the length of
//! the whole body, with strings counted decoded, is an upper bound: every field that a node may put into its prompt is
//! counted, and only fields that never get there are left out. What is not text is counted by its *kind* wherever a
//! node would look for it: images by their number, whatever their size; sound by its size, at far less than a token a
//! byte.
mod content;
mod media;
mod parts;

use serde_json::value::RawValue;

use self::content::{items, messages};
use self::media::{Media, images};
pub use self::parts::PromptPrefix;
pub(crate) use self::parts::{parts, prefixes};
use super::endpoint::Endpoint;
use super::field::{BadRequest, bad, field};
use super::json::Object;
use super::text::{Form, weight};

/// The most tokens that a chat template adds around the messages, beyond the JSON that surrounded them.
const TEMPLATE_TOKENS: usize = 32;
const MAX_IMAGES: usize = 128;
/// Members that nodes write into the prompt as JSON.
const RENDERED: [&str; 2] = ["tools", "functions"];

/// Members that are never part of the prompt.
const NOT_PROMPT: [&str; 3] = ["model", "options", "stream_options"];

/// A prompt's measure.
#[derive(Debug)]
pub(crate) struct Prompt {
    /// Upper bound: no prompt of this size has more tokens.
    pub(crate) bound: u64,
    /// There is no prompt, which has a meaning in Ollama's own dialect.
    pub(crate) is_empty: bool,
}

/// Checks the prompt of a request and measures it.
pub(crate) fn measure(endpoint: Endpoint, object: &Object<'_>) -> Result<Prompt, BadRequest> {
    let mut media = Media::default();
    let mut is_empty = false;
    match endpoint {
        Endpoint::ChatCompletions | Endpoint::Messages => messages(object, &mut media)?,
        Endpoint::Chat => {
            is_empty = field::<Vec<&RawValue>>(object, "messages", "a list of messages, each an object")?
                .is_none_or(|messages| messages.is_empty());
            if !is_empty {
                messages(object, &mut media)?;
            }
        }
        Endpoint::Completions => {
            text(object, "prompt")?.ok_or_else(|| bad("prompt", "`prompt` is missing"))?;
        }
        Endpoint::Generate => {
            is_empty = text(object, "prompt")?.is_none_or(|prompt| prompt == "\"\"");
            images("images", object.present("images"), &mut media)?;
        }
        // Ollama also answers these without a text.
        Endpoint::EmbedOne => {
            text(object, "prompt")?;
        }
        Endpoint::Embed => {
            texts(object, "`input` must be a string or a list of strings")?;
        }
        Endpoint::Embeddings => {
            let input = texts(object, "`input` must be a string or a list of strings")?;
            let input = input.ok_or_else(|| bad("input", "`input` is missing"))?;
            if input.get()[1..].trim_start() == "]" {
                return Err(bad("input", "`input` must contain at least one text"));
            }
        }
        Endpoint::Responses => {
            let input = texts(object, "`input` must be a string or a list of items")?;
            let input = input.ok_or_else(|| bad("input", "`input` is missing"))?;
            if input.get().starts_with('[') {
                items(input, &mut media)?;
            }
        }
    }
    if media.images > MAX_IMAGES {
        let message = format!("at most {MAX_IMAGES} images are accepted in a request");
        return Err(bad(media_param(endpoint), message));
    }
    Ok(Prompt { bound: bound(object, &media), is_empty })
}

/// An upper bound of the prompt's tokens.
fn bound(object: &Object<'_>, media: &Media) -> u64 {
    let member = |(name, value): (&str, &RawValue)| {
        let form = if RENDERED.contains(&name) { Form::Json } else { Form::Text };
        let is_text = !NOT_PROMPT.contains(&name) && value.get().starts_with(['"', '[', '{']);
        if is_text { weight(value.get(), form) } else { 0 }
    };
    let whole: usize = object.members().map(member).fold(0, usize::saturating_add);
    debug_assert!(media.weight <= whole + media.rendered, "media is a part of the body");
    let text = whole.saturating_add(media.rendered).saturating_sub(media.weight);
    text.saturating_add(media.tokens).saturating_add(TEMPLATE_TOKENS) as u64
}

fn media_param(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Generate => "images",
        Endpoint::Responses => "input",
        _ => "messages",
    }
}

/// A string, including its quotes; it need not be valid Unicode.
fn text<'a>(object: &Object<'a>, key: &'static str) -> Result<Option<&'a str>, BadRequest> {
    let Some(raw) = object.present(key).map(RawValue::get) else { return Ok(None) };
    if raw.starts_with('"') { Ok(Some(raw)) } else { Err(bad(key, format!("`{key}` must be a string"))) }
}

/// A string or a list.
fn texts<'a>(object: &Object<'a>, expected: &str) -> Result<Option<&'a RawValue>, BadRequest> {
    let Some(input) = object.present("input") else { return Ok(None) };
    match input.get().as_bytes().first() {
        Some(b'"' | b'[') => Ok(Some(input)),
        _ => Err(bad("input", expected)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(endpoint: Endpoint, body: &str) -> Result<Prompt, BadRequest> {
        measure(endpoint, &Object::parse(body.as_bytes()).unwrap())
    }

    fn bound(endpoint: Endpoint, body: &str) -> u64 {
        measured(endpoint, body).unwrap().bound
    }

    #[test]
    fn the_bound_counts_the_whole_body_whatever_the_field() {
        let long = "x".repeat(10_000);
        let numbers = vec!["7"; 5_000].join(",");
        for (endpoint, body) in [
            (Endpoint::Generate, format!(r#"{{"prompt":"a","context":[{numbers}]}}"#)),
            (Endpoint::Generate, format!(r#"{{"prompt":"a","suffix":"{long}"}}"#)),
            (Endpoint::Generate, format!(r#"{{"prompt":"a","system":"{long}"}}"#)),
            (Endpoint::Completions, format!(r#"{{"prompt":"a","suffix":"{long}"}}"#)),
            (Endpoint::Chat, format!(r#"{{"messages":[{{"role":"user","content":"a","thinking":"{long}"}}]}}"#)),
            (Endpoint::Messages, format!(r#"{{"messages":[{{"role":"user","content":"a"}}],"thinking":"{long}"}}"#)),
            (Endpoint::Responses, format!(r#"{{"input":"a","instructions":"{long}"}}"#)),
            (Endpoint::Responses, format!(r#"{{"input":[{{"type":"function_call","arguments":"{long}"}}]}}"#)),
            (
                Endpoint::ChatCompletions,
                format!(r#"{{"messages":[{{"role":"user","content":"a"}}],"functions":["{long}"]}}"#),
            ),
        ] {
            assert!(bound(endpoint, &body) > 9_999, "{}", &body[..60]);
        }
    }

    #[test]
    fn escapes_count_as_what_they_stand_for() {
        let of = |text: &str| bound(Endpoint::Completions, &format!(r#"{{"prompt":"{text}"}}"#));
        assert_eq!(of(&"\\u4e2d".repeat(1000)), of(&"中".repeat(1000)));
        assert_eq!(of("\\ud83d\\ude00"), of("😀"));
    }

    #[test]
    fn what_a_node_writes_as_json_counts_as_it_is_written() {
        let tools = |text: &str| {
            let body = format!(r#"{{"messages":[{{"role":"user","content":"a"}}],"tools":[{{"x":"{text}"}}]}}"#);
            bound(Endpoint::ChatCompletions, &body)
        };
        assert_eq!(tools(&"<".repeat(100)) - tools(&"x".repeat(100)), 500);
        let call = |text: &str| {
            let call = format!(r#"{{"type":"tool_use","id":"t","name":"f","input":{{"x":"{text}"}}}}"#);
            bound(Endpoint::Messages, &format!(r#"{{"messages":[{{"role":"assistant","content":[{call}]}}]}}"#))
        };
        assert_eq!(call(&"<".repeat(100)) - call(&"x".repeat(100)), 500);
    }

    #[test]
    fn an_endpoint_that_needs_no_text_takes_none() {
        for endpoint in [Endpoint::Embed, Endpoint::EmbedOne] {
            assert!(measured(endpoint, "{}").is_ok() && measured(endpoint, r#"{"input":null,"prompt":null}"#).is_ok());
        }
        for endpoint in [Endpoint::Embeddings, Endpoint::Completions, Endpoint::Responses] {
            assert!(measured(endpoint, "{}").is_err());
        }
    }
}
