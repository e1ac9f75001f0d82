//! The one place where what is used is counted: admit, settle, cancel.
use std::collections::VecDeque;
use std::time::Duration;

use super::{Allowance, Amounts, Exceeded, Limits, Moment, Need, Standing};

const MINUTE: Duration = Duration::from_secs(60);
/// How long a client waits when the rest of the quota is only reserved and may come back at any moment.
const RESERVED_RETRY: Duration = Duration::from_secs(2);
/// How long a client waits that has as many requests running as it may.
const BUSY_RETRY: Duration = Duration::from_secs(1);
/// Admissions of so many milliseconds are counted together towards the tokens of a minute, which bounds the memory.
const SLICE_MS: u128 = 100;

/// Room that one admitted request holds in one budget until it ends.
#[derive(Debug)]
pub struct Reservation {
    admitted_at: Duration,
    /// Whether it stands in the log of the minute's requests.
    is_logged: bool,
    /// Whether it stands in the minute's tokens.
    is_weighed: bool,
    day: i32,
    /// Held of the day and of the minute; zero without such limits.
    tokens: u64,
}

/// What was used before a restart and still counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Tokens of the day.
    pub tokens_today: u64,
    /// Of these, what is not in the database yet.
    pub unsent_today: u64,
    /// The admissions of the last minute, in any order: how long ago, and their tokens.
    pub recent: Vec<(Duration, u64)>,
}

/// What one user, or one key, has taken so far.
#[derive(Debug, Default)]
pub struct Budget {
    /// Uptimes of the admissions of the last minute, oldest first; kept only under a limit, so never longer than it.
    admissions: VecDeque<Duration>,
    /// Tokens of the admissions of the last minute, oldest first; kept only under a limit.
    slices: VecDeque<Slice>,
    running: u32,
    day: i32,
    settled: u64,
    reserved: u64,
    /// The latest uptime seen: threads bring theirs in any order.
    latest: Duration,
}

/// The tokens of the admissions of a tenth of a second.
#[derive(Clone, Copy, Debug)]
struct Slice {
    number: u128,
    /// Uptime of the last of them.
    last: Duration,
    used: u64,
    reserved: u64,
}

impl Slice {
    fn tokens(&self) -> u64 {
        self.used.saturating_add(self.reserved)
    }
}

fn slice_of(uptime: Duration) -> u128 {
    uptime.as_millis() / SLICE_MS
}

impl Reservation {
    /// The day whose tokens it holds.
    pub(crate) fn day(&self) -> i32 {
        self.day
    }
}

impl Budget {
    /// Takes up what was used before a restart. What is counted only under a limit counts only so.
    pub fn restore(&mut self, limits: &Limits, mut spent: Spent, now: Moment) {
        self.advance(now);
        self.settled = spent.tokens_today;
        spent.recent.retain(|(age, _)| *age < MINUTE);
        // The oldest first.
        spent.recent.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        for (age, tokens) in spent.recent {
            let admitted = now.uptime.saturating_sub(age);
            if limits.requests_per_minute.is_some() {
                self.admissions.push_back(admitted);
            }
            if limits.tokens_per_minute.is_some() {
                self.weigh(admitted, tokens, 0);
            }
        }
    }

    /// Admits a request and reserves what it needs.
    ///
    /// # Errors
    /// [`Exceeded`] when a limit stands in the way; nothing is taken then.
    pub fn admit(&mut self, limits: &Limits, need: Need, now: Moment) -> Result<(Reservation, Allowance), Exceeded> {
        let allowance = need.allowance(self.room(limits, need, now)?);
        Ok((self.take(limits, need, allowance, now), allowance))
    }

    /// How many tokens of output there is room for; `None` = no limit.
    pub(crate) fn room(&mut self, limits: &Limits, need: Need, now: Moment) -> Result<Option<u64>, Exceeded> {
        let now = self.advance(now);
        if let Some(limit) = limits.max_concurrency
            && self.running >= limit
        {
            return Err(Exceeded::Concurrency { limit, retry_after: BUSY_RETRY });
        }
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
        let day = limits.tokens_per_day.map(|limit| self.room_today(limit, need, now)).transpose()?;
        let minute = limits.tokens_per_minute.map(|limit| self.room_of_minute(limit, need, now)).transpose()?;
        Ok([day, minute].into_iter().flatten().min())
    }

    fn room_today(&self, limit: u64, need: Need, now: Moment) -> Result<u64, Exceeded> {
        let left = limit.saturating_sub(self.settled).saturating_sub(self.reserved);
        if need.smallest() <= left {
            return Ok(left - need.prompt);
        }
        Err(if need.smallest() <= limit.saturating_sub(self.settled) {
            Exceeded::TokensReserved { limit, left, retry_after: RESERVED_RETRY }
        } else {
            Exceeded::TokensUsedUp { limit, used: self.settled, retry_after: now.until_midnight() }
        })
    }

