//! What does a plain (not streamed) answer say, and what is changed in it?
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::endpoint::Endpoint;
use super::json::{Object, Splices, span};

/// Tokens as the node reports them; `None` where it reports none, which is not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Usage {
    /// Cached tokens included.
    #[serde(alias = "input_tokens")]
    pub prompt_tokens: Option<u64>,
    /// Reasoning included.
    #[serde(alias = "output_tokens")]
    pub completion_tokens: Option<u64>,
    /// The node's work on the prompt; only Ollama's own dialect tells.
    #[serde(skip)]
    pub prefill: Option<Duration>,
    /// The node's work on the answer; only Ollama's own dialect tells.
    #[serde(skip)]
    pub decode: Option<Duration>,
    /// Until the node had the model ready, waiting for other loads included; only Ollama's own dialect tells.
    #[serde(skip)]
    pub load: Option<Duration>,
}

impl Usage {
    /// From the `usage` object of OpenAI's and Anthropic's dialects.
    pub(crate) fn parse(usage: &RawValue) -> Result<Self, String> {
        serde_json::from_str(usage.get()).map_err(|_| "the usage is of another kind".to_owned())
    }

    /// From the last object of Ollama's own dialect, in which a count of zero is absent.
    pub(crate) fn of_native(object: &Object<'_>) -> Result<Self, String> {
        let count = |key| match object.present(key) {
            None => Ok(0),
            Some(count) => serde_json::from_str(count.get()).map_err(|_| format!("`{key}` is no count")),
        };
        let time = |key| object.present(key).and_then(|time| serde_json::from_str::<i64>(time.get()).ok());
        // An embedding is all prompt, and reports only the whole.
        let embedding = || Some(time("total_duration")?.saturating_sub(time("load_duration").unwrap_or(0)));
        let nanoseconds = |time: i64| Duration::from_nanos(u64::try_from(time).unwrap_or_default());
        let decode = time("eval_duration");
        let prefill = time("prompt_eval_duration").or_else(|| if decode.is_none() { embedding() } else { None });
        Ok(Self {
            prompt_tokens: Some(count("prompt_eval_count")?),
            completion_tokens: Some(count("eval_count")?),
            prefill: prefill.map(nanoseconds),
            decode: decode.map(nanoseconds),
            load: time("load_duration").map(nanoseconds),
        })
    }
}

/// Checks that `body` is a whole answer of `endpoint`, gives it an id made from the request's, and reads its usage.
///
/// # Errors
/// What is wrong with it, in words for an operator.
pub fn edit_answer(endpoint: Endpoint, body: Bytes, request_id: &str) -> Result<(Bytes, Usage), String> {
    let object = Object::parse(&body).map_err(|error| format!("the answer is not a JSON object: {error}"))?;
    if let Some(error) = object.present("error") {
        return Err(format!("the node answered with an error: {}", error.get().chars().take(200).collect::<String>()));
    }
    let content = match endpoint {
        Endpoint::ChatCompletions | Endpoint::Completions => "choices",
        Endpoint::Embeddings => "data",
        Endpoint::Responses => "output",
        Endpoint::Messages => "content",
        Endpoint::Chat => "message",
        Endpoint::Generate => "response",
        Endpoint::Embed => "embeddings",
        Endpoint::EmbedOne => "embedding",
    };
    if object.present(content).is_none() {
        return Err(format!("the answer has no `{content}`"));
    }
    if !is_done(endpoint, &object)? {
        return Err("the answer is not done".to_owned());
    }
    let usage = usage_of(endpoint, &object)?;
    let id = endpoint.answer_id(request_id);
    let Some(old_id) = object.get("id").filter(|_| !id.is_empty()) else {
        return Ok((body, usage));
    };
    let mut splices = Splices::default();
    splices.replace(span(&body, old_id), id);
    let mut edited = Vec::with_capacity(body.len() + 64);
    splices.apply(&body, &mut edited);
    Ok((edited.into(), usage))
}

/// A generation that fails on the way is a 200 that is not done: without a reason for its end.
fn is_done(endpoint: Endpoint, object: &Object<'_>) -> Result<bool, String> {
    let is_null = |value: &RawValue| value.get() == "null";
    Ok(match endpoint {
        Endpoint::Chat | Endpoint::Generate => object.get("done").is_some_and(|done| done.get() == "true"),
        Endpoint::Messages => !object.get("stop_reason").is_some_and(is_null),
        Endpoint::Responses => {
            !object.get("status").is_some_and(|status| matches!(status.get(), "\"in_progress\"" | "\"failed\""))
        }
        Endpoint::ChatCompletions | Endpoint::Completions => {
            let choices = object.present("choices").map_or("[]", RawValue::get);
            let choices: Vec<&RawValue> =
                serde_json::from_str(choices).map_err(|_| "the choices are of another kind".to_owned())?;
            for choice in choices {
                if Object::parse(choice.get().as_bytes())?.get("finish_reason").is_some_and(is_null) {
                    return Ok(false);
                }
            }
            true
        }
        _ => true,
    })
}

