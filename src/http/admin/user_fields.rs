//! What is shown of a user, and what may an operator say of one?
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::given::{ShownLimits, present};
use crate::http::error::ApiError;
use crate::http::time::rfc3339;
use crate::store::{ListedUser, Profile, Terms, UserChange};

/// Characters of a display name.
const LONGEST_NAME: usize = 128;
/// As long as an address can be.
const LONGEST_EMAIL: usize = 254;
const LONGEST_NOTE: usize = 2_000;

/// A change of what is known of a user: absent = unchanged, null = nothing.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeUser {
    /// Whether every key of the user is answered 403. Requests that run go on to their end.
    suspended: Option<bool>,
    /// For people, at most 128 characters.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, example = "Ann Example", max_length = 128)]
    display_name: Option<Option<String>>,
    /// Where to reach them, at most 254 characters.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, example = "ann@example.org", max_length = 254)]
    email: Option<Option<String>>,
    /// For operators, at most 2000 characters.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, example = "Until the end of the course.", max_length = 2000)]
    note: Option<Option<String>>,
    /// The group that the user belongs to from the next request on; null = none.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, example = "research")]
    group: Option<Option<String>>,
}

/// A user.
#[derive(Debug, Serialize, ToSchema)]
pub struct User {
    /// The name.
    #[schema(example = "user-123")]
    user_id: String,
    /// RFC 3339 in UTC.
    created_at: String,
    /// Whether every key of the user is answered 403.
    suspended: bool,
    /// Since when, RFC 3339 in UTC; null = they are not suspended.
    suspended_at: Option<String>,
    /// For people.
    display_name: Option<String>,
    /// Where to reach them.
    email: Option<String>,
    /// For operators.
    note: Option<String>,
    /// The group that they belong to; null = none.
    group: Option<String>,
    #[serde(flatten)]
    limits: ShownLimits,
    /// The user's share of a busy service beside others'.
    weight: f64,
    /// How many keys they have, expired ones included.
    key_count: usize,
    /// When they last sent a request, RFC 3339 in UTC, to the minute; null = never.
    last_seen: Option<String>,
    /// Tokens of requests that have ended today (UTC); null while the database is away.
    tokens_today: Option<u64>,
    /// Tokens of requests that have ended this month (UTC); null while the database is away.
    tokens_this_month: Option<u64>,
}

impl From<ListedUser> for User {
    fn from(listed: ListedUser) -> Self {
        let Terms { limits, weight } = listed.terms;
        let Profile { suspended_at_ms, display_name, email, note } = listed.profile;
        Self {
            user_id: listed.place.1.to_string(),
            created_at: rfc3339(listed.created_at_ms),
            suspended: suspended_at_ms.is_some(),
            suspended_at: suspended_at_ms.map(rfc3339),
            display_name,
            email,
            note,
            group: listed.group.map(|group| group.to_string()),
            limits: limits.into(),
            weight,
            key_count: listed.keys,
            last_seen: listed.last_seen_ms.map(rfc3339),
            tokens_today: listed.used.map(|used| used.tokens_today),
            tokens_this_month: listed.used.map(|used| used.tokens_this_month),
        }
    }
}

impl ChangeUser {
    pub(super) fn change(self) -> Result<UserChange, ApiError> {
        let line = |name, given, longest| text(name, given, longest, char::is_control);
        // A note may have lines.
        let is_odd = |letter: char| letter.is_control() && !matches!(letter, '\n' | '\r' | '\t');
        let email = line("email", self.email, LONGEST_EMAIL)?;
        if email.as_ref().is_some_and(|email| email.as_ref().is_some_and(|email| !is_address(email))) {
            return Err(ApiError::invalid_field("email", "`email` must be an address such as `ann@example.org`."));
        }
        Ok(UserChange {
            suspended: self.suspended,
            display_name: line("display_name", self.display_name, LONGEST_NAME)?,
            email,
            note: text("note", self.note, LONGEST_NOTE, is_odd)?,
            group: self.group,
        })
    }
}

fn is_address(text: &str) -> bool {
    let parts = text.split_once('@');
    parts.is_some_and(|(name, host)| !name.is_empty() && !host.is_empty()) && !text.contains(char::is_whitespace)
}

/// Checks a text; an empty one is as good as none.
fn text(
    name: &'static str,
    given: Option<Option<String>>,
    longest: usize,
    is_odd: impl Fn(char) -> bool,
) -> Result<Option<Option<String>>, ApiError> {
    let Some(Some(text)) = given else { return Ok(given) };
    if text.chars().count() > longest || text.chars().any(is_odd) {
        let message = format!("`{name}` must be at most {longest} printable characters, or null.");
        return Err(ApiError::invalid_field(name, message));
    }
    Ok(Some(Some(text).filter(|text| !text.is_empty())))
}
