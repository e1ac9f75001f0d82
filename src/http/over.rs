//! How is a refusal by a limit worded? Whose limit it is, how much of it is used and by what, and when it comes back.
use std::time::Duration;

use super::error_kind::{self, ErrorKind};
use crate::store::{Over, Whose};
use limits::{Calendar, Exceeded};

const MINUTE: Duration = Duration::from_secs(60);

/// What a client is told.
pub(super) struct Worded {
    pub(super) kind: &'static ErrorKind,
    pub(super) message: String,
    pub(super) retry_after: Duration,
    /// Whether another try of the same request could help.
    pub(super) is_hopeless: bool,
    /// The limit, as usage rows name it.
    pub(super) limit: &'static str,
}

/// Words a refusal.
pub(super) fn worded(Over { whose, exceeded }: &Over) -> Worded {
    let (kind, said, retry_after) = match *exceeded {
        Exceeded::Requests { limit, retry_after } => {
            let said = format!(
                "Rate limit reached: {limit} requests per minute{}, all of them used in the last 60 s.",
                beyond_user(whose, " for ")
            );
            (&error_kind::RATE_LIMITED, said, retry_after)
        }
        Exceeded::Concurrency { limit, retry_after } => {
            let (who, its) = if is_user(whose) { ("You have".to_owned(), "your") } else { (has(whose), "its") };
            let said = format!("{who} {limit} requests running or waiting, which is {its} limit.");
            (&error_kind::RATE_LIMITED, said, retry_after)
        }
        Exceeded::TokensOfMinute { limit, left, reserved, retry_after } => {
            let said = format!(
                "Rate limit reached: {left} of {limit} tokens per minute{} are left, and this request needs more. \
                 Requests of the last 60 s have used {}, and running ones hold {reserved}.",
                beyond_user(whose, " for "),
                limit.saturating_sub(left).saturating_sub(reserved)
            );
            (&error_kind::RATE_LIMITED, said, retry_after)
        }
        Exceeded::TooLarge { limit, needed } => {
            let said = format!(
                "This request needs up to {needed} tokens, more than {} {limit} tokens per minute: send a shorter prompt \
                 or a smaller `max_tokens`.",
                possessive(whose)
            );
            (&error_kind::QUOTA_USED_UP, said, MINUTE)
        }
        Exceeded::TokensReserved { per, limit, used, left, retry_after } => {
            let said = format!(
                "{left} of {} {limit} tokens per {} are free, and this request needs more: {used} are used, and running \
                 requests hold the rest.",
                possessive(whose),
                word(per)
            );
            (&error_kind::RATE_LIMITED, said, retry_after)
        }
        Exceeded::TokensUsedUp { per, limit, used, retry_after } => {
            let who = if is_user(whose) { "You have".to_owned() } else { has(whose) };
            let whose = if is_user(whose) { "your" } else { "its" };
            let again = match per {
                Calendar::Day => "at midnight (UTC)",
                Calendar::Month => "on the first of the next month (UTC)",
            };
            let said = format!(
                "{who} used {used} of {whose} {limit} tokens per {} (UTC), which leaves too little for this request. They \
                 start again {again}.",
                word(per)
            );
            (&error_kind::QUOTA_USED_UP, said, retry_after)
        }
    };
    let is_hopeless = kind.code == error_kind::QUOTA_USED_UP.code;
    let limit = name_in_rows(whose, exceeded.limit_name());
    let message = format!("{said} Please try again in {}.", seconds(retry_after));
    Worded { kind, message, retry_after, is_hopeless, limit }
}

fn is_user(whose: &Whose) -> bool {
    matches!(whose, Whose::User(_))
}

/// Nothing for the user: the words "per minute" need no owner then.
fn beyond_user(whose: &Whose, before: &str) -> String {
    if is_user(whose) { String::new() } else { format!("{before}your {} `{}`", whose.kind(), whose.name()) }
}

fn possessive(whose: &Whose) -> String {
    if is_user(whose) { "your".to_owned() } else { format!("your {} `{}`'s", whose.kind(), whose.name()) }
}

