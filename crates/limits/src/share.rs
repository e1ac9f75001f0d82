//! What may one of several gateways use of limits that hold for all of them together?
//!
//! Each gateway has a [`Share`] of each limit, and admits within it; together the shares are never more than the limit.
//! What a gateway wants beyond its share it asks for, and gets as far as the others leave it:
//!
//! * What is *used* here counts as this gateway's anyway: admissions of the minute, tokens of the minute, running
//!   requests, and tokens of the day that are not in the database yet. Those that are count for everybody alike.
//! * Besides, it holds what is *free*: up to a block, so that few requests have to ask. A share grows only once the others
//!   can see it, and shrinks here before they can, so that at no moment two may use the same.
//! * Of the day's free tokens only a margin is *declared*: so much may be used without saying so. If the gateway dies, all
//!   but what it has declared goes back to the others, and it has used no more. Where the database is away nothing can be
//!   declared, and all that is free may be used.
//! * A share ends when the others could not be told for long that its gateway lives, see [`Peer`].
use std::time::Duration;

use super::{Amounts, Exceeded, Limits, Moment, Need};

/// When to come back for what other gateways hold and may give back.
const BACK: Duration = Duration::from_secs(2);
const MINUTE: Duration = Duration::from_secs(60);
/// Part of a limit that a gateway may use without having said so.
const MARGIN_PERCENT: u64 = 1;

/// This gateway's part of the limits of one user or key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// What may be in use here; tokens of the day as the budget counts them.
    up_to: Amounts,
    /// Tokens of the day that the others know of, likewise.
    declared: u64,
    /// The day of these tokens.
    day: i32,
    /// What is not to be had at the moment: others hold it, or have used it.
    elsewhere: Amounts,
    /// Tokens of the day that others have used for certain.
    used_elsewhere: u64,
    /// Uptime at which the share ends.
    until: Duration,
}

/// What is used here, and may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Used; of the day's tokens what is not in the database.
    pub used: Amounts,
    /// Held besides.
    pub free: Amounts,
    /// Of the day's free tokens what is declared.
    declared: u64,
    /// The day of the tokens.
    pub day: i32,
    /// Tokens of the day, used and reserved, as the budget counts them.
    counted: u64,
    /// Of these, what is in the database.
    sent: u64,
}

/// What others have of a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Elsewhere {
    /// Held by other gateways.
    pub held: Amounts,
    /// Tokens of the day that are in the database, whoever used them.
    pub in_database: u64,
}

/// What a gateway is to hold from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// All that the others must leave alone: what is used and what is free.
    pub held: Amounts,
    /// Of the day's tokens what stays taken if this gateway dies.
    pub declared: u64,
    /// The day of the tokens.
    pub day: i32,
}

/// Another gateway, as the database has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Since it last said that it lives.
    pub silent: Duration,
    /// How long it may be silent.
    pub patience: Duration,
    /// Whether it has said that it ends.
    pub left: bool,
}

impl Peer {
    /// Whether its shares have ended. Somebody who was silent for as long may have been cut off with it, and cannot tell.
    pub fn is_gone(&self, watched: Duration) -> bool {
        self.left || (self.silent > self.patience && watched > self.patience)
    }

    /// What of a holding others must still leave alone on `day`.
    pub fn keeps(&self, holding: &Holding, watched: Duration, day: i32) -> Amounts {
        let is_today = |tokens| if holding.day == day { tokens } else { 0 };
        if !self.is_gone(watched) {
            return Amounts { day_tokens: is_today(holding.held.day_tokens), ..holding.held };
        }
        // Admissions count for a minute, also those of one that died since.
        let last_admission = if self.left { Duration::ZERO } else { self.patience };
        let minute = if self.silent <= last_admission + MINUTE { holding.held } else { Amounts::default() };
        Amounts { running: 0, day_tokens: is_today(holding.declared), ..minute }
    }
}

/// What a gateway may hold without using it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Most {
    /// A block of each limit.
    pub free: Amounts,
    /// Of the day's tokens what may be used without having said so.
    undeclared: u64,
}

impl Most {
    /// So many hundredths of each limit, but at least one.
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

/// What a gateway gets that would like to have a block free, and as much as a request needs; or keeps, where there is no
/// more. And what of it is free from now on.
pub fn trade(
    limits: &Limits,
    claim: &Claim,
    block: Amounts,
    need: Amounts,
    elsewhere: &Elsewhere,
) -> (Holding, Amounts) {
    let left = Amounts::of(limits).minus(elsewhere.taken()).minus(claim.used);
    // What is held is not given up here: a request may be using it at this moment.
    let held = claim.free.max(block.max(need).min(left));
    let margin = margin(limits).max(need.day_tokens).min(held.day_tokens).max(claim.declared);
    let declared = claim.used.day_tokens.saturating_add(margin);
    // Where a limit has become smaller, or more was used than could be known, it is given up from now on.
    (Holding { held: claim.used.plus(held), declared, day: claim.day }, held.min(left))
}

/// Tokens of the day that a gateway may use without having said so.
fn margin(limits: &Limits) -> u64 {
    limits.tokens_per_day.unwrap_or(0).div_ceil(100).saturating_mul(MARGIN_PERCENT)
}

impl Claim {
    /// What it comes to if it is all that is to be had.
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
    /// Nothing but what is in use.
    pub(crate) fn of_used(counted: Amounts, day: i32) -> Self {
        let declared = counted.day_tokens;
        let (elsewhere, used_elsewhere, until) = (Amounts::default(), 0, Duration::ZERO);
        Self { up_to: counted, declared, day, elsewhere, used_elsewhere, until }
    }

