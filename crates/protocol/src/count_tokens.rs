//! How many tokens would a prompt in Anthropic's dialect take? Estimated here: no node is asked.
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
    /// Tokens that the prompt has, about: the estimate that a request without a report from its node is charged.
    pub input_tokens: u64,
}

/// Estimates the prompt of a body that is that of `/v1/messages` but for `max_tokens`.
///
/// # Errors
/// [`BadRequest`] where it is none.
pub fn count_tokens(body: &[u8]) -> Result<TokenCount, BadRequest> {
    let object = Object::parse(body)
        .map_err(|error| BadRequest { message: format!("the body is not a JSON object: {error}"), param: None })?;
    let model: Option<String> = field(&object, "model", "a string")?;
    let model = model.filter(|model| !model.is_empty()).ok_or_else(|| bad("model", "`model` is missing"))?;
    let bound = prompt::measure(Endpoint::Messages, &object)?.bound;
    Ok(TokenCount { model, input_tokens: (bound / USUAL_BYTES_PER_TOKEN).max(1) })
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
        for body in
            ["", "[]", "{}", r#"{"model":"","messages":[]}"#, r#"{"model":"m"}"#, r#"{"model":"m","messages":[{}]}"#]
        {
            assert!(count_tokens(body.as_bytes()).is_err(), "{body}");
        }
    }
}