fn has(whose: &Whose) -> String {
    format!("Your {} `{}` has", whose.kind(), whose.name())
}

fn word(per: Calendar) -> &'static str {
    match per {
        Calendar::Day => "day",
        Calendar::Month => "month",
    }
}

/// In the form that clients parse out of a message.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_millis().div_ceil(1000).max(1))
}

/// A user's limit by its name in the configuration; a key's or group's with the owner before it.
fn name_in_rows(whose: &Whose, limit: &'static str) -> &'static str {
    match (whose, limit) {
        (Whose::User(_), limit) => limit,
        (Whose::Key(_), "requests_per_minute") => "key.requests_per_minute",
        (Whose::Key(_), "tokens_per_minute") => "key.tokens_per_minute",
        (Whose::Key(_), "max_concurrency") => "key.max_concurrency",
        (Whose::Key(_), _) => "key.tokens_per_day",
        (Whose::Group(_), "requests_per_minute") => "group.requests_per_minute",
        (Whose::Group(_), "tokens_per_minute") => "group.tokens_per_minute",
        (Whose::Group(_), "max_concurrency") => "group.max_concurrency",
        (Whose::Group(_), "tokens_per_month") => "group.tokens_per_month",
        (Whose::Group(_), _) => "group.tokens_per_day",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_whose_limit_it_is_what_is_used_and_when_it_comes_back() {
        let key = || Whose::Key("laptop".to_owned());
        let user = || Whose::User(crate::store::UserId::parse("ann").unwrap());
        let seconds = Duration::from_secs;
        for (whose, exceeded, message, limit) in [
            (
                user(),
                Exceeded::Requests { limit: 10, retry_after: seconds(3) },
                "Rate limit reached: 10 requests per minute, all of them used in the last 60 s. Please try again in 3s.",
                "requests_per_minute",
            ),
            (
                key(),
                Exceeded::Concurrency { limit: 2, retry_after: seconds(1) },
                "Your key `laptop` has 2 requests running or waiting, which is its limit. Please try again in 1s.",
                "key.max_concurrency",
            ),
            (
                key(),
                Exceeded::TokensOfMinute { limit: 100, left: 10, reserved: 60, retry_after: seconds(2) },
                "Rate limit reached: 10 of 100 tokens per minute for your key `laptop` are left, and this request needs \
                 more. Requests of the last 60 s have used 30, and running ones hold 60. Please try again in 2s.",
                "key.tokens_per_minute",
            ),
            (
                user(),
                Exceeded::TokensReserved { per: Calendar::Day, limit: 100, used: 50, left: 5, retry_after: seconds(2) },
                "5 of your 100 tokens per day are free, and this request needs more: 50 are used, and running requests \
                 hold the rest. Please try again in 2s.",
                "tokens_per_day",
            ),
            (
                key(),
                Exceeded::TokensUsedUp { per: Calendar::Day, limit: 100, used: 99, retry_after: seconds(7_199) },
                "Your key `laptop` has used 99 of its 100 tokens per day (UTC), which leaves too little for this request. \
                 They start again at midnight (UTC). Please try again in 7199s.",
                "key.tokens_per_day",
            ),
            (
                Whose::Group("lab".into()),
                Exceeded::TokensUsedUp { per: Calendar::Month, limit: 900, used: 899, retry_after: seconds(86_400) },
                "Your group `lab` has used 899 of its 900 tokens per month (UTC), which leaves too little for this request. \
                 They start again on the first of the next month (UTC). Please try again in 86400s.",
                "group.tokens_per_month",
            ),
            (
                Whose::Group("lab".into()),
                Exceeded::TokensReserved { per: Calendar::Day, limit: 9, used: 5, left: 1, retry_after: seconds(2) },
                "1 of your group `lab`'s 9 tokens per day are free, and this request needs more: 5 are used, and running \
                 requests hold the rest. Please try again in 2s.",
                "group.tokens_per_day",
            ),
        ] {
            let worded = worded(&Over { whose, exceeded });
            assert_eq!((&*worded.message, worded.limit), (message, limit));
        }
    }
}
