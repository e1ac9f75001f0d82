//! What does a plain answer say, and what is changed in it?
use bytes::Bytes;
use serde_json::value::RawValue;

use super::endpoint::Endpoint;
use super::json::{Object, Splices, span};
use super::repeats::ends_in_repetition;
use super::tally::AnswerProgress;
use super::text::{text_len, written_in};
use super::usage::Usage;

/// Checks that `body` is a complete answer of `endpoint`, sets its id to one made from the request's, and reads its
/// usage. An answer that the node broke off because the model repeated itself counts as complete, and is given the
/// reason for its end.
///
/// # Errors
/// What is wrong with it, in words for an operator.
pub fn edit_answer(endpoint: Endpoint, body: Bytes, request_id: &str) -> Result<(Bytes, AnswerProgress), String> {
    let object = Object::parse(&body).map_err(|error| format!("the answer is not a JSON object: {error}"))?;
    if let Some(error) = object.present("error") {
        return Err(format!("the node answered with an error: {}", error.get().chars().take(200).collect::<String>()));
    }
    let content = content_of(endpoint);
    // If a model stops at once, Ollama's answer in Anthropic's dialect has no `content` list.
    let has_content = match endpoint {
        Endpoint::Messages => object.get(content).is_some(),
        _ => object.present(content).is_some(),
    };
    if !has_content {
        return Err(format!("the answer has no `{content}`"));
    }
    let usage = usage_of(endpoint, &object);
    let text = Written::of(endpoint, &object);
    let mut splices = Splices::default();
    for end in unfinished(endpoint, &object)? {
        // The model repeated itself, which is no failure of the node.
        if !ends_in_repetition(text.last) {
            return Err("the answer is not done".to_owned());
        }
        splices.replace(span(&body, end.value), end.becomes);
    }
    let id = endpoint.answer_id(request_id);
    if let Some(old_id) = object.get("id").filter(|_| !id.is_empty()) {
        splices.replace(span(&body, old_id), id);
    }
    let progress = AnswerProgress { usage: Some(usage), token_chunks: 0, text_bytes: text.bytes, done: true };
    if splices.is_empty() {
        return Ok((body, progress));
    }
    let mut edited = Vec::with_capacity(body.len() + 64);
    splices.apply(&body, &mut edited);
    Ok((edited.into(), progress))
}

/// The member that every answer must have.
fn content_of(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::ChatCompletions | Endpoint::Completions => "choices",
        Endpoint::Embeddings => "data",
        Endpoint::Responses => "output",
        Endpoint::Messages => "content",
        Endpoint::Chat => "message",
        Endpoint::Generate => "response",
        Endpoint::Embed => "embeddings",
        Endpoint::EmbedOne => "embedding",
    }
}

fn usage_of(endpoint: Endpoint, object: &Object<'_>) -> Usage {
    match endpoint {
        Endpoint::Chat | Endpoint::Generate | Endpoint::Embed => Usage::of_native(endpoint, object),
        Endpoint::EmbedOne => Usage::default(),
        _ => Usage::of(endpoint, object),
    }
}

/// What the model wrote.
struct Written<'a> {
    bytes: u64,
    /// Its last text, a JSON string with its quotes.
    last: &'a str,
}

impl<'a> Written<'a> {
    fn of(endpoint: Endpoint, object: &Object<'a>) -> Self {
        let (mut bytes, mut last) = (0, "");
        // The id is a text that the node made, and no part of what the model wrote.
        for (name, value) in object.members().filter(|(name, _)| !endpoint.embeds() && *name != "id") {
            written_in(name, value.get(), |raw| {
                bytes += text_len(raw) as u64;
                last = raw;
            });
        }
        Self { bytes, last }
    }
}

/// Where the reason for an answer's end is missing, and what to put there.
struct MissingEnd<'a> {
    value: &'a RawValue,
    becomes: &'static str,
}

