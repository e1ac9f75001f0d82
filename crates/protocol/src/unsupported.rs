//! Which requests ask for something that no node can do? Ollama silently ignores such fields. If the answer would then
//! have a different shape from what the client expects, or belong to a different conversation, the request is refused
//! instead. A field that merely has no effect is let through.
use serde_json::Value;
use serde_json::value::RawValue;

use super::endpoint::Endpoint;
use super::field::{BadRequest, bad};
use super::json::Object;

/// A field that is refused unless its value asks for nothing, or for what a node does anyway.
struct UnsupportedField {
    field: &'static str,
    harmless: fn(&Value) -> bool,
    why: &'static str,
}

const CHAT: &[UnsupportedField] = &[
    UnsupportedField {
        field: "n",
        harmless: is_one,
        why: "a node gives one choice; send as many requests as you want choices",
    },
    UnsupportedField { field: "functions", harmless: is_empty, why: "nodes only know `tools`, which replaced it" },
    UnsupportedField { field: "modalities", harmless: is_text, why: "nodes answer with text only" },
];

const COMPLETIONS: &[UnsupportedField] = &[
    UnsupportedField {
        field: "n",
        harmless: is_one,
        why: "a node gives one choice; send as many requests as you want choices",
    },
    UnsupportedField { field: "best_of", harmless: is_one, why: "a node generates one choice" },
    UnsupportedField { field: "echo", harmless: is_false, why: "nodes do not repeat the prompt" },
];

const RESPONSES: &[UnsupportedField] = &[
    UnsupportedField {
        field: "previous_response_id",
        harmless: is_empty,
        why: "responses are not stored; send the whole `input`",
    },
    UnsupportedField {
        field: "conversation",
        harmless: is_empty,
        why: "conversations are not stored; send the whole `input`",
    },
    UnsupportedField {
        field: "background",
        harmless: is_false,
        why: "responses are not stored for later; use `stream`",
    },
];

/// Refuses fields that a node would ignore with consequences for the client.
pub(crate) fn check(endpoint: Endpoint, object: &Object<'_>) -> Result<(), BadRequest> {
    let refused = match endpoint {
        Endpoint::ChatCompletions => CHAT,
        Endpoint::Completions => COMPLETIONS,
        Endpoint::Responses => RESPONSES,
        _ => return Ok(()),
    };
    for UnsupportedField { field, harmless, why } in refused {
        if object.present(field).is_some_and(|value| !asks_for_nothing(value, *harmless)) {
            return Err(bad(field, format!("`{field}` cannot be honoured: {why}")));
        }
    }
    Ok(())
}

fn asks_for_nothing(value: &RawValue, harmless: fn(&Value) -> bool) -> bool {
    serde_json::from_str(value.get()).is_ok_and(|value| harmless(&value))
}

fn is_one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

fn is_false(value: &Value) -> bool {
    *value == Value::Bool(false)
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value == ""
}

fn is_text(value: &Value) -> bool {
    value.as_array().is_some_and(|kinds| kinds.iter().all(|kind| kind == "text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_change_the_answer_is_refused_and_what_asks_for_nothing_passes() {
        let check =
            |endpoint, member: &str| check(endpoint, &Object::parse(format!("{{{member}}}").as_bytes()).unwrap());
        for (endpoint, member) in [
            (Endpoint::ChatCompletions, r#""n":1"#),
            (Endpoint::ChatCompletions, r#""n":null"#),
            (Endpoint::ChatCompletions, r#""n":1.0,"functions":[],"modalities":["text"]"#),
            (Endpoint::Completions, r#""n":1,"best_of":1,"echo":false"#),
            (Endpoint::Responses, r#""previous_response_id":null,"conversation":null,"background":false"#),
            (Endpoint::Messages, r#""n":2"#),
        ] {
            assert_eq!(check(endpoint, member), Ok(()), "{member}");
        }
        for (endpoint, field, value) in [
            (Endpoint::ChatCompletions, "n", "2"),
            (Endpoint::ChatCompletions, "n", "\"1\""),
            (Endpoint::ChatCompletions, "functions", "[{}]"),
            (Endpoint::ChatCompletions, "modalities", r#"["text","audio"]"#),
            (Endpoint::Completions, "n", "0"),
            (Endpoint::Completions, "best_of", "3"),
            (Endpoint::Completions, "echo", "true"),
            (Endpoint::Responses, "previous_response_id", "\"resp_1\""),
            (Endpoint::Responses, "conversation", r#"{"id":"conv_1"}"#),
            (Endpoint::Responses, "background", "true"),
        ] {
            let error = check(endpoint, &format!("\"{field}\":{value}")).unwrap_err();
            assert_eq!(error.param, Some(field), "{value}");
        }
    }
}
