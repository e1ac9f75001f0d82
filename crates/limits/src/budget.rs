//! What has one user, or one key, used so far, and does another request fit? The only place that counts: admit, settle,
//! cancel.
use std::collections::VecDeque;
use std::time::Duration;

use super::amounts::Amounts;
use super::calendar::Calendar;
use super::exceeded::Exceeded;
use super::headroom::Balance;
use super::limit::Limits;
use super::minute::{MINUTE, MinuteTokens};
use crate::amounts::{Allowance, Need};
use crate::calendar::Moment;

/// The retry hint if the rest of the quota is only reserved: it may be released at any moment.
const RESERVED_RETRY: Duration = Duration::from_secs(2);
/// The retry hint for a client that has as many requests running as it may.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// What one admitted request holds in one budget until it ends.
#[derive(Debug)]
pub struct Reservation {
    admitted_at: Duration,
    /// Whether it is in the log of the minute's requests.
    is_logged: bool,
    /// Whether it counts in the minute's tokens.
    is_weighed: bool,
    day: i32,
    /// Tokens reserved from the day and the minute; zero without a token limit.
    tokens: u64,
}

/// What was used before a restart and still counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriorUse {
    /// Tokens used today.
    pub tokens_today: u64,
    /// The part of `tokens_today` that is not in the database yet.
    pub unsent_today: u64,
    /// Admissions of the last minute, in any order: how long ago each was, and its tokens.
    pub recent: Vec<(Duration, u64)>,
}

/// What one user, or one key, has used so far.
#[derive(Debug, Default)]
pub struct Budget {
    /// Uptimes of the last minute's admissions, oldest first; kept only if there is a limit, and so never longer than
    /// it.
    admissions: VecDeque<Duration>,
    /// Tokens of the last minute's admissions; kept only if there is a limit.
    minute: MinuteTokens,
    running: u32,
    calendar: Calendar,
    /// The day, or month, of the tokens.
    day: i32,
    settled: u64,
    reserved: u64,
    /// The day before the last change of days, in case the clock is set back.
    other: Option<Day>,
    /// The latest uptime seen: threads read the clock first and arrive here in any order.
    latest: Duration,
}

/// What was used on one day.
#[derive(Clone, Copy, Debug)]
struct Day {
    day: i32,
    settled: u64,
    reserved: u64,
}

impl Reservation {
    /// The day whose tokens it counts.
    pub(crate) fn day(&self) -> i32 {
        self.day
    }
}

impl Budget {
    /// An unused budget whose `tokens_per_day` is over a stretch of this calendar.
    pub fn of(calendar: Calendar) -> Self {
        Self { calendar, ..Self::default() }
    }

    pub(crate) fn calendar(&self) -> Calendar {
        self.calendar
    }

    /// Takes over what was used before a restart. As everywhere, the minute's requests and tokens are counted only if
    /// there is a limit.
    pub fn restore(&mut self, limits: &Limits, mut spent: PriorUse, now: Moment) {
        self.advance(now);
        self.settled = spent.tokens_today;
        spent.recent.retain(|(age, _)| *age < MINUTE);
        // Oldest first.
        spent.recent.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        // As if each had been admitted here, so that it leaves the window when it would have.
        for (age, tokens) in spent.recent {
            let admitted = now.uptime.saturating_sub(age);
            if limits.requests_per_minute.is_some() {
                self.admissions.push_back(admitted);
            }
            if limits.tokens_per_minute.is_some() {
                self.minute.admit(admitted, tokens, 0);
            }
        }
    }

    /// Admits a request and reserves what it needs.
    ///
    /// # Errors
    /// [`Exceeded`] if the request does not fit a limit; nothing is reserved then.
    pub fn admit(&mut self, limits: &Limits, need: Need, now: Moment) -> Result<(Reservation, Allowance), Exceeded> {
        let allowance = need.allowance(self.room(limits, need, now)?);
        Ok((self.take(limits, need, allowance, now), allowance))
    }