    fn room_of_minute(&self, limit: u64, need: Need, now: Moment) -> Result<u64, Exceeded> {
        let needed = need.smallest();
        if needed > limit {
            return Err(Exceeded::TooLarge { limit, needed });
        }
        let (tokens, reserved) = self.slices.iter().fold((0u64, 0u64), |(tokens, reserved), slice| {
            (tokens.saturating_add(slice.tokens()), reserved.saturating_add(slice.reserved))
        });
        let left = limit.saturating_sub(tokens);
        if needed <= left {
            return Ok(left - need.prompt);
        }
        let mut leaving = 0u64;
        let enough = self.slices.iter().find(|slice| {
            leaving = leaving.saturating_add(slice.tokens());
            limit.saturating_sub(tokens.saturating_sub(leaving)) >= needed
        });
        let aged = enough.map_or(MINUTE, |slice| (slice.last + MINUTE).saturating_sub(now.uptime));
        let may_come_back = needed <= limit.saturating_sub(tokens.saturating_sub(reserved));
        let retry_after = if may_come_back { aged.min(RESERVED_RETRY) } else { aged };
        Err(Exceeded::TokensOfMinute { limit, left, retry_after })
    }

    pub(crate) fn take(&mut self, limits: &Limits, need: Need, allowance: Allowance, now: Moment) -> Reservation {
        let now = self.advance(now);
        let (is_logged, is_weighed) = (limits.requests_per_minute.is_some(), limits.tokens_per_minute.is_some());
        let is_limited = is_weighed || limits.tokens_per_day.is_some();
        let output = allowance.output.filter(|_| is_limited);
        let tokens = output.map_or(0, |output| need.prompt.saturating_add(output));
        self.running += 1;
        self.reserved = self.reserved.saturating_add(tokens);
        if is_logged {
            self.admissions.push_back(now.uptime);
        }
        if is_weighed {
            self.weigh(now.uptime, 0, tokens);
        }
        Reservation { admitted_at: now.uptime, is_logged, is_weighed, day: self.day, tokens }
    }

    fn weigh(&mut self, admitted: Duration, used: u64, reserved: u64) {
        let number = slice_of(admitted);
        match self.slices.back_mut() {
            Some(slice) if slice.number == number => {
                slice.last = slice.last.max(admitted);
                slice.used = slice.used.saturating_add(used);
                slice.reserved = slice.reserved.saturating_add(reserved);
            }
            _ => self.slices.push_back(Slice { number, last: admitted, used, reserved }),
        }
    }

    /// The request ended, having used `tokens` in all.
    pub fn settle(&mut self, reservation: Reservation, tokens: u64, now: Moment) {
        self.advance(now);
        self.running = self.running.saturating_sub(1);
        if reservation.day == self.day {
            self.reserved = self.reserved.saturating_sub(reservation.tokens);
            self.settled = self.settled.saturating_add(tokens);
        }
        let number = slice_of(reservation.admitted_at);
        if reservation.is_weighed
            && let Some(slice) = self.slices.iter_mut().rev().find(|slice| slice.number == number)
        {
            slice.reserved = slice.reserved.saturating_sub(reservation.tokens);
            slice.used = slice.used.saturating_add(tokens);
        }
    }

    /// The request was refused after all: nothing of it counts.
    pub fn cancel(&mut self, reservation: Reservation, now: Moment) {
        if reservation.is_logged
            && let Some(position) = self.admissions.iter().rposition(|admitted| *admitted == reservation.admitted_at)
        {
            self.admissions.remove(position);
        }
        self.settle(reservation, 0, now);
    }

    /// What counts at the moment, with what is reserved.
    pub(crate) fn counted(&mut self, now: Moment) -> Amounts {
        self.advance(now);
        Amounts {
            requests: self.admissions.len() as u64,
            minute_tokens: self.slices.iter().map(Slice::tokens).fold(0, u64::saturating_add),
            running: self.running.into(),
            day_tokens: self.settled.saturating_add(self.reserved),
        }
    }

    /// Tokens of the day that running requests hold.
    pub(crate) fn reserved(&self) -> u64 {
        self.reserved
    }

    /// What is used and left at `now`.
    pub fn standing(&mut self, limits: Limits, now: Moment) -> Standing {
        let now = self.advance(now);
        let leaves = |oldest: Duration| (oldest + MINUTE).saturating_sub(now.uptime);
        Standing {
            limits,
            running: self.running,
            requests_used: u32::try_from(self.admissions.len()).unwrap_or(u32::MAX),
            requests_reset: self.admissions.front().map(|oldest| leaves(*oldest)).unwrap_or_default(),
            minute_tokens: self.slices.iter().map(Slice::tokens).fold(0, u64::saturating_add),
            minute_reset: self.slices.front().map(|oldest| leaves(oldest.last)).unwrap_or_default(),
            tokens_used: self.settled,
            tokens_reserved: self.reserved,
            tokens_reset: now.until_midnight(),
        }
    }

    /// Drops what is older than a minute, and begins a new day; the moment to go on with. A clock that jumps back changes
    /// nothing.
    fn advance(&mut self, now: Moment) -> Moment {
        self.latest = self.latest.max(now.uptime);
        let now = Moment { uptime: self.latest, ..now };
        while self.admissions.front().is_some_and(|admitted| *admitted + MINUTE <= now.uptime) {
            self.admissions.pop_front();
        }
        while self.slices.front().is_some_and(|slice| slice.last + MINUTE <= now.uptime) {
            self.slices.pop_front();
        }
        if now.day() > self.day {
            self.day = now.day();
            self.settled = 0;
            self.reserved = 0;
        }
        now
    }
}
