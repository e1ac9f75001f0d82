//! Which limits does a user, or one key, have, and which does a new user get if the operator sets none?

use serde::{Deserialize, Serialize};

/// The limits of one user, or of one key. `None` = no limit; zero refuses everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Admissions in any 60 s.
    pub requests_per_minute: Option<u32>,
    /// Prompt and completion tokens of the requests admitted in any 60 s.
    pub tokens_per_minute: Option<u64>,
    /// Prompt and completion tokens per UTC day.
    pub tokens_per_day: Option<u64>,
    /// Concurrent requests, including waiting ones.
    pub max_concurrency: Option<u32>,
}

impl Limits {
    /// Whether the requests of the last minute, or their tokens, count.
    pub fn is_by_minute(&self) -> bool {
        self.requests_per_minute.is_some() || self.tokens_per_minute.is_some()
    }
}

/// The limits of new users; `PUT /admin/users/{id}/limits` changes them for one user. `null` = no limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DefaultLimits {
    /// Requests admitted in any 60 s. Default `null`.
    pub requests_per_minute: Option<u32>,
    /// Prompt and completion tokens together, of the requests admitted in any 60 s. Default `null`.
    pub tokens_per_minute: Option<u64>,
    /// Prompt and completion tokens together, per UTC day. Default `null`.
    pub tokens_per_day: Option<u64>,
    /// Concurrent requests, including waiting ones. Default `null`.
    pub max_concurrency: Option<u32>,
    /// Output tokens that a request without `max_tokens` reserves, and may use at most, when its user has a token
    /// limit. Default `2048`.
    pub default_max_output: u64,
}

impl Default for DefaultLimits {
    fn default() -> Self {
        Self {
            requests_per_minute: None,
            tokens_per_minute: None,
            tokens_per_day: None,
            max_concurrency: None,
            default_max_output: 2048,
        }
    }
}

impl DefaultLimits {
    /// The limits of a user who is created without limits of their own.
    pub fn for_new_user(&self) -> Limits {
        Limits {
            requests_per_minute: self.requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
            tokens_per_day: self.tokens_per_day,
            max_concurrency: self.max_concurrency,
        }
    }
}