    /// The limits to admit by.
    pub(crate) fn within(&self, whole: &Limits, now: Moment) -> Limits {
        let day_tokens = if self.day == now.day() { self.declared } else { 0 };
        let share = match now.uptime < self.until {
            true => Amounts { day_tokens, ..self.up_to },
            false => Amounts::default(),
        };
        share.within(whole)
    }

    /// What is used and held. `counted` is what the budget counts, `unsent` what of the day is not in the database. What
    /// is free beyond `most` is given up.
    pub(crate) fn claim(&mut self, counted: Amounts, unsent: u64, most: Option<&Most>, now: Moment) -> Claim {
        if self.day != now.day() {
            let day_tokens = counted.day_tokens;
            self.up_to.day_tokens = day_tokens;
            (self.declared, self.day, self.used_elsewhere) = (day_tokens, now.day(), 0);
        }
        if let Some(most) = most {
            self.up_to = self.up_to.min(counted.plus(most.free));
            self.declared = self.declared.min(counted.day_tokens.saturating_add(most.undeclared));
        }
        self.declared = self.declared.min(self.up_to.day_tokens);
        Claim {
            used: Amounts { day_tokens: unsent, ..counted },
            free: self.up_to.minus(counted),
            declared: self.declared.saturating_sub(counted.day_tokens),
            day: self.day,
            counted: counted.day_tokens,
            sent: counted.day_tokens.saturating_sub(unsent),
        }
    }

    /// Takes up what a trade has brought.
    pub(crate) fn take(
        &mut self,
        whole: &Limits,
        claim: &Claim,
        (holding, free): (&Holding, Amounts),
        elsewhere: &Elsewhere,
    ) {
        let day_tokens = claim.counted.saturating_add(free.day_tokens);
        // After a restart the budget counts what others have admitted, too, and that room is not ours when it comes free.
        let others_leave = Amounts::of(whole).minus(elsewhere.held);
        self.up_to = Amounts { day_tokens, ..claim.used.plus(free).min(others_leave) };
        let margin = holding.declared.saturating_sub(claim.used.day_tokens);
        self.declared = claim.counted.saturating_add(margin).min(day_tokens);
        self.day = claim.day;
        self.used_elsewhere = elsewhere.in_database.saturating_sub(claim.sent);
        let day_tokens = elsewhere.held.day_tokens.saturating_add(self.used_elsewhere);
        self.elsewhere = Amounts { day_tokens, ..elsewhere.held };
    }

    /// The others know until then that this gateway lives. What had ended by now, they may have.
    pub(crate) fn extend(&mut self, counted: Amounts, until: Duration, now: Moment) {
        if self.until <= now.uptime {
            *self = Self::of_used(counted, now.day());
        }
        self.until = until;
    }

    /// Nobody can be told: all that is held may be used. False where that is no more than before.
    pub(crate) fn declare_all(&mut self) -> bool {
        let more = self.declared < self.up_to.day_tokens;
        self.declared = self.up_to.day_tokens;
        more
    }

    /// What is not to be had at the moment, whatever is left here.
    pub(crate) fn elsewhere(&self, now: Moment) -> Amounts {
        if self.day == now.day() { self.elsewhere } else { Amounts { day_tokens: 0, ..self.elsewhere } }
    }

    /// A refusal by the share in the words of the limit. What is counted and reserved here are the budget's numbers.
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
            Exceeded::TooLarge { .. } => {
                Exceeded::TokensOfMinute { limit: limit.minute_tokens, left: left.minute_tokens, retry_after: BACK }
            }
            Exceeded::TokensOfMinute { retry_after, .. } => {
                Exceeded::TokensOfMinute { limit: limit.minute_tokens, left: left.minute_tokens, retry_after }
            }
            Exceeded::TokensReserved { .. } | Exceeded::TokensUsedUp { .. } => {
                let used_elsewhere = if self.day == now.day() { self.used_elsewhere } else { 0 };
                let used = counted.day_tokens.saturating_sub(reserved).saturating_add(used_elsewhere);
                let limit = limit.day_tokens;
                match need.smallest() <= limit.saturating_sub(used) {
                    true => Exceeded::TokensReserved { limit, left: left.day_tokens, retry_after: BACK },
                    false => Exceeded::TokensUsedUp { limit, used, retry_after: now.until_midnight() },
                }
            }
        }
    }
}
