//! Is a body cheap enough to parse? Counts its members, values and levels in one pass that allocates nothing.
//!
//! Each member takes about a hundred bytes while it is parsed, however short its text, so a limit on the body's bytes
//! alone does not bound the memory.
use memchr::memchr2;

/// More than any prompt needs: a `context` of a million tokens has one value for each.
const MAX_VALUES: usize = 1_100_000;
/// In all objects together; a conversation of ten thousand messages has about 40,000.
const MAX_MEMBERS: usize = 200_000;
/// Where `serde_json` and most other parsers stop.
const MAX_DEPTH: usize = 128;

/// Why a body is not parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OutOfBounds {
    #[error("the body has more than {MAX_VALUES} values")]
    Values,
    #[error("the body's objects have more than {MAX_MEMBERS} members")]
    Members,
    #[error("the body is nested deeper than {MAX_DEPTH} levels")]
    Depth,
}

/// Checks a body, which need not be valid JSON.
pub(super) fn check(body: &[u8]) -> Result<(), OutOfBounds> {
    let (mut values, mut members, mut depth, mut at) = (0usize, 0usize, 0usize, 0usize);
    while let Some(byte) = body.get(at) {
        match byte {
            b'"' => at = end_of_string(body, at + 1),
            b'{' | b'[' => {
                depth += 1;
                values += 1;
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            b':' => members += 1,
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(OutOfBounds::Depth);
        }
        if values > MAX_VALUES {
            return Err(OutOfBounds::Values);
        }
        if members > MAX_MEMBERS {
            return Err(OutOfBounds::Members);
        }
        at += 1;
    }
    Ok(())
}

/// The index of the quote that ends the string from `at` on, or the body's length if there is none.
fn end_of_string(body: &[u8], mut at: usize) -> usize {
    while let Some(found) = body.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if body[at] == b'"' {
            return at;
        }
        // An escaped quote does not end the string.
        at += 2;
    }
    body.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_strings_counts_for_nothing() {
        let text = format!("{{\"a\":\"{}\"}}", "[{,:\\\"".repeat(MAX_VALUES));
        assert_eq!(check(text.as_bytes()), Ok(()));
        for broken in ["\"", "\"\\", "{\"a", "]]]]", ""] {
            assert_eq!(check(broken.as_bytes()), Ok(()), "{broken}");
        }
    }

    #[test]
    fn values_and_levels_have_bounds() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert_eq!(check(nested(MAX_DEPTH).as_bytes()), Ok(()));
        assert_eq!(check(nested(MAX_DEPTH + 1).as_bytes()), Err(OutOfBounds::Depth));
        let list = |values: usize| format!("[{}0]", "0,".repeat(values - 1));
        assert_eq!(check(list(MAX_VALUES).as_bytes()), Ok(()));
        assert_eq!(check(list(MAX_VALUES + 1).as_bytes()), Err(OutOfBounds::Values));
        let object = |members: usize| format!("{{{}\"a\":0}}", "\"a\":0,".repeat(members - 1));
        assert_eq!(check(object(MAX_MEMBERS).as_bytes()), Ok(()));
        assert_eq!(check(object(MAX_MEMBERS + 1).as_bytes()), Err(OutOfBounds::Members));
    }
}
