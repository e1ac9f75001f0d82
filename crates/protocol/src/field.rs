//! What is wrong with a request, and in which field?
use serde::Deserialize;
use serde_json::value::RawValue;

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
