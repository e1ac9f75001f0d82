//! How much may a user use? Pure: a budget, a need and a moment in, a reservation or a refusal out.
//!
//! * **Requests per minute** is an exact sliding log: at most N admissions in any 60 s, on the monotonic clock.
//! * **Tokens per day** (prompt and completion, UTC day) are reserved before a request is dispatched and settled when
//!   it ends, so that `settled + reserved <= limit` holds at every admission, however many requests race.
//! * A reservation belongs to the day on which it was admitted; one that ends after midnight takes nothing from the
//!   new day.
//!
//! Invariant: every [`Reservation`] is given back exactly once, to [`Budget::settle`] or to [`Budget::cancel`].
use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

const MINUTE: Duration = Duration::from_secs(60);
const DAY_MS: i64 = 86_400_000;
/// How long a client waits when the rest of the quota is only reserved and may come back at any moment.
const RESERVED_RETRY: Duration = Duration::from_secs(2);

/// The limits of new users, and what is reserved for a request that names no `max_tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Admissions in any 60 s for a new user; `null` = no limit. Default `null`.
    pub requests_per_minute: Option<u32>,
    /// Prompt and completion tokens per UTC day for a new user; `null` = no limit. Default `null`.
    pub tokens_per_day: Option<u64>,
    /// Output tokens that a request without `max_tokens` reserves and may use, where the user has a daily limit.
    /// Default 2048.
    pub default_max_output: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { requests_per_minute: None, tokens_per_day: None, default_max_output: 2048 }
    }
}

impl Settings {
    /// What a user gets when nothing else is said.
    pub fn for_new_user(&self) -> Limits {
        Limits { requests_per_minute: self.requests_per_minute, tokens_per_day: self.tokens_per_day }
    }
}

/// One user's limits. `None` = no limit; zero refuses everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Admissions in any 60 s.
    pub requests_per_minute: Option<u32>,
    /// Prompt and completion tokens per UTC day.
    pub tokens_per_day: Option<u64>,
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

/// Room that one admitted request holds until it ends.
#[derive(Debug)]
pub struct Reservation {
    admitted_at: Duration,
    counted: bool,
    day: i32,
    tokens: u64,
    /// The output cap to send to the node, where the client named none and the user has a daily limit.
    pub output_cap: Option<u64>,
}

/// Why a request is not admitted, and when it is worth coming back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// The last minute is full.
    Requests {
        /// The user's requests per minute.
        limit: u32,
        /// Until the oldest admission leaves the window.
        retry_after: Duration,
    },
    /// Not enough is left now, but running requests may give some back.
    TokensReserved {
        /// The user's tokens per day.
        limit: u64,
        /// Tokens neither used nor reserved.
        left: u64,
        /// A short while.
        retry_after: Duration,
    },
    /// Not enough is left today for this request, whatever the running ones give back.
    TokensUsedUp {
        /// The user's tokens per day.
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
            Self::TokensReserved { .. } | Self::TokensUsedUp { .. } => "tokens_per_day",
        }
    }
}

/// What a user has used and has left, for `x-ratelimit-*` and the admin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The limits in force.
    pub limits: Limits,
    /// Admissions in the last 60 s; counted only under a limit.
    pub requests_used: u32,
    /// Until the oldest of them leaves the window; zero when there is none.
    pub requests_reset: Duration,
    /// Tokens of ended requests today.
    pub tokens_used: u64,
    /// Tokens held by running requests.
    pub tokens_reserved: u64,
    /// Until midnight UTC.
    pub tokens_reset: Duration,
}

impl Standing {
    /// Requests that may still start within the window; `None` = no limit.
    pub fn requests_left(&self) -> Option<u32> {
        self.limits.requests_per_minute.map(|limit| limit.saturating_sub(self.requests_used))
    }

