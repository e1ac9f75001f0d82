//! What does a plain (not streamed) answer say, and what is changed in it?
use bytes::Bytes;
use serde::Deserialize;

use super::json::{Object, Splices, span};
use super::request::Endpoint;

/// Tokens as the node reports them; `None` where it reports none, which is not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Usage {
    /// Cached tokens included.
    pub prompt_tokens: Option<u64>,
    /// Reasoning included.
    pub completion_tokens: Option<u64>,
}

/// Checks that `body` is a whole answer of `endpoint`, replaces its `id`, and reads its usage.
///
/// # Errors
/// What is wrong with it, in words for an operator.
pub fn edit_answer(endpoint: Endpoint, body: Bytes, id: &str) -> Result<(Bytes, Usage), String> {
    let object = Object::parse(&body).map_err(|error| format!("the answer is not a JSON object: {error}"))?;
    if let Some(error) = object.present("error") {
        return Err(format!("the node answered with an error: {}", error.get().chars().take(200).collect::<String>()));
    }
    let content = if endpoint == Endpoint::Embeddings { "data" } else { "choices" };
    if object.present(content).is_none() {
        return Err(format!("the answer has no `{content}`"));
    }
    let usage = match object.present("usage") {
        Some(usage) => serde_json::from_str(usage.get()).map_err(|_| "the usage is of another kind".to_owned())?,
        None => Usage::default(),
    };
    let Some(old_id) = object.get("id") else {
        return Ok((body, usage));
    };
    let mut splices = Splices::default();
    splices.replace(span(&body, old_id), id);
    let mut edited = Vec::with_capacity(body.len() + id.len());
    splices.apply(&body, &mut edited);
    Ok((edited.into(), usage))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_id_changes_and_the_usage_is_read() {
        let body = r#"{ "id":"chatcmpl-4", "x":[1.0,  2], "choices":[{}], "usage":{"prompt_tokens":26,"completion_tokens":0,"total_tokens":26}}"#;
        let (edited, usage) = edit_answer(Endpoint::ChatCompletions, Bytes::from(body), "\"new\"").unwrap();
        assert_eq!(edited, body.replace("\"chatcmpl-4\"", "\"new\""));
        assert_eq!(usage, Usage { prompt_tokens: Some(26), completion_tokens: Some(0) });
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for body in ["", "{", "[]", "{}", r#"{"error":{"message":"x"}}"#, r#"{"choices":null}"#] {
            assert!(edit_answer(Endpoint::ChatCompletions, Bytes::from(body), "\"i\"").is_err(), "{body}");
        }
    }
}
