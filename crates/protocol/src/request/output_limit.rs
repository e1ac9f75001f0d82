//! How many tokens may an answer have, as the client says, and can a node read that?
use std::fmt;

use serde_json::value::RawValue;

use crate::field::{BadRequest, bad};
use crate::json::Object;

/// A limit on the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutputLimit {
    /// `None` = no limit of the client's own, written as `-1`.
    pub(super) tokens: Option<u64>,
    /// It is written as nodes read it. They take no `5.0`, and their integers end somewhere.
    pub(super) plain: bool,
}

/// As nodes read it.
impl fmt::Display for OutputLimit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tokens {
            Some(tokens) => write!(formatter, "{tokens}"),
            None => formatter.write_str("-1"),
        }
    }
}

/// A member that limits the answer; `None` where it is absent.
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

/// `num_predict` as a node reads it: cut to a whole number; without end where it is not above zero. `None` where it is no
/// number at all.
pub(super) fn limit_of(limit: &RawValue) -> Option<Option<u64>> {
    let limit: f64 = serde_json::from_str(limit.get()).ok()?;
    let whole = limit.trunc().min(f64::from(i32::MAX));
    Some((whole >= 1.0).then_some(whole as u64))
}
