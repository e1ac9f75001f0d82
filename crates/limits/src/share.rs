//! How much may one of several gateways use of limits that apply to all of them together?
//!
//! Each gateway has a [`Share`] of each limit and admits within it; together the shares never exceed the limit. A
//! gateway that wants more than its share asks for it, and gets what the others leave:
//!
//! * What is *used* here belongs to this gateway's share: admissions of the minute, tokens of the minute, running
//!   requests, and tokens of the day that are not in the database yet. Those in the database count for everybody alike.
//! * It also holds a *free* reserve, up to a block, so that few requests have to ask. A share grows only once the
//!   others can see it, and shrinks here before they can see that: two gateways never use the same room at the same
//!   time.
//! * Only a margin of the day's free tokens is *declared*: the part that may be used without saying so first. If the
//!   gateway dies, everything except what it declared returns to the others, and it has used no more than that. While
//!   the database is away, nothing can be declared, and all that is free may be used.
//! * A share ends when its gateway has been unable to tell the others for too long that it is alive; see [`Peer`].
use std::time::Duration;

use super::amounts::Amounts;
use super::calendar::Calendar;
use super::exceeded::Exceeded;
use super::limit::Limits;
use crate::amounts::Need;
use crate::calendar::Moment;

/// The retry hint if other gateways hold what is missing: they may give it back.
const BACK: Duration = Duration::from_secs(2);
const MINUTE: Duration = Duration::from_secs(60);
/// How much of a limit a gateway may use without having declared it, in per cent.
const MARGIN_PERCENT: u64 = 1;

/// This gateway's part of the limits of one user or key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// How much may be in use here; the day's tokens as the budget counts them.
    up_to: Amounts,
    /// The day's tokens that the others know about, counted the same way.
    declared: u64,
    calendar: Calendar,
    /// The day, or month, of these tokens.
    day: i32,
    /// What is unavailable at the moment, because others hold or have used it.
    elsewhere: Amounts,
    /// The day's tokens that others are known to have used.
    used_elsewhere: u64,
    /// The uptime at which the share ends.
    until: Duration,
}

/// What a gateway uses and holds when it asks to keep it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// In use; only those of the day's tokens that are not in the database.
    pub used: Amounts,
    /// Held in reserve.
    pub free: Amounts,
    /// The declared part of the day's free tokens.
    declared: u64,
    /// The day of the tokens.
    pub day: i32,
    /// The day's tokens, used and reserved, as the budget counts them.
    counted: u64,
    /// The part of `counted` that is in the database.
    sent: u64,
}

/// What the other gateways have of a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Elsewhere {
    /// Held by other gateways.
    pub held: Amounts,
    /// The day's tokens that are in the database, whoever used them.
    pub in_database: u64,
}

/// What a gateway will hold from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Everything that the others must leave alone: in use and free together.
    pub held: Amounts,
    /// The part of the day's tokens that stays used if this gateway dies.
    pub declared: u64,
    /// The day of the tokens.
    pub day: i32,
}

/// Another gateway, as the database shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Time since its last sign of life.
    pub silent: Duration,
    /// How long it may be silent before its shares end.
    pub patience: Duration,
    /// Whether it has signed off.
    pub left: bool,
}

/// The longest pause between two looks at the others after which a gateway has still watched them without a gap. Much
/// shorter than `patience`: an outage of the database is no silence of those who were cut off by it as well.
pub fn longest_gap(patience: Duration) -> Duration {
    (patience / 6).max(Duration::from_secs(3))
}

impl Peer {
    /// Whether its shares have ended. A gateway cannot tell if it has itself watched for no longer than the peer's
    /// patience: it may have been cut off together with the peer. `watched`: for how long without a gap
    /// ([`longest_gap`]).
    pub fn is_gone(&self, watched: Duration) -> bool {
        self.left || (self.silent > self.patience && watched > self.patience)
    }

    /// How much of its holding others must still leave alone on `day`.
    pub fn keeps(&self, holding: &Holding, watched: Duration, day: i32) -> Amounts {
        let is_today = |tokens| if holding.day == day { tokens } else { 0 };
        if !self.is_gone(watched) {
            return Amounts { day_tokens: is_today(holding.held.day_tokens), ..holding.held };
        }
        // Admissions count for a minute, even if their gateway has died meanwhile.
        let last_admission = if self.left { Duration::ZERO } else { self.patience };
        let minute = if self.silent <= last_admission + MINUTE { holding.held } else { Amounts::default() };
        Amounts { running: 0, day_tokens: is_today(holding.declared), ..minute }
    }
}