/// Where an answer says that it is not done: a generation that fails half-way is a 200 without a reason for its end.
fn unfinished<'a>(endpoint: Endpoint, object: &Object<'a>) -> Result<Vec<MissingEnd<'a>>, String> {
    let missing = |value: Option<&'a RawValue>, is_missing: fn(&str) -> bool, becomes| {
        value.filter(|value| is_missing(value.get())).map(|value| MissingEnd { value, becomes })
    };
    let is_null = |value: &str| value == "null";
    Ok(match endpoint {
        Endpoint::Chat | Endpoint::Generate => {
            let done = object.get("done").ok_or("the answer does not say whether it is done")?;
            missing(Some(done), |done| done != "true", r#"true,"done_reason":"length""#).into_iter().collect()
        }
        Endpoint::Messages => missing(object.get("stop_reason"), is_null, r#""max_tokens""#).into_iter().collect(),
        Endpoint::Responses => {
            let status = object.get("status");
            // A failure must reach the client as one, and not as an answer that was cut short.
            if status.is_some_and(|status| status.get() == r#""failed""#) {
                return Err("the response failed".to_owned());
            }
            missing(status, |status| status == r#""in_progress""#, r#""incomplete""#).into_iter().collect()
        }
        Endpoint::ChatCompletions | Endpoint::Completions => {
            let choices = object.present("choices").map_or("[]", RawValue::get);
            let choices: Vec<Object<'a>> =
                serde_json::from_str(choices).map_err(|_| "`choices` is not a list of choices".to_owned())?;
            let ends = choices.iter().map(|choice| missing(choice.get("finish_reason"), is_null, r#""length""#));
            ends.flatten().collect()
        }
        _ => Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(endpoint: Endpoint, body: &'static str) -> (Option<u64>, Option<u64>, u64) {
        let progress = edit_answer(endpoint, Bytes::from(body), "r").unwrap().1;
        let usage = progress.usage.unwrap();
        (usage.prompt_tokens, usage.completion_tokens, progress.text_bytes)
    }

    #[test]
    fn only_the_id_changes_and_the_usage_is_read() {
        let body = r#"{ "id":"chatcmpl-4", "x":[1.0,  2], "choices":[{}], "usage":{"prompt_tokens":26,"completion_tokens":0,"total_tokens":26}}"#;
        let (edited, progress) = edit_answer(Endpoint::ChatCompletions, Bytes::from(body), "new").unwrap();
        assert_eq!(edited, body.replace("\"chatcmpl-4\"", "\"chatcmpl-new\""));
        let usage = Usage { prompt_tokens: Some(26), completion_tokens: Some(0), ..Usage::default() };
        assert_eq!(progress, AnswerProgress { usage: Some(usage), done: true, ..AnswerProgress::default() });
    }

    #[test]
    fn each_dialect_reports_in_its_own_place() {
        let native = r#"{"message":{"content":"Hé"},"done":true,"prompt_eval_count":3,"eval_count":2}"#;
        assert_eq!(counts(Endpoint::Chat, native), (Some(3), Some(2), 3));
        let messages =
            r#"{"id":"msg_1","content":[{"type":"text","text":"Hi"}],"usage":{"input_tokens":4,"output_tokens":5}}"#;
        assert_eq!(counts(Endpoint::Messages, messages), (Some(4), Some(5), 2));
        let responses = r#"{"id":"resp_1","output":[],"usage":{"input_tokens":4,"output_tokens":5,"total_tokens":9}}"#;
        assert_eq!(counts(Endpoint::Responses, responses), (Some(4), Some(5), 0));
        assert_eq!(counts(Endpoint::EmbedOne, r#"{"embedding":[1]}"#), (None, None, 0));
    }

    #[test]
    fn a_usage_that_cannot_be_read_makes_no_answer_fail() {
        for usage in ["null", "7", "[]", r#"{"prompt_tokens":"26","completion_tokens":2.0}"#] {
            let body =
                format!(r#"{{"choices":[{{"message":{{"content":"Hi"}},"finish_reason":"stop"}}],"usage":{usage}}}"#);
            let progress = edit_answer(Endpoint::ChatCompletions, body.into(), "r").unwrap().1;
            assert_eq!((progress.usage, progress.text_bytes), (Some(Usage::default()), 2), "{usage}");
        }
        let body = r#"{"message":{"content":"Hi"},"done":true,"prompt_eval_count":"3","eval_count":-1}"#;
        assert_eq!(counts(Endpoint::Chat, body), (None, None, 2));
    }

    #[test]
    fn an_anthropic_answer_without_content_is_a_good_answer() {
        let body =
            r#"{"id":"msg_1","content":null,"stop_reason":"end_turn","usage":{"input_tokens":4,"output_tokens":1}}"#;
        assert_eq!(counts(Endpoint::Messages, body), (Some(4), Some(1), 0));
    }

    #[test]
    fn an_answer_that_the_token_repeat_guard_broke_off_is_whole() {
        let text = " la".repeat(31);
        let edited = |endpoint, body: String| {
            edit_answer(endpoint, body.into(), "r").map(|(body, _)| String::from_utf8(body.to_vec()).unwrap())
        };
        for usage in [r#","usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}"#, ""] {
            let body = format!(r#"{{"choices":[{{"message":{{"content":"{text}"}},"finish_reason":null}}]{usage}}}"#);
            assert_eq!(edited(Endpoint::ChatCompletions, body.clone()), Ok(body.replace("null", "\"length\"")));
        }
        let native = format!(r#"{{"message":{{"content":"{text}"}},"done":false}}"#);
        let done = native.replace("false", r#"true,"done_reason":"length""#);
        assert_eq!(edited(Endpoint::Chat, native), Ok(done));
        let messages = format!(r#"{{"content":[{{"type":"text","text":"{text}"}}],"stop_reason":null}}"#);
        assert_eq!(edited(Endpoint::Messages, messages.clone()), Ok(messages.replace("null", "\"max_tokens\"")));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for body in ["", "{", "[]", "{}", r#"{"error":{"message":"x"}}"#, r#"{"choices":null}"#] {
            assert!(edit_answer(Endpoint::ChatCompletions, Bytes::from(body), "i").is_err(), "{body}");
        }
        for (endpoint, body) in [
            (Endpoint::Chat, r#"{"message":{},"done":false}"#),
            (Endpoint::Chat, r#"{"message":{}}"#),
            (Endpoint::ChatCompletions, r#"{"choices":[{"message":{},"finish_reason":null}]}"#),
            (Endpoint::Completions, r#"{"choices":[{"text":"a","finish_reason":null}]}"#),
            (Endpoint::Messages, r#"{"content":[],"stop_reason":null}"#),
            (Endpoint::Messages, r#"{"stop_reason":"end_turn"}"#),
            (
                Endpoint::Completions,
                r#"{"choices":[{"text":"no repetition","finish_reason":null}],"usage":{"prompt_tokens":0}}"#,
            ),
            (Endpoint::Responses, r#"{"output":[],"status":"in_progress"}"#),
            (Endpoint::Responses, r#"{"output":[{"content":[{"text":"a"}]}],"status":"failed"}"#),
        ] {
            assert!(edit_answer(endpoint, Bytes::from(body), "i").is_err(), "{body}");
        }
    }
}
