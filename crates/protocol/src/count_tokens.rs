//! How many tokens would a prompt in Anthropic's dialect have? Estimated here, without asking a node.
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::endpoint::Endpoint;
use super::field::{BadRequest, bad, field};
use super::json::Object;
use super::prompt;
use super::tally::USUAL_BYTES_PER_TOKEN;

/// The answer to `POST /v1/messages/count_tokens`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenCount {
    /// As the client spelled it.
    pub model: String,
    /// Estimated tokens of the prompt: the same estimate that a request is charged if its node reports none.
    pub input_tokens: u64,
}

/// Estimates the prompt of a body for `/v1/messages`, which may lack `max_tokens` here.
///
/// # Errors
/// [`BadRequest`] if the body is no such request.
pub fn count_tokens(body: &[u8]) -> Result<TokenCount, BadRequest> {
    let object = Object::parse(body)
        .map_err(|error| BadRequest { message: format!("the body is not a JSON object: {error}"), param: None })?;
    let model: Option<String> = field(&object, "model", "a string")?;
    let model = model.filter(|model| !model.is_empty()).ok_or_else(|| bad("model", "`model` is missing"))?;
    let bound = prompt::measure(Endpoint::Messages, &object)?.bound;
    // A node would refuse malformed messages; here nobody else checks them.
    let _: PromptForm = serde_json::from_slice(body)
        .map_err(|error| bad("messages", format!("`messages` cannot be understood: {error}")))?;
    Ok(TokenCount { model, input_tokens: (bound / USUAL_BYTES_PER_TOKEN).max(1) })
}

/// What every prompt has. Only its form is checked and nothing is kept, because a body may be large.
#[derive(Deserialize)]
struct PromptForm {
    #[serde(rename = "messages")]
    _messages: Vec<Message>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(rename = "role")]
    _role: TextValue,
    #[serde(rename = "content")]
    _content: Content,
}

/// A string.
struct TextValue;

/// A string, or a list of objects.
struct Content;

/// An object.
struct Block;

impl<'de> Deserialize<'de> for TextValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyText;
        impl Visitor<'_> for AnyText {
            type Value = TextValue;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_str<E>(self, _: &str) -> Result<TextValue, E> {
                Ok(TextValue)
            }
        }
        deserializer.deserialize_str(AnyText)
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrBlocks;
        impl<'de> Visitor<'de> for TextOrBlocks {
            type Value = Content;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string or a list of blocks")
            }

            fn visit_str<E>(self, _: &str) -> Result<Content, E> {
                Ok(Content)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut blocks: A) -> Result<Content, A::Error> {
                while let Some(Block) = blocks.next_element()? {}
                Ok(Content)
            }
        }
        deserializer.deserialize_any(TextOrBlocks)
    }
}

impl<'de> Deserialize<'de> for Block {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyObject;
        impl<'de> Visitor<'de> for AnyObject {
            type Value = Block;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a block")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Block, A::Error> {
                while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Block)
            }
        }
        deserializer.deserialize_map(AnyObject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::InferenceRequest;

    #[test]
    fn the_estimate_is_that_of_the_limits() {
        let body =
            r#"{"model":"m","messages":[{"role":"user","content":"Why is the sky blue?"}],"tools":[{"name":"f"}]}"#;
        let count = count_tokens(body.as_bytes()).unwrap();
        let request = body.replacen('{', r#"{"max_tokens":1,"#, 1);
        let request = InferenceRequest::parse(Endpoint::Messages, request.as_bytes()).unwrap();
        assert_eq!((count.model.as_str(), count.input_tokens), ("m", request.prompt_estimate()));
        assert!(count.input_tokens > 10);
    }

    #[test]
    fn what_is_no_prompt_is_refused() {
        for body in [
            "",
            "[]",
            "{}",
            r#"{"model":"","messages":[]}"#,
            r#"{"model":"m"}"#,
            r#"{"model":"m","messages":[{}]}"#,
            r#"{"model":"m","messages":[{"role":"user","content":null}]}"#,
        ] {
            assert!(count_tokens(body.as_bytes()).is_err(), "{body}");
        }
    }
}
