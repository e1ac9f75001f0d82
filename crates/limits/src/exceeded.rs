//! Which limit does a request exceed, and when is it worth trying again?
use std::time::Duration;

use super::calendar::Calendar;

/// Why a request is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// Too many admissions in the last minute.
    Requests {
        /// Requests per minute.
        limit: u32,
        /// Until the oldest admission leaves the window.
        retry_after: Duration,
    },
    /// As many requests are running as the limit allows.
    Concurrency {
        /// Concurrent requests.
        limit: u32,
        /// A short while, as a running request may end at any moment.
        retry_after: Duration,
    },
    /// Too few tokens are left in the minute.
    TokensOfMinute {
        /// Tokens per minute.
        limit: u64,
        /// Tokens neither used nor reserved.
        left: u64,
        /// Tokens that running requests hold.
        reserved: u64,
        /// Until enough tokens have left the window, or a short while if running requests may release them.
        retry_after: Duration,
    },
    /// The request needs more than the limit, so no minute has room for it.
    TooLarge {
        /// Tokens per minute.
        limit: u64,
        /// Tokens that the request needs.
        needed: u64,
    },
    /// Too few of the day's tokens are left now, but running requests may release some.
    TokensReserved {
        /// Of a day or a month.
        per: Calendar,
        /// Tokens per day or month.
        limit: u64,
        /// Tokens used by requests that have ended.
        used: u64,
        /// Tokens neither used nor reserved.
        left: u64,
        /// A short while.
        retry_after: Duration,
    },
    /// Not enough is left of the day or month for this request, whatever the running ones give back.
    TokensUsedUp {
        /// Of a day or a month.
        per: Calendar,
        /// Tokens per day or month.
        limit: u64,
        /// Tokens used by requests that have ended.
        used: u64,
        /// Until the next day or month begins, in UTC.
        retry_after: Duration,
    },
}

impl Exceeded {
    /// The limit's name in the configuration.
    pub fn limit_name(&self) -> &'static str {
        match self {
            Self::Requests { .. } => "requests_per_minute",
            Self::Concurrency { .. } => "max_concurrency",
            Self::TokensOfMinute { .. } | Self::TooLarge { .. } => "tokens_per_minute",
            Self::TokensReserved { per, .. } | Self::TokensUsedUp { per, .. } => per.limit_name(),
        }
    }
}
