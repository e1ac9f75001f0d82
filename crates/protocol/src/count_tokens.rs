//! How many tokens would a prompt in Anthropic's dialect take? Estimated here: no node is asked.
use std::borrow::Cow;

use serde::Deserialize;

use super::endpoint::Endpoint;
use super::field::{BadRequest, bad};
use super::request::InferenceRequest;

/// The answer to `POST /v1/messages/count_tokens`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenCount {
    /// As the client spelled it.
    pub model: String,
    /// Tokens that the prompt has, about: the estimate that a request without a report from its node is charged.
    pub input_tokens: u64,
}

/// Estimates the prompt of a body that is that of `/v1/messages`, but may lack `max_tokens`.
///
/// # Errors
/// [`BadRequest`] where `/v1/messages` would refuse it.
pub fn count_tokens(body: &[u8]) -> Result<TokenCount, BadRequest> {
    let request = InferenceRequest::parse(Endpoint::Messages, &with_max_tokens(body))?;
    // A node would tell; here nobody else looks.
    let _: Prompt = serde_json::from_slice(body)
        .map_err(|error| bad("messages", format!("`messages` are not understood: {error}")))?;
    Ok(TokenCount { input_tokens: request.prompt_estimate().max(1), model: request.model })
}

/// What must be there for a prompt to be one.
#[derive(Deserialize)]
struct Prompt {
    #[serde(rename = "messages")]
    _messages: Vec<Message>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(rename = "role")]
    _role: String,
    #[serde(rename = "content")]
    _content: Content,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    #[expect(dead_code, reason = "only its form counts")]
    Text(String),
    #[expect(dead_code, reason = "only its form counts")]
    Blocks(Vec<serde_json::Map<String, serde_json::Value>>),
}

/// The body with a `max_tokens` in front, which one of its own replaces.
fn with_max_tokens(body: &[u8]) -> Cow<'_, [u8]> {
    match body.trim_ascii_start().strip_prefix(b"{") {
        Some(rest) if !rest.trim_ascii_start().starts_with(b"}") => Cow::Owned([br#"{"max_tokens":1,"#, rest].concat()),
        _ => Cow::Borrowed(body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
