//! How much may a user, or one key, use? Pure: a budget, a need and a moment in, a reservation or a refusal out.
//!
//! * **Requests per minute** is an exact sliding log: at most N admissions in any 60 s, on the monotonic clock.
//! * **Tokens per minute** (prompt and completion) belong to the moment of their request's admission: those admitted in any
//!   60 s use at most N together. Admissions within a tenth of a second leave the window together, with the last of them.
//! * **Tokens per day** (UTC) belong to the day of the admission; a request that ends after midnight takes nothing from the
//!   new day.
//! * **Concurrency** counts requests from admission to end.
//!
//! Tokens are reserved before a request is dispatched and settled when it ends, so that `settled + reserved <= limit` holds at
//! every admission, however many requests race. A user's budget and a key's are asked together: both admit, or neither.
//!
//! Invariant: every [`Reservation`] is given back exactly once, to [`Budget::settle`] or to [`Budget::cancel`].
mod amounts;
mod budget;
mod ledger;
#[cfg(test)]
mod properties;
mod share;
#[cfg(test)]
mod sharing;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use amounts::Amounts;
pub use budget::{Budget, Reservation, Spent};
pub use ledger::Ledger;
pub use share::{Claim, Elsewhere, Holding, Most, Peer, trade, wish};

const DAY_MS: i64 = 86_400_000;

/// The limits of new users; `PUT /admin/users/{id}/limits` changes them for one user. `null` = no limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Requests admitted in any 60 s. Default `null`.
    pub requests_per_minute: Option<u32>,
    /// Prompt and completion tokens together, of the requests admitted in any 60 s. Default `null`.
    pub tokens_per_minute: Option<u64>,
    /// Prompt and completion tokens together, per UTC day. Default `null`.
    pub tokens_per_day: Option<u64>,
    /// Concurrent requests, waiting ones included. Default `null`.
    pub max_concurrency: Option<u32>,
    /// Output tokens that a request without `max_tokens` reserves, and may use at most, when its user has a token
    /// limit. Default `2048`.
    pub default_max_output: u64,
}

impl Default for Settings {
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

impl Settings {
    /// What a user gets when nothing else is said.
    pub fn for_new_user(&self) -> Limits {
        Limits {
            requests_per_minute: self.requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
            tokens_per_day: self.tokens_per_day,
            max_concurrency: self.max_concurrency,
        }
    }
}

/// The limits of one user, or of one key. `None` = no limit; zero refuses everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Admissions in any 60 s.
    pub requests_per_minute: Option<u32>,
    /// Prompt and completion tokens of the requests admitted in any 60 s.
    pub tokens_per_minute: Option<u64>,
    /// Prompt and completion tokens per UTC day.
    pub tokens_per_day: Option<u64>,
    /// Requests at a time, waiting ones included.
    pub max_concurrency: Option<u32>,
}

/// A point in time on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Monotonic; only differences mean something.
    pub uptime: Duration,
    /// Wall clock, milliseconds since 1970-01-01 UTC.
    pub unix_ms: i64,
}

impl Moment {
    /// Days since 1970-01-01 UTC.
    pub fn day(&self) -> i32 {
        i32::try_from(self.unix_ms.div_euclid(DAY_MS)).unwrap_or(i32::MAX)
    }

    fn until_midnight(&self) -> Duration {
        Duration::from_millis(u64::try_from(DAY_MS - self.unix_ms.rem_euclid(DAY_MS)).unwrap_or_default())
    }
}

/// What a request would use at most.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// Upper bound of the prompt, tokens.
    pub prompt: u64,
    /// What the client asked for (`max_tokens`), if it did.
    pub output: Option<u64>,
    /// What is reserved when it did not.
    pub default_output: u64,
}

impl Need {
    /// Without `max_tokens` a request takes what is left, up to the default, but at least one token.
    fn smallest(&self) -> u64 {
        self.prompt.saturating_add(self.output.unwrap_or(1).max(1))
    }

    /// What it may use where there is so much room for output; `None` = no limit.
    fn allowance(&self, room: Option<u64>) -> Allowance {
        Allowance { output: room.map(|room| self.output_within(room)), is_cap: room.is_some() && self.output.is_none() }
    }

    /// What it gets where there is room for `room` tokens of output.
    fn output_within(&self, room: u64) -> u64 {
        self.output.map_or_else(|| self.default_output.max(1).min(room), |output| output.max(1))
    }
}

/// What an admitted request may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Tokens of output; `None` = no limit of tokens.
    pub output: Option<u64>,
    /// Whether the node must be told so, as the client named no `max_tokens`.
    pub is_cap: bool,
}