/// The most that a gateway may hold in reserve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Most {
    /// A block of each limit.
    pub free: Amounts,
    /// The part of the day's tokens that may be used without having been declared.
    undeclared: u64,
}

impl Most {
    /// `percent` of each limit, but at least one.
    pub fn of(limits: &Limits, percent: u64) -> Self {
        let free = Amounts::of(limits).map(|limit| limit.saturating_mul(percent).div_ceil(100).clamp(1, limit.max(1)));
        Self { free, undeclared: margin(limits) }
    }
}

/// What a request takes of each limit, with all the output that it may want.
pub fn wish(need: &Need) -> Amounts {
    let tokens = need.prompt.saturating_add(need.output.unwrap_or(need.default_output).max(1));
    Amounts { requests: 1, running: 1, minute_tokens: tokens, day_tokens: tokens }
}

/// The new share of a gateway that wants `block` in reserve and `need` now, and how much of it is free from now on. If
/// nothing more is left, the gateway keeps what it has.
pub fn trade(
    limits: &Limits,
    claim: &Claim,
    block: Amounts,
    need: Amounts,
    elsewhere: &Elsewhere,
) -> (Holding, Amounts) {
    let left = Amounts::of(limits).minus(elsewhere.taken()).minus(claim.used);
    // Nothing that is held is given up here: a request may be taking it at this very moment.
    let held = claim.free.max(block.max(need).min(left));
    let margin = margin(limits).max(need.day_tokens).min(held.day_tokens).max(claim.declared);
    let declared = claim.used.day_tokens.saturating_add(margin);
    let holding = Holding { held: claim.used.plus(held), declared, day: claim.day };
    debug_assert!(holding.declared <= holding.held.day_tokens, "only what is held is declared");
    // If a limit was lowered, or more was used than could be known, the excess is given up from now on.
    (holding, held.min(left))
}

/// The day's tokens that a gateway may use without having declared them.
fn margin(limits: &Limits) -> u64 {
    limits.tokens_per_day.unwrap_or(0).div_ceil(100).saturating_mul(MARGIN_PERCENT)
}

impl Claim {
    /// The holding that keeps exactly this claim.
    pub fn holding(&self) -> Holding {
        let declared = self.used.day_tokens.saturating_add(self.declared);
        Holding { held: self.used.plus(self.free), declared, day: self.day }
    }

    /// Whether there is anything to claim.
    pub fn is_empty(&self) -> bool {
        self.holding().held == Amounts::default()
    }
}

impl Elsewhere {
    fn taken(&self) -> Amounts {
        Amounts { day_tokens: self.held.day_tokens.saturating_add(self.in_database), ..self.held }
    }
}

impl Share {
    /// A share of exactly what is in use.
    pub(crate) fn of_used(counted: Amounts, calendar: Calendar, now: Moment) -> Self {
        let (declared, day) = (counted.day_tokens, calendar.of(now));
        let (elsewhere, used_elsewhere, until) = (Amounts::default(), 0, Duration::ZERO);
        Self { up_to: counted, declared, calendar, day, elsewhere, used_elsewhere, until }
    }

    /// The limits to admit by.
    pub(crate) fn within(&self, whole: &Limits, now: Moment) -> Limits {
        let day_tokens = if self.is_of(now) { self.declared } else { 0 };
        let share = match now.uptime < self.until {
            true => Amounts { day_tokens, ..self.up_to },
            false => Amounts::default(),
        };
        share.within(whole)
    }

    /// What is used and held. `counted` is what the budget counts; `unsent` is the part of the day's tokens that is not
    /// in the database. What is free beyond `most` is given up.
    pub(crate) fn claim(&mut self, counted: Amounts, unsent: u64, most: Option<&Most>, now: Moment) -> Claim {
        if !self.is_of(now) {
            let day_tokens = counted.day_tokens;
            self.up_to.day_tokens = day_tokens;
            (self.declared, self.day, self.used_elsewhere) = (day_tokens, self.calendar.of(now), 0);
        }
        if let Some(most) = most {
            self.up_to = self.up_to.min(counted.plus(most.free));
            self.declared = self.declared.min(counted.day_tokens.saturating_add(most.undeclared));
        }
        self.declared = self.declared.min(self.up_to.day_tokens);
        self.check();
        Claim {
            used: Amounts { day_tokens: unsent, ..counted },
            free: self.up_to.minus(counted),
            declared: self.declared.saturating_sub(counted.day_tokens),
            day: self.day,
            counted: counted.day_tokens,
            sent: counted.day_tokens.saturating_sub(unsent),
        }
    }