    /// Tokens that may still be reserved today; `None` = no limit.
    pub fn tokens_left(&self) -> Option<u64> {
        let taken = self.tokens_used.saturating_add(self.tokens_reserved);
        self.limits.tokens_per_day.map(|limit| limit.saturating_sub(taken))
    }
}

/// What one user has taken so far.
#[derive(Debug, Default)]
pub struct Budget {
    /// Uptimes of the admissions of the last minute, oldest first; kept only under a limit, so never longer than it.
    admissions: VecDeque<Duration>,
    day: i32,
    settled: u64,
    reserved: u64,
}

impl Budget {
    /// Takes up what was used before a restart: tokens of `now`'s day, and how long ago each admission of the last
    /// minute was (any order).
    pub fn restore(&mut self, tokens_today: u64, admission_ages: impl IntoIterator<Item = Duration>, now: Moment) {
        self.day = now.day();
        self.settled = tokens_today;
        let mut ages: Vec<Duration> = admission_ages.into_iter().filter(|age| *age < MINUTE).collect();
        ages.sort_unstable();
        self.admissions = ages.iter().rev().map(|age| now.uptime.saturating_sub(*age)).collect();
    }

    /// Admits a request and reserves what it needs.
    ///
    /// # Errors
    /// [`Exceeded`] when a limit stands in the way; nothing is taken then.
    pub fn admit(&mut self, limits: &Limits, need: Need, now: Moment) -> Result<Reservation, Exceeded> {
        self.advance(now);
        if let Some(limit) = limits.requests_per_minute
            && self.admissions.len() >= limit as usize
        {
            // The window has room again once it holds fewer than `limit`.
            let leaving = self.admissions.len() - limit as usize;
            let retry_after = match self.admissions.get(leaving) {
                Some(admitted) => (*admitted + MINUTE).saturating_sub(now.uptime),
                None => MINUTE,
            };
            return Err(Exceeded::Requests { limit, retry_after });
        }
        let (tokens, output_cap) = match limits.tokens_per_day {
            Some(limit) => self.tokens_for(limit, need, now)?,
            None => (0, None),
        };
        self.reserved += tokens;
        let counted = limits.requests_per_minute.is_some();
        if counted {
            self.admissions.push_back(now.uptime);
        }
        Ok(Reservation { admitted_at: now.uptime, counted, day: self.day, tokens, output_cap })
    }

    fn tokens_for(&self, limit: u64, need: Need, now: Moment) -> Result<(u64, Option<u64>), Exceeded> {
        let left = limit.saturating_sub(self.settled).saturating_sub(self.reserved);
        // Without `max_tokens` the request takes what is left, up to the default, but at least one token.
        let smallest = need.prompt.saturating_add(need.output.unwrap_or(1).max(1));
        if smallest > left {
            return Err(if smallest <= limit.saturating_sub(self.settled) {
                Exceeded::TokensReserved { limit, left, retry_after: RESERVED_RETRY }
            } else {
                Exceeded::TokensUsedUp { limit, used: self.settled, retry_after: now.until_midnight() }
            });
        }
        match need.output {
            Some(_) => Ok((smallest, None)),
            None => {
                let cap = need.default_output.max(1).min(left - need.prompt);
                Ok((need.prompt + cap, Some(cap)))
            }
        }
    }

    /// The request ended, having used `tokens` in all.
    pub fn settle(&mut self, reservation: Reservation, tokens: u64, now: Moment) {
        self.advance(now);
        if reservation.day == self.day {
            self.reserved = self.reserved.saturating_sub(reservation.tokens);
            self.settled = self.settled.saturating_add(tokens);
        }
    }

    /// The request was refused after all: nothing of it counts.
    pub fn cancel(&mut self, reservation: Reservation, now: Moment) {
        if reservation.counted
            && let Some(position) = self.admissions.iter().rposition(|admitted| *admitted == reservation.admitted_at)
        {
            self.admissions.remove(position);
        }
        self.settle(reservation, 0, now);
    }

