//! Are the fields that will be removed from a request well formed? Ollama would refuse a mistake in them, so we do too.
use serde_json::value::RawValue;

use super::endpoint::Endpoint;
use super::field::{BadRequest, bad, kind_of};
use super::json::Object;
use crate::field::fold;

/// Fields of Ollama's own dialect that one user could use to reload, pin, unload or rewrite a model for everybody.
const FIELDS: [&str; 3] = ["keep_alive", "shift", "template"];
/// Options that reload a model if they differ from those it runs with. The last one is a boolean, the others are
/// numbers.
const OPTIONS: [&str; 7] =
    ["num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict", "use_mmap"];

/// Whether the field is removed.
pub(crate) fn is_field(name: &str) -> bool {
    FIELDS.contains(&fold(name).as_ref())
}

/// Whether the option is removed.
pub(crate) fn is_option(name: &str) -> bool {
    OPTIONS.contains(&fold(name).as_ref())
}

/// Checks the fields that are removed, in any spelling that Ollama accepts for them.
pub(crate) fn check(endpoint: Endpoint, object: &Object<'_>) -> Result<(), BadRequest> {
    let is_raw = endpoint == Endpoint::Generate && object.get("raw").is_some_and(|raw| raw.get() == "true");
    for (name, value) in object.members().filter(|(_, value)| value.get() != "null") {
        let wrong = |field, expected| bad(field, format!("`{field}` must be {expected}; this is {}", kind_of(value)));
        match fold(name).as_ref() {
            "keep_alive" if !is_duration(value) => {
                return Err(wrong("keep_alive", "a number of seconds or a duration such as `5m`"));
            }
            "shift" if !matches!(value.get(), "true" | "false") => return Err(wrong("shift", "true or false")),
            "template" if !value.get().starts_with('"') => return Err(wrong("template", "a string")),
            // In the words in which Ollama refuses it.
            "template" if is_raw && value.get() != "\"\"" => {
                return Err(bad("template", "raw mode does not support template, system, or context"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Checks the options that are removed.
pub(crate) fn check_options(options: &Object<'_>) -> Result<(), BadRequest> {
    for (name, value) in options.members().filter(|(name, _)| is_option(name)) {
        let name = fold(name);
        let is_flag = name == "use_mmap";
        let is_well_formed = match value.get().as_bytes() {
            b"null" => true,
            b"true" | b"false" => is_flag,
            [b'-' | b'0'..=b'9', ..] => !is_flag,
            _ => false,
        };
        if !is_well_formed {
            let expected = if is_flag { "true or false" } else { "a whole number" };
            return Err(bad("options", format!("option `{name}` must be {expected}; this is {}", kind_of(value))));
        }
    }
    Ok(())
}

/// Whether Ollama accepts this as the time to keep a model: a number of seconds, or a duration in Go's form. An empty
/// string is accepted, because some clients send it for a field that they leave out.
fn is_duration(value: &RawValue) -> bool {
    let raw = value.get();
    let Some(text) = raw.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else {
        return raw.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    };
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if text.is_empty() || rest == "0" {
        return true;
    }
    while !rest.is_empty() {
        let number =
            rest.len() - rest.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.').len();
        let (digits, unit) = rest.split_at(number);
        let end = unit.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(unit.len());
        let is_unit = matches!(&unit[..end], "ns" | "us" | "µs" | "μs" | "ms" | "s" | "m" | "h");
        if digits.parse::<f64>().is_err() || !is_unit {
            return false;
        }
        rest = &unit[end..];
    }
    // A sign alone is not a number.
    text.len() > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> Option<&'static str> {
        let object = Object::parse(body.as_bytes()).unwrap();
        check(Endpoint::Generate, &object).err().and_then(|error| error.param)
    }

    #[test]
    fn where_a_field_is_stripped_its_mistake_is_still_a_mistake() {
        for (body, param) in [
            (r#"{"keep_alive":[1]}"#, "keep_alive"),
            (r#"{"keep_alive":true}"#, "keep_alive"),
            (r#"{"keep_alive":"soon"}"#, "keep_alive"),
            (r#"{"keep_alive":"5"}"#, "keep_alive"),
            (r#"{"keep_alive":"1h5"}"#, "keep_alive"),
            (r#"{"keep_alive":"-"}"#, "keep_alive"),
            (r#"{"shift":"no"}"#, "shift"),
            (r#"{"template":7}"#, "template"),
            (r#"{"Template":7}"#, "template"),
            (r#"{"\u0073hift":1}"#, "shift"),
            (r#"{"raw":true,"template":"x"}"#, "template"),
        ] {
            assert_eq!(refused(body), Some(param), "{body}");
        }
        for body in [
            r#"{"keep_alive":-1,"shift":false,"template":"x"}"#,
            r#"{"keep_alive":"1h30m","raw":true}"#,
            r#"{"keep_alive":"-1.5s","raw":true,"template":""}"#,
            r#"{"keep_alive":"0","shift":null,"template":null}"#,
            r#"{"keep_alive":""}"#,
            r#"{"keep_alive":1.5}"#,
        ] {
            assert_eq!(refused(body), None, "{body}");
        }
    }

    #[test]
    fn so_are_those_of_stripped_options() {
        let refused = |options: &str| check_options(&Object::parse(options.as_bytes()).unwrap()).is_err();
        for options in [r#"{"num_ctx":"8k"}"#, r#"{"NUM_GPU":true}"#, r#"{"use_mmap":1}"#, r#"{"num_thread":[2]}"#] {
            assert!(refused(options), "{options}");
        }
        for options in [r#"{"num_ctx":8192,"use_mmap":true,"num_gpu":-1,"num_batch":null}"#, r#"{"seed":"x"}"#] {
            assert!(!refused(options), "{options}");
        }
    }
}