/// Why a request is not admitted, and when it is worth coming back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// The last minute is full.
    Requests {
        /// Requests per minute.
        limit: u32,
        /// Until the oldest admission leaves the window.
        retry_after: Duration,
    },
    /// As many requests run as may.
    Concurrency {
        /// Requests at a time.
        limit: u32,
        /// A short while.
        retry_after: Duration,
    },
    /// Not enough is left of the minute.
    TokensOfMinute {
        /// Tokens per minute.
        limit: u64,
        /// Tokens neither used nor reserved.
        left: u64,
        /// Until enough has left the window, or a short while where running requests may give it back.
        retry_after: Duration,
    },
    /// No minute has room for this request.
    TooLarge {
        /// Tokens per minute.
        limit: u64,
        /// Tokens that it needs.
        needed: u64,
    },
    /// Not enough is left now, but running requests may give some back.
    TokensReserved {
        /// Tokens per day.
        limit: u64,
        /// Tokens neither used nor reserved.
        left: u64,
        /// A short while.
        retry_after: Duration,
    },
    /// Not enough is left today for this request, whatever the running ones give back.
    TokensUsedUp {
        /// Tokens per day.
        limit: u64,
        /// Tokens used today.
        used: u64,
        /// Until midnight UTC.
        retry_after: Duration,
    },
}

impl Exceeded {
    /// Which limit it is, by its name in the configuration.
    pub fn limit_name(&self) -> &'static str {
        match self {
            Self::Requests { .. } => "requests_per_minute",
            Self::Concurrency { .. } => "max_concurrency",
            Self::TokensOfMinute { .. } | Self::TooLarge { .. } => "tokens_per_minute",
            Self::TokensReserved { .. } | Self::TokensUsedUp { .. } => "tokens_per_day",
        }
    }
}

/// What has been used and is left, for the admin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The limits in force.
    pub limits: Limits,
    /// Requests that run or wait.
    pub running: u32,
    /// Admissions in the last 60 s; counted only under a limit.
    pub requests_used: u32,
    /// Until the oldest of them leaves the window; zero when there is none.
    pub requests_reset: Duration,
    /// Tokens used and reserved by the requests of the last 60 s; counted only under a limit.
    pub minute_tokens: u64,
    /// Until the oldest of them leave the window; zero when there are none.
    pub minute_reset: Duration,
    /// Tokens of ended requests today.
    pub tokens_used: u64,
    /// Tokens of the day held by running requests.
    pub tokens_reserved: u64,
    /// Until midnight UTC.
    pub tokens_reset: Duration,
}

impl Standing {
    /// Requests that may still start within the window; `None` = no limit.
    pub fn requests_left(&self) -> Option<u32> {
        self.limits.requests_per_minute.map(|limit| limit.saturating_sub(self.requests_used))
    }

    /// Tokens that may still be reserved within the minute; `None` = no limit.
    pub fn minute_tokens_left(&self) -> Option<u64> {
        self.limits.tokens_per_minute.map(|limit| limit.saturating_sub(self.minute_tokens))
    }

    /// Tokens that may still be reserved today; `None` = no limit.
    pub fn tokens_left(&self) -> Option<u64> {
        let taken = self.tokens_used.saturating_add(self.tokens_reserved);
        self.limits.tokens_per_day.map(|limit| limit.saturating_sub(taken))
    }

    /// What a client is told: of several limits of one kind the one with the least left.
    pub fn headroom(&self) -> Headroom {
        let room = |limit: Option<u64>, left: Option<u64>, reset| Some(Room { limit: limit?, left: left?, reset });
        let requests = room(
            self.limits.requests_per_minute.map(u64::from),
            self.requests_left().map(u64::from),
            self.requests_reset,
        );
        let day = room(self.limits.tokens_per_day, self.tokens_left(), self.tokens_reset);
        let minute = room(self.limits.tokens_per_minute, self.minute_tokens_left(), self.minute_reset);
        Headroom { requests, tokens: tighter(day, minute) }
    }
}

/// What is left, in the terms of `x-ratelimit-*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headroom {
    /// Of requests; `None` = no limit.
    pub requests: Option<Room>,
    /// Of tokens; `None` = no limit.
    pub tokens: Option<Room>,
}

/// What is left under one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The limit.
    pub limit: u64,
    /// What is left.
    pub left: u64,
    /// Until there is more.
    pub reset: Duration,
}

impl Headroom {
    /// The tighter of both, by kind.
    pub fn and(self, other: Self) -> Self {
        Self { requests: tighter(self.requests, other.requests), tokens: tighter(self.tokens, other.tokens) }
    }
}

fn tighter(first: Option<Room>, second: Option<Room>) -> Option<Room> {
    match (first, second) {
        (Some(first), Some(second)) => Some(if second.left < first.left { second } else { first }),
        (first, second) => first.or(second),
    }
}
