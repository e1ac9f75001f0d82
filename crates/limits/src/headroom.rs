//! How much is used, and how much is left? In full for the administrator, and as `x-ratelimit-*` for clients.
use std::time::Duration;

use super::calendar::Calendar;
use super::limit::Limits;

/// What is used and what is left, for the administrator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// The limits in force.
    pub limits: Limits,
    /// Over what stretch `tokens_used` and `tokens_reserved` count.
    pub calendar: Calendar,
    /// Requests that run or wait.
    pub running: u32,
    /// Admissions in the last 60 s; counted only if there is a limit.
    pub requests_used: u32,
    /// Until the oldest of them leaves the window; zero if there are none.
    pub requests_reset: Duration,
    /// Tokens used and reserved by the requests of the last 60 s; counted only if there is a limit.
    pub minute_tokens: u64,
    /// The part of `minute_tokens` that running requests hold.
    pub minute_reserved: u64,
    /// Until the oldest of them leave the window; zero if there are none.
    pub minute_reset: Duration,
    /// Tokens of the requests that ended today.
    pub tokens_used: u64,
    /// The day's tokens that running requests reserve.
    pub tokens_reserved: u64,
    /// Until midnight UTC.
    pub tokens_reset: Duration,
}

impl Balance {
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

    /// What a client is told: of several limits of one kind, the one with the least left.
    pub fn headroom(&self) -> Headroom {
        let remaining =
            |limit: Option<u64>, left: Option<u64>, reset| Some(Remaining { limit: limit?, left: left?, reset });
        let requests = remaining(
            self.limits.requests_per_minute.map(u64::from),
            self.requests_left().map(u64::from),
            self.requests_reset,
        );
        let day = remaining(self.limits.tokens_per_day, self.tokens_left(), self.tokens_reset);
        let minute = remaining(self.limits.tokens_per_minute, self.minute_tokens_left(), self.minute_reset);
        Headroom { requests, tokens: tighter(day, minute) }
    }
}

/// What is left, in the terms of the `x-ratelimit-*` headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headroom {
    /// Of the requests; `None` = no limit.
    pub requests: Option<Remaining>,
    /// Of the tokens; `None` = no limit.
    pub tokens: Option<Remaining>,
}

/// What is left under one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// The limit, in requests or tokens.
    pub limit: u64,
    /// How much of it is left.
    pub left: u64,
    /// Until more becomes available.
    pub reset: Duration,
}

impl Headroom {
    /// The tighter of the two, for each kind.
    pub fn and(self, other: Self) -> Self {
        Self { requests: tighter(self.requests, other.requests), tokens: tighter(self.tokens, other.tokens) }
    }
}

fn tighter(first: Option<Remaining>, second: Option<Remaining>) -> Option<Remaining> {
    match (first, second) {
        (Some(first), Some(second)) => Some(if second.left < first.left { second } else { first }),
        (first, second) => first.or(second),
    }
}
