//! How many tokens may an answer have, as the client says, and can a node read that?
use serde_json::value::RawValue;

use crate::field::{BadRequest, bad};
use crate::json::Object;

/// A limit on the answer, and how a node can read it where it is written otherwise: `5.0` is a whole number, which no
/// node takes, and nodes' integers end somewhere.
pub(super) fn output_of(object: &Object<'_>, key: &'static str) -> Result<Option<OutputLimit>, BadRequest> {
    let Some(raw) = object.present(key) else { return Ok(None) };
    let wrong = || bad(key, format!("`{key}` must be a whole number of at least 1"));
    let limit: f64 = serde_json::from_str(raw.get()).map_err(|_| wrong())?;
    if limit < 1.0 || limit.fract() != 0.0 {
        return Err(wrong());
    }
    let tokens = limit.min(f64::from(i32::MAX)) as u64;
    Ok(Some(OutputLimit { tokens, plain: raw.get() == tokens.to_string() }))
}

/// A limit on the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutputLimit {
    pub(super) tokens: u64,
    /// It is written as nodes read it.
    pub(super) plain: bool,
}

/// `num_predict` as a node reads it: cut to a whole number; without end where it is not above zero. `None` where it is no
/// number at all.
pub(super) fn limit_of(limit: &RawValue) -> Option<Option<u64>> {
    let limit: f64 = serde_json::from_str(limit.get()).ok()?;
    let whole = limit.trunc().min(f64::from(i32::MAX));
    Some((whole >= 1.0).then_some(whole as u64))
}
