//! How many tokens may an answer have, and can a node read the number as the client wrote it?
use std::fmt;

use serde_json::value::RawValue;

use crate::field::{BadRequest, bad};
use crate::json::Object;

/// A client's limit on the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutputLimit {
    /// `None` = no limit, written as `-1`.
    pub(super) tokens: Option<u64>,
    /// Whether nodes can read it as written. They reject `5.0`, and integers that are too large.
    pub(super) plain: bool,
}

/// In the form that nodes read.
impl fmt::Display for OutputLimit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tokens {
            Some(tokens) => write!(formatter, "{tokens}"),
            None => formatter.write_str("-1"),
        }
    }
}

/// A member that limits the answer; `None` if it is absent.
pub(super) fn output_of(object: &Object<'_>, key: &'static str) -> Result<Option<OutputLimit>, BadRequest> {
    let Some(raw) = object.present(key) else { return Ok(None) };
    let wrong = || bad(key, format!("`{key}` must be a whole number of at least 1, or -1 for no limit"));
    let limit: f64 = serde_json::from_str(raw.get()).map_err(|_| wrong())?;
    if limit.fract() != 0.0 || (limit < 1.0 && limit != -1.0) {
        return Err(wrong());
    }
    let tokens = (limit >= 1.0).then_some(limit.min(f64::from(i32::MAX)) as u64);
    let mut read = OutputLimit { tokens, plain: false };
    read.plain = raw.get() == read.to_string();
    Ok(Some(read))
}

/// `num_predict` as a node reads it: truncated to a whole number; unlimited unless above zero. `None` if it is not a
/// number.
pub(super) fn limit_of(limit: &RawValue) -> Option<Option<u64>> {
    let limit: f64 = serde_json::from_str(limit.get()).ok()?;
    let whole = limit.trunc().min(f64::from(i32::MAX));
    Some((whole >= 1.0).then_some(whole as u64))
}
