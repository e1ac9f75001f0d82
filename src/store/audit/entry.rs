//! What is an audit entry made of, and what is its digest?
use entity::audit::Model;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Longest text of an entry, bytes. What is longer is left out, and how long it was is said.
const LONGEST: usize = 16 * 1024;
/// Longest name of a target, characters.
const LONGEST_TARGET: usize = 256;

/// An entry before it has its place in the log. Never with a secret in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// When, epoch milliseconds.
    pub at_ms: i64,
    /// The administrator's name.
    pub actor: String,
    /// The administrator's role.
    pub role: &'static str,
    /// The request's method.
    pub method: String,
    /// The route's template.
    pub route: String,
    /// To whom or what.
    pub target: String,
    /// JSON; `None` where nothing was there, or it is not known.
    pub before: Option<String>,
    /// JSON; `None` where nothing is there any more.
    pub after: Option<String>,
    /// The answer's `x-request-id`.
    pub request_id: Uuid,
    /// The answer's status; `None` = it is about to be done.
    pub status: Option<u16>,
}

impl AuditEntry {
    /// The entry after the one with this number and digest.
    pub(super) fn chained(self, after_seq: i64, previous: String) -> Model {
        let mut row = Model {
            seq: after_seq.saturating_add(1),
            at_ms: self.at_ms,
            actor: self.actor,
            role: self.role.to_owned(),
            method: self.method,
            route: self.route,
            target: plain(&self.target),
            before: self.before.map(bounded),
            after: self.after.map(bounded),
            request_id: self.request_id,
            status: self.status.map(i32::from),
            previous,
            digest: String::new(),
        };
        row.digest = digest_of(&row);
        row
    }
}

/// A name that a client gave, which Postgres and a terminal can take.
fn plain(target: &str) -> String {
    target.chars().filter(|letter| !letter.is_control()).take(LONGEST_TARGET).collect()
}

fn bounded(text: String) -> String {
    if text.len() <= LONGEST { text } else { format!("{{\"left_out_bytes\":{}}}", text.len()) }
}

/// The SHA-256 of everything that an entry says and of the digest of the entry before, in hex.
pub(super) fn digest_of(row: &Model) -> String {
    let Model {
        seq,
        at_ms,
        actor,
        role,
        method,
        route,
        target,
        before,
        after,
        request_id,
        status,
        previous,
        digest: _,
    } = row;
    let content = serde_json::json!([
        seq, at_ms, actor, role, method, route, target, before, after, request_id, status, previous
    ]);
    Sha256::digest(content.to_string()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_short_and_holds_nothing_that_a_database_refuses() {
        assert_eq!(plain("a\0b\nc/d é"), "abc/d é");
        assert_eq!(plain(&"x".repeat(1000)).len(), LONGEST_TARGET);
    }

    #[test]
    fn a_text_that_is_too_long_is_left_out_and_says_so() {
        assert_eq!(bounded("x".repeat(LONGEST)).len(), LONGEST);
        assert_eq!(bounded("x".repeat(LONGEST + 1)), "{\"left_out_bytes\":16385}");
    }
}
