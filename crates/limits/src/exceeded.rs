//! Which limit stands in the way of a request, and when is it worth coming back?
use std::time::Duration;

/// Why a request is not admitted.
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
        /// Tokens that the request needs.
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
    /// The limit's name in the configuration.
    pub fn limit_name(&self) -> &'static str {
        match self {
            Self::Requests { .. } => "requests_per_minute",
            Self::Concurrency { .. } => "max_concurrency",
            Self::TokensOfMinute { .. } | Self::TooLarge { .. } => "tokens_per_minute",
            Self::TokensReserved { .. } | Self::TokensUsedUp { .. } => "tokens_per_day",
        }
    }
}