    /// What is used and left at `now`.
    pub fn standing(&mut self, limits: Limits, now: Moment) -> Standing {
        self.advance(now);
        let requests_reset = self.admissions.front().map(|oldest| (*oldest + MINUTE).saturating_sub(now.uptime));
        Standing {
            limits,
            requests_used: u32::try_from(self.admissions.len()).unwrap_or(u32::MAX),
            requests_reset: requests_reset.unwrap_or_default(),
            tokens_used: self.settled,
            tokens_reserved: self.reserved,
            tokens_reset: now.until_midnight(),
        }
    }

    /// Drops what is older than a minute, and begins a new day. A wall clock that jumps back changes nothing.
    fn advance(&mut self, now: Moment) {
        while self.admissions.front().is_some_and(|admitted| *admitted + MINUTE <= now.uptime) {
            self.admissions.pop_front();
        }
        if now.day() > self.day {
            self.day = now.day();
            self.settled = 0;
            self.reserved = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment { uptime: Duration::from_secs(seconds), unix_ms: i64::try_from(seconds).unwrap() * 1000 }
    }

    fn need(prompt: u64, output: Option<u64>) -> Need {
        Need { prompt, output, default_output: 2048 }
    }

    fn rpm(limit: u32) -> Limits {
        Limits { requests_per_minute: Some(limit), tokens_per_day: None }
    }

    fn tpd(limit: u64) -> Limits {
        Limits { requests_per_minute: None, tokens_per_day: Some(limit) }
    }

    #[test]
    fn the_window_slides_and_says_when_it_opens() {
        let mut budget = Budget::default();
        budget.admit(&rpm(2), need(1, None), at(0)).unwrap();
        budget.admit(&rpm(2), need(1, None), at(20)).unwrap();
        let refused = budget.admit(&rpm(2), need(1, None), at(30)).unwrap_err();
        assert_eq!(refused, Exceeded::Requests { limit: 2, retry_after: Duration::from_secs(30) });
        budget.admit(&rpm(2), need(1, None), at(60)).unwrap();
        assert!(budget.admit(&rpm(2), need(1, None), at(79)).is_err());
        assert!(budget.admit(&rpm(2), need(1, None), at(80)).is_ok());
    }

    #[test]
    fn a_lowered_limit_waits_for_enough_admissions_to_leave() {
        let mut budget = Budget::default();
        for second in [0, 10, 20] {
            budget.admit(&rpm(3), need(1, None), at(second)).unwrap();
        }
        let refused = budget.admit(&rpm(1), need(1, None), at(30)).unwrap_err();
        assert_eq!(refused, Exceeded::Requests { limit: 1, retry_after: Duration::from_secs(50) });
    }

    #[test]
    fn zero_refuses_everything() {
        assert!(Budget::default().admit(&rpm(0), need(1, None), at(1)).is_err());
        assert!(Budget::default().admit(&tpd(0), need(1, None), at(1)).is_err());
    }

    #[test]
    fn without_max_tokens_the_rest_of_the_day_is_the_cap() {
        let mut budget = Budget::default();
        let first = budget.admit(&tpd(3000), need(100, None), at(1)).unwrap();
        assert_eq!(first.output_cap, Some(2048));
        let second = budget.admit(&tpd(3000), need(100, None), at(1)).unwrap();
        assert_eq!(second.output_cap, Some(3000 - 2148 - 100));
        assert!(matches!(
            budget.admit(&tpd(3000), need(100, None), at(1)),
            Err(Exceeded::TokensReserved { left: 0, .. })
        ));
        budget.settle(first, 150, at(2));
        assert!(budget.admit(&tpd(3000), need(100, None), at(2)).is_ok());
    }

    #[test]
    fn an_explicit_max_tokens_that_cannot_fit_today_is_used_up() {
        let mut budget = Budget::default();
        let refused = budget.admit(&tpd(1000), need(10, Some(1000)), at(1)).unwrap_err();
        assert!(matches!(refused, Exceeded::TokensUsedUp { limit: 1000, used: 0, .. }));
    }

    #[test]
    fn midnight_utc_begins_a_new_day_and_old_reservations_take_nothing_from_it() {
        let mut budget = Budget::default();
        let late = budget.admit(&tpd(100), need(10, Some(90)), at(86_399)).unwrap();
        assert!(budget.admit(&tpd(100), need(1, Some(1)), at(86_399)).is_err());
        let early = budget.admit(&tpd(100), need(10, Some(90)), at(86_400)).unwrap();
        budget.settle(late, 100, at(86_401));
        budget.settle(early, 60, at(86_401));
        assert_eq!(budget.standing(tpd(100), at(86_402)).tokens_left(), Some(40));
    }

    #[test]
    fn a_wall_clock_that_jumps_back_resets_nothing() {
        let mut budget = Budget::default();
        let held = budget.admit(&tpd(100), need(10, Some(90)), at(86_400)).unwrap();
        budget.settle(held, 100, at(86_400));
        let back = Moment { uptime: Duration::from_secs(86_500), unix_ms: 1000 };
        assert!(budget.admit(&tpd(100), need(1, Some(1)), back).is_err());
    }

    #[test]
    fn a_restored_budget_goes_on_where_it_was() {
        let mut budget = Budget::default();
        let start = Moment { uptime: Duration::from_secs(61), unix_ms: 1_000_000 };
        budget.restore(40, [Duration::from_secs(30), Duration::from_secs(70)], start);
        let both = Limits { requests_per_minute: Some(1), tokens_per_day: Some(100) };
        let standing = budget.standing(both, start);
        assert_eq!((standing.requests_left(), standing.tokens_left()), (Some(0), Some(60)));
    }

    proptest! {
        /// Any interleaving of admissions, ends and cancellations, against the plain definition of both limits.
        #[test]
        fn no_interleaving_goes_over(steps in proptest::collection::vec((0u8..4, 0u64..20, 1u64..60, 0u64..40), 1..300)) {
            let limits = Limits { requests_per_minute: Some(5), tokens_per_day: Some(200) };
            let (mut budget, mut now) = (Budget::default(), 1u64);
            let mut held: Vec<(Reservation, u64)> = Vec::new();
            let (mut log, mut settled): (Vec<u64>, u64) = (Vec::new(), 0);
            for (kind, wait, prompt, output) in steps {
                now += wait;
                match kind {
                    0 | 1 => {
                        let window = log.iter().filter(|t| **t + 60 > now).count();
                        let reserved: u64 = held.iter().map(|(r, _)| r.tokens).sum();
                        let asked = (output > 0).then_some(output);
                        let fits = prompt + asked.unwrap_or(1) <= 200u64.saturating_sub(settled + reserved);
                        match budget.admit(&limits, need(prompt, asked), at(now)) {
                            Ok(reservation) => {
                                prop_assert!(window < 5 && fits);
                                prop_assert!(settled + reserved + reservation.tokens <= 200);
                                log.push(now);
                                held.push((reservation, now));
                            }
                            Err(_) => prop_assert!(window >= 5 || !fits),
                        }
                    }
                    2 => if let Some((reservation, _)) = held.pop() {
                        let used = output.min(reservation.tokens);
                        settled += used;
                        budget.settle(reservation, used, at(now));
                    },
                    _ => if let Some((reservation, admitted)) = held.pop() {
                        let position = log.iter().rposition(|t| *t == admitted).unwrap();
                        log.remove(position);
                        budget.cancel(reservation, at(now));
                    },
                }
            }
            for (reservation, _) in held {
                budget.settle(reservation, 0, at(now));
            }
            let standing = budget.standing(limits, at(now));
            prop_assert_eq!((standing.tokens_used, standing.tokens_reserved), (settled, 0));
        }
    }
}