    /// Takes over the result of a trade.
    pub(crate) fn take(
        &mut self,
        whole: &Limits,
        claim: &Claim,
        (holding, free): (&Holding, Amounts),
        elsewhere: &Elsewhere,
    ) {
        let day_tokens = claim.counted.saturating_add(free.day_tokens);
        // After a restart the budget also counts what others have admitted. That room is not ours when it is released.
        let others_leave = Amounts::of(whole).minus(elsewhere.held);
        self.up_to = Amounts { day_tokens, ..claim.used.plus(free).min(others_leave) };
        let margin = holding.declared.saturating_sub(claim.used.day_tokens);
        self.declared = claim.counted.saturating_add(margin).min(day_tokens);
        self.day = claim.day;
        self.used_elsewhere = elsewhere.in_database.saturating_sub(claim.sent);
        let day_tokens = elsewhere.held.day_tokens.saturating_add(self.used_elsewhere);
        self.elsewhere = Amounts { day_tokens, ..elsewhere.held };
        self.check();
    }

    /// The others know that this gateway is alive until this uptime. A share that had ended by now may be theirs
    /// already.
    pub(crate) fn extend(&mut self, counted: Amounts, until: Duration, now: Moment) {
        if self.until <= now.uptime {
            *self = Self::of_used(counted, self.calendar, now);
        }
        self.until = until;
    }

    /// Nobody can be told, so all that is held may be used. Returns whether that is more than before.
    pub(crate) fn declare_all(&mut self) -> bool {
        let more = self.declared < self.up_to.day_tokens;
        self.declared = self.up_to.day_tokens;
        more
    }

    /// What is unavailable at the moment, whatever is left here.
    pub(crate) fn elsewhere(&self, now: Moment) -> Amounts {
        if self.is_of(now) { self.elsewhere } else { Amounts { day_tokens: 0, ..self.elsewhere } }
    }

    /// Restates the share's refusal in terms of the whole limit. `counted` and `reserved` are the budget's numbers.
    pub(crate) fn in_whole(
        &self,
        refusal: Exceeded,
        whole: &Limits,
        need: Need,
        (counted, reserved): (Amounts, u64),
        now: Moment,
    ) -> Exceeded {
        let limit = Amounts::of(whole);
        let left = limit.minus(self.elsewhere(now)).minus(counted);
        match refusal {
            Exceeded::Requests { retry_after, .. } => Exceeded::Requests {
                limit: whole.requests_per_minute.unwrap_or_default(),
                retry_after: if counted.requests == 0 { BACK } else { retry_after },
            },
            Exceeded::Concurrency { retry_after, .. } => {
                Exceeded::Concurrency { limit: whole.max_concurrency.unwrap_or_default(), retry_after }
            }
            Exceeded::TooLarge { needed, .. } if needed > limit.minute_tokens => {
                Exceeded::TooLarge { limit: limit.minute_tokens, needed }
            }
            // Too large for this gateway's share, but not for the whole limit: the others may give room back.
            Exceeded::TooLarge { .. } => Exceeded::TokensOfMinute {
                limit: limit.minute_tokens,
                left: left.minute_tokens,
                reserved: 0,
                retry_after: BACK,
            },
            Exceeded::TokensOfMinute { reserved, retry_after, .. } => {
                Exceeded::TokensOfMinute { limit: limit.minute_tokens, left: left.minute_tokens, reserved, retry_after }
            }
            Exceeded::TokensReserved { .. } | Exceeded::TokensUsedUp { .. } => {
                let used_elsewhere = if self.is_of(now) { self.used_elsewhere } else { 0 };
                let used = counted.day_tokens.saturating_sub(reserved).saturating_add(used_elsewhere);
                let (per, limit) = (self.calendar, limit.day_tokens);
                match need.smallest() <= limit.saturating_sub(used) {
                    true => Exceeded::TokensReserved { per, limit, used, left: left.day_tokens, retry_after: BACK },
                    false => Exceeded::TokensUsedUp { per, limit, used, retry_after: per.until_next(now) },
                }
            }
        }
    }

    fn is_of(&self, now: Moment) -> bool {
        self.day == self.calendar.of(now)
    }

    /// Asserts what must hold after every trade.
    fn check(&self) {
        debug_assert!(self.declared <= self.up_to.day_tokens, "only what is held is declared");
    }
}
