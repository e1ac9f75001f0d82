//! What is wrong with a request, and in which field?
use serde::Deserialize;

use super::json::Object;

/// Why a request is refused before it costs anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadRequest {
    /// For people.
    pub message: String,
    /// The field that is wrong, if it is one.
    pub param: Option<&'static str>,
}

pub(crate) fn bad(param: &'static str, message: impl Into<String>) -> BadRequest {
    BadRequest { message: message.into(), param: Some(param) }
}

/// A member, read as `T`; `None` where it is absent or null.
pub(crate) fn field<'a, T: Deserialize<'a>>(
    object: &Object<'a>,
    key: &'static str,
    expected: &str,
) -> Result<Option<T>, BadRequest> {
    object
        .present(key)
        .map(|value| serde_json::from_str(value.get()).map_err(|_| bad(key, format!("`{key}` must be {expected}"))))
        .transpose()
}