fn usage_of(endpoint: Endpoint, object: &Object<'_>) -> Result<Usage, String> {
    match endpoint {
        Endpoint::Chat | Endpoint::Generate | Endpoint::Embed => Usage::of_native(object),
        Endpoint::EmbedOne => Ok(Usage::default()),
        _ => object.present("usage").map_or(Ok(Usage::default()), Usage::parse),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_id_changes_and_the_usage_is_read() {
        let body = r#"{ "id":"chatcmpl-4", "x":[1.0,  2], "choices":[{}], "usage":{"prompt_tokens":26,"completion_tokens":0,"total_tokens":26}}"#;
        let (edited, usage) = edit_answer(Endpoint::ChatCompletions, Bytes::from(body), "new").unwrap();
        assert_eq!(edited, body.replace("\"chatcmpl-4\"", "\"chatcmpl-new\""));
        assert_eq!(usage, Usage { prompt_tokens: Some(26), completion_tokens: Some(0), ..Usage::default() });
    }

    #[test]
    fn each_dialect_reports_in_its_own_place() {
        let usage = |endpoint, body: &'static str| edit_answer(endpoint, Bytes::from(body), "r").unwrap().1;
        let some = |prompt, completion| Usage {
            prompt_tokens: Some(prompt),
            completion_tokens: Some(completion),
            ..Usage::default()
        };
        let native = r#"{"message":{},"done":true,"prompt_eval_count":3}"#;
        assert_eq!(usage(Endpoint::Chat, native), some(3, 0));
        let messages = r#"{"id":"msg_1","content":[],"usage":{"input_tokens":4,"output_tokens":5}}"#;
        assert_eq!(usage(Endpoint::Messages, messages), some(4, 5));
        let responses = r#"{"id":"resp_1","output":[],"usage":{"input_tokens":4,"output_tokens":5,"total_tokens":9}}"#;
        assert_eq!(usage(Endpoint::Responses, responses), some(4, 5));
        assert_eq!(usage(Endpoint::EmbedOne, r#"{"embedding":[1]}"#), Usage::default());
    }

    #[test]
    fn ollamas_own_dialect_tells_what_the_node_worked() {
        let usage = |endpoint, body: &'static str| edit_answer(endpoint, Bytes::from(body), "r").unwrap().1;
        let chat = r#"{"message":{},"done":true,"load_duration":9000000,"prompt_eval_duration":2000000,"eval_duration":3000000}"#;
        let chat = usage(Endpoint::Chat, chat);
        assert_eq!((chat.prefill, chat.decode), (Some(Duration::from_millis(2)), Some(Duration::from_millis(3))));
        assert_eq!(chat.load, Some(Duration::from_millis(9)));
        let embed = usage(Endpoint::Embed, r#"{"embeddings":[[1]],"total_duration":9000000,"load_duration":4000000}"#);
        assert_eq!((embed.prefill, embed.decode), (Some(Duration::from_millis(5)), None));
        let silent = usage(Endpoint::Chat, r#"{"message":{},"done":true,"eval_duration":-1}"#);
        assert_eq!((silent.prefill, silent.decode), (None, Some(Duration::ZERO)));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for body in ["", "{", "[]", "{}", r#"{"error":{"message":"x"}}"#, r#"{"choices":null}"#] {
            assert!(edit_answer(Endpoint::ChatCompletions, Bytes::from(body), "i").is_err(), "{body}");
        }
        for (endpoint, body) in [
            (Endpoint::Chat, r#"{"message":{},"done":false}"#),
            (Endpoint::ChatCompletions, r#"{"choices":[{"message":{},"finish_reason":null}]}"#),
            (Endpoint::Completions, r#"{"choices":[{"text":"a","finish_reason":null}]}"#),
            (Endpoint::Messages, r#"{"content":[],"stop_reason":null}"#),
            (Endpoint::Responses, r#"{"output":[],"status":"in_progress"}"#),
        ] {
            assert!(edit_answer(endpoint, Bytes::from(body), "i").is_err(), "{body}");
        }
    }
}
