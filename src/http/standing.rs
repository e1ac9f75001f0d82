//! How does each limit stand that holds for a caller: whose it is, what is used, held and left, and when it comes back?
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use crate::store::{Access, UserGroup, Whose};
use limits::{Balance, Moment};

/// How a limit stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct Standing {
    /// Whose limit it is: `user`, `key` or `group`.
    #[schema(example = "user")]
    of: &'static str,
    /// The name of that user, key or group.
    #[schema(example = "ann")]
    name: String,
    /// `requests_per_minute`, `tokens_per_minute`, `tokens_per_day`, `tokens_per_month` or `max_concurrency`.
    #[schema(example = "tokens_per_day")]
    limit: &'static str,
    /// The most that is allowed.
    allowed: u64,
    /// Used: by requests that have ended, or, of `requests_per_minute` and `max_concurrency`, by all of them.
    used: u64,
    /// Held by requests that run or wait; what they do not use comes back when they end.
    reserved: u64,
    /// What a new request may still use.
    left: u64,
    /// Until more may be used, milliseconds; null for `max_concurrency`: when a request ends.
    resets_in_ms: Option<u64>,
}

/// Every limit that holds for the caller.
pub(super) fn standings(access: &Access, now: Moment) -> Vec<Standing> {
    access.balances(now).into_iter().flat_map(|(whose, balance)| of_balance(&whose, &balance)).collect()
}

/// Every limit of a group.
pub(super) fn group_standings(group: &UserGroup, now: Moment) -> Vec<Standing> {
    let whose = Whose::Group(group.name().clone());
    group.balances(now).into_iter().flat_map(|balance| of_balance(&whose, &balance)).collect()
}

fn of_balance(whose: &Whose, balance: &Balance) -> Vec<Standing> {
    let limits = balance.limits;
    let standing = |limit, allowed: u64, used: u64, reserved: u64, reset: Option<Duration>| Standing {
        of: whose.kind(),
        name: whose.name().to_owned(),
        limit,
        allowed,
        used,
        reserved,
        left: allowed.saturating_sub(used).saturating_sub(reserved),
        resets_in_ms: reset.map(|reset| u64::try_from(reset.as_millis()).unwrap_or(u64::MAX)),
    };
    let used_in_minute = balance.minute_tokens.saturating_sub(balance.minute_reserved);
    let requests = limits.requests_per_minute.map(|allowed| {
        let used = balance.requests_used.into();
        standing("requests_per_minute", allowed.into(), used, 0, Some(balance.requests_reset))
    });
    let minute = limits.tokens_per_minute.map(|allowed| {
        let reserved = balance.minute_reserved;
        standing("tokens_per_minute", allowed, used_in_minute, reserved, Some(balance.minute_reset))
    });
    let long = limits.tokens_per_day.map(|allowed| {
        let (used, reserved) = (balance.tokens_used, balance.tokens_reserved);
        standing(balance.calendar.limit_name(), allowed, used, reserved, Some(balance.tokens_reset))
    });
    let running = limits
        .max_concurrency
        .map(|allowed| standing("max_concurrency", allowed.into(), balance.running.into(), 0, None));
    [requests, minute, long, running].into_iter().flatten().collect()
}
