//! What is wrong with a request, and in which field? Every field that the gateway reads must be given once, and in its own
//! spelling.
use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::endpoint::Endpoint;
use super::json::Object;

/// Why a request is refused before it costs anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadRequest {
    /// For people.
    pub message: String,
    /// The field at fault, if there is one.
    pub param: Option<&'static str>,
}

pub(crate) fn bad(param: &'static str, message: impl Into<String>) -> BadRequest {
    BadRequest { message: message.into(), param: Some(param) }
}

/// A member, read as `T`; `None` if it is absent or null.
pub(crate) fn field<'a, T: Deserialize<'a>>(
    object: &Object<'a>,
    key: &'static str,
    expected: &str,
) -> Result<Option<T>, BadRequest> {
    object
        .present(key)
        .map(|value| {
            serde_json::from_str(value.get()).map_err(|_| {
                let kind = kind_of(value);
                // A list whose items are wrong is still a list, so its kind would not explain anything.
                let seen = if expected.starts_with(kind) { String::new() } else { format!("; this is {kind}") };
                bad(key, format!("`{key}` must be {expected}{seen}"))
            })
        })
        .transpose()
}

/// The kind of a value, in words; never its content.
pub(crate) fn kind_of(value: &RawValue) -> &'static str {
    match value.get().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// Makes a node answer with the rendered template, which reveals the operator's system prompt.
const REFUSED: &str = "_debug_render_only";

/// Every field that the gateway reads. Ollama ignores the case of names and takes the last of several, so with a second
/// spelling the gateway and the node would read different values.
fn read(endpoint: Endpoint) -> &'static [&'static str] {
    match endpoint {
        Endpoint::ChatCompletions => &[
            "model",
            "stream",
            "stream_options",
            "max_tokens",
            "max_completion_tokens",
            "messages",
            "tools",
            "response_format",
        ],
        Endpoint::Completions => {
            &["model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "prompt", "suffix"]
        }
        Endpoint::Embeddings => &["model", "input"],
        Endpoint::Responses => &["model", "stream", "max_output_tokens", "input", "instructions", "tools", "text"],
        Endpoint::Messages => &["model", "stream", "max_tokens", "messages", "system", "tools"],
        Endpoint::Chat => &["model", "stream", "messages", "tools", "format", "options", "keep_alive"],
        Endpoint::Generate => {
            &["model", "stream", "prompt", "system", "suffix", "images", "format", "options", "keep_alive"]
        }
        Endpoint::Embed => &["model", "input", "options"],
        Endpoint::EmbedOne => &["model", "prompt", "options"],
    }
}

/// Refuses a second spelling of a field that is read, and fields that no client may use.
pub(crate) fn check_names(endpoint: Endpoint, object: &Object<'_>) -> Result<(), BadRequest> {
    let names = read(endpoint);
    let mut seen = 0u32;
    for key in object.keys() {
        let folded = fold(key);
        if folded == REFUSED {
            return Err(bad(REFUSED, format!("`{REFUSED}` is not available through this service")));
        }
        let Some(index) = names.iter().position(|name| *name == folded) else {
            continue;
        };
        if key != names[index] {
            return Err(bad(names[index], format!("write `{}` in lower case", names[index])));
        }
        if seen & (1 << index) != 0 {
            return Err(bad(names[index], format!("`{}` is given twice", names[index])));
        }
        seen |= 1 << index;
    }
    Ok(())
}

/// A name as Go's JSON decoder compares it: ignoring case, including the two letters outside ASCII that fold into it.
pub(crate) fn fold(key: &str) -> Cow<'_, str> {
    let plain = |letter: char| letter.is_ascii() && !letter.is_ascii_uppercase();
    if key.chars().all(plain) {
        return key.into();
    }
    key.chars()
        .map(|letter| match letter {
            '\u{17f}' => 's',
            '\u{212a}' => 'k',
            other => other.to_ascii_lowercase(),
        })
        .collect::<String>()
        .into()
}