    /// How many output tokens fit; `None` = no limit. Reserves nothing yet.
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
            // The limit may have been lowered. The window has room again once it holds fewer than `limit` admissions.
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
        // Running requests may release what they reserved; what is settled stays used until midnight.
        let per = self.calendar;
        Err(if need.smallest() <= limit.saturating_sub(self.settled) {
            Exceeded::TokensReserved { per, limit, used: self.settled, left, retry_after: RESERVED_RETRY }
        } else {
            Exceeded::TokensUsedUp { per, limit, used: self.settled, retry_after: per.until_next(now) }
        })
    }

    fn room_of_minute(&self, limit: u64, need: Need, now: Moment) -> Result<u64, Exceeded> {
        // It would be refused for ever, so no time to wait is promised.
        let needed = need.smallest();
        if needed > limit {
            return Err(Exceeded::TooLarge { limit, needed });
        }
        let (tokens, reserved) = (self.minute.tokens(), self.minute.reserved());
        let left = limit.saturating_sub(tokens);
        if needed <= left {
            return Ok(left - need.prompt);
        }
        let aged = self.minute.until_at_most(limit - needed, now.uptime).unwrap_or(MINUTE);
        // What is reserved may be released long before its minute is over.
        let may_come_back = needed <= limit.saturating_sub(tokens.saturating_sub(reserved));
        let retry_after = if may_come_back { aged.min(RESERVED_RETRY) } else { aged };
        Err(Exceeded::TokensOfMinute { limit, left, reserved, retry_after })
    }

    /// Reserves what [`Budget::room`] has just found room for; takes the same arguments.
    pub(crate) fn take(&mut self, limits: &Limits, need: Need, allowance: Allowance, now: Moment) -> Reservation {
        let now = self.advance(now);
        let (is_logged, is_weighed) = (limits.requests_per_minute.is_some(), limits.tokens_per_minute.is_some());
        let is_limited = is_weighed || limits.tokens_per_day.is_some();
        let output = allowance.output.filter(|_| is_limited);
        let tokens = output.map_or(0, |output| need.prompt.saturating_add(output));
        self.running = self.running.saturating_add(1);
        self.reserved = self.reserved.saturating_add(tokens);
        if is_logged {
            self.admissions.push_back(now.uptime);
        }
        if is_weighed {
            self.minute.admit(now.uptime, 0, tokens);
        }
        self.check();
        Reservation { admitted_at: now.uptime, is_logged, is_weighed, day: self.day, tokens }
    }

    /// The request ended and used `tokens` in total.
    pub fn settle(&mut self, reservation: Reservation, tokens: u64, now: Moment) {
        self.advance(now);
        self.running = self.running.saturating_sub(1);
        // A request counts towards the day of its admission, even if another day has begun.
        if reservation.day == self.day {
            self.reserved = self.reserved.saturating_sub(reservation.tokens);
            self.settled = self.settled.saturating_add(tokens);
        } else if let Some(other) = self.other.as_mut().filter(|other| other.day == reservation.day) {
            other.reserved = other.reserved.saturating_sub(reservation.tokens);
            other.settled = other.settled.saturating_add(tokens);
        }
        if reservation.is_weighed {
            self.minute.settle(reservation.admitted_at, reservation.tokens, tokens);
        }
        self.check();
    }

    /// The request was refused after all, so nothing of it counts.
    pub fn cancel(&mut self, reservation: Reservation, now: Moment) {
        if reservation.is_logged
            && let Some(position) = self.admissions.iter().rposition(|admitted| *admitted == reservation.admitted_at)
        {
            self.admissions.remove(position);
        }
        self.settle(reservation, 0, now);
    }

    /// What counts now, including reservations.
    pub(crate) fn counted(&mut self, now: Moment) -> Amounts {
        self.advance(now);
        Amounts {
            requests: self.admissions.len() as u64,
            minute_tokens: self.minute.tokens(),
            running: self.running.into(),
            day_tokens: self.settled.saturating_add(self.reserved),
        }
    }

    /// The day's tokens that running requests reserve.
    pub(crate) fn reserved(&self) -> u64 {
        self.reserved
    }

    /// What is used and what is left at `now`.
    pub fn balance(&mut self, limits: Limits, now: Moment) -> Balance {
        let now = self.advance(now);
        let leaves = |oldest: Duration| (oldest + MINUTE).saturating_sub(now.uptime);
        Balance {
            limits,
            calendar: self.calendar,
            running: self.running,
            requests_used: u32::try_from(self.admissions.len()).unwrap_or(u32::MAX),
            requests_reset: self.admissions.front().map(|oldest| leaves(*oldest)).unwrap_or_default(),
            minute_tokens: self.minute.tokens(),
            minute_reserved: self.minute.reserved(),
            minute_reset: self.minute.oldest().map(leaves).unwrap_or_default(),
            tokens_used: self.settled,
            tokens_reserved: self.reserved,
            tokens_reset: self.calendar.until_next(now),
        }
    }

    /// The clock is about to be set to another day, on which `tokens` are used already.
    pub fn prepare_day(&mut self, day: i32, tokens: u64) {
        let day = self.calendar.of_day(day);
        if day != self.day {
            self.other = Some(Day { day, settled: tokens, reserved: 0 });
        }
    }

    /// Drops what is older than a minute and begins a new day, or returns to the previous day if the clock was set
    /// back. Returns the moment to continue with. A clock that jumps back to an unknown day changes nothing.
    fn advance(&mut self, now: Moment) -> Moment {
        // Threads arrive in any order, including around midnight.
        let (is_newest, is_begun) = (now.uptime >= self.latest, !self.latest.is_zero());
        self.latest = self.latest.max(now.uptime);
        let now = Moment { uptime: self.latest, ..now };
        while self.admissions.front().is_some_and(|admitted| *admitted + MINUTE <= now.uptime) {
            self.admissions.pop_front();
        }
        self.minute.advance(now.uptime);
        let today = self.calendar.of(now);
        let known = self.other.filter(|other| other.day == today);
        if today > self.day || (today < self.day && is_newest && known.is_some()) {
            let left = Day { day: self.day, settled: self.settled, reserved: self.reserved };
            let entered = known.unwrap_or(Day { day: today, settled: 0, reserved: 0 });
            (self.day, self.settled, self.reserved) = (entered.day, entered.settled, entered.reserved);
            self.other = is_begun.then_some(left);
        }
        now
    }

    /// Asserts what must hold after every step. Only the newest entries are compared; older ones were compared when
    /// they came.
    fn check(&self) {
        let of_two = |len: usize| len.saturating_sub(2)..;
        debug_assert!(
            self.admissions.range(of_two(self.admissions.len())).is_sorted(),
            "admissions are in the order of time"
        );
        self.minute.check();
        debug_assert!(self.running > 0 || self.reserved == 0, "only a running request holds tokens");
    }
}
