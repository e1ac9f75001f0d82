//! How much has one user, or one key, used at this gateway, and how much is left? A budget, and this gateway's share of
//! the limits if several gateways divide them.
use std::time::Duration;

use super::amounts::Amounts;
use super::budget::{Budget, Reservation};
use super::exceeded::Exceeded;
use super::headroom::Balance;
use super::limit::Limits;
use super::share::{Claim, Elsewhere, Holding, Most, Share};
use crate::amounts::{Allowance, Need};
use crate::calendar::Moment;

const MINUTE: Duration = Duration::from_secs(60);

/// A budget and its share of the limits. Without a share, this gateway has the whole limits to itself.
#[derive(Debug, Default)]
pub struct Ledger {
    budget: Budget,
    share: Option<Share>,
    /// The day's tokens that are not in the database yet.
    unsent: u64,
    unsent_day: i32,
    /// Uptime of the last admission.
    last: Duration,
}

impl Ledger {
    /// Continues from a budget; `unsent` of its day's tokens are not in the database yet.
    pub fn of(budget: Budget, unsent: u64, now: Moment) -> Self {
        let unsent_day = budget.calendar().of(now);
        Self { budget, share: None, unsent, unsent_day, last: Duration::ZERO }
    }

    /// Admits a request. See [`Budget::admit`].
    ///
    /// # Errors
    /// [`Exceeded`], in terms of the whole limits.
    pub fn admit(&mut self, whole: &Limits, need: Need, now: Moment) -> Result<(Reservation, Allowance), Exceeded> {
        let (limits, room) = self.room(whole, need, now)?;
        let allowance = need.allowance(room);
        self.last = self.last.max(now.uptime);
        Ok((self.budget.take(&limits, need, allowance, now), allowance))
    }

    /// Admits a request under several ledgers, with the limits of each; all of them admit, or none.
    ///
    /// # Errors
    /// [`Exceeded`] and the place of the first whose limit stands in the way; nothing is taken from any then.
    pub fn admit_all(
        ledgers: &mut [(&Limits, &mut Self)],
        need: Need,
        now: Moment,
    ) -> Result<(Vec<Reservation>, Allowance), (usize, Exceeded)> {
        let mut found = Vec::with_capacity(ledgers.len());
        for (place, (whole, ledger)) in ledgers.iter_mut().enumerate() {
            found.push(ledger.room(whole, need, now).map_err(|exceeded| (place, exceeded))?);
        }
        let allowance = need.allowance(found.iter().filter_map(|(_, room)| *room).min());
        let taken = ledgers.iter_mut().zip(&found).map(|((_, ledger), (limits, _))| {
            ledger.last = ledger.last.max(now.uptime);
            ledger.budget.take(limits, need, allowance, now)
        });
        Ok((taken.collect(), allowance))
    }

    fn room(&mut self, whole: &Limits, need: Need, now: Moment) -> Result<(Limits, Option<u64>), Exceeded> {
        let Some(share) = &self.share else {
            return Ok((*whole, self.budget.room(whole, need, now)?));
        };
        let limits = share.within(whole, now);
        match self.budget.room(&limits, need, now) {
            Ok(room) => Ok((limits, room)),
            Err(refusal) => {
                let counted = self.budget.counted(now);
                Err(share.in_whole(refusal, whole, need, (counted, self.budget.reserved()), now))
            }
        }
    }

    /// The request ended and used `tokens` in total.
    pub fn settle(&mut self, reservation: Reservation, tokens: u64, now: Moment) {
        let day = reservation.day();
        self.budget.settle(reservation, tokens, now);
        if day > self.unsent_day {
            (self.unsent, self.unsent_day) = (0, day);
        }
        if day == self.unsent_day {
            self.unsent = self.unsent.saturating_add(tokens);
        }
    }

    /// See [`Budget::prepare_day`].
    pub fn prepare_day(&mut self, day: i32, tokens: u64) {
        self.budget.prepare_day(day, tokens);
    }

    /// Tokens of a day have reached the database.
    pub fn sent(&mut self, tokens: u64, day: i32) {
        if self.budget.calendar().of_day(day) == self.unsent_day {
            self.unsent = self.unsent.saturating_sub(tokens);
        }
    }

    /// See [`Budget::cancel`].
    pub fn cancel(&mut self, reservation: Reservation, now: Moment) {
        self.budget.cancel(reservation, now);
    }

    /// What is used and what is left. What other gateways hold counts as used.
    pub fn balance(&mut self, whole: Limits, now: Moment) -> Balance {
        let mut balance = self.budget.balance(whole, now);
        if let Some(share) = &self.share {
            let elsewhere = share.elsewhere(now);
            let small = |amount: u64| u32::try_from(amount).unwrap_or(u32::MAX);
            balance.running = balance.running.saturating_add(small(elsewhere.running));
            balance.requests_used = balance.requests_used.saturating_add(small(elsewhere.requests));
            balance.minute_tokens = balance.minute_tokens.saturating_add(elsewhere.minute_tokens);
            balance.tokens_used = balance.tokens_used.saturating_add(elsewhere.day_tokens);
        }
        balance
    }

    /// What may be held in reserve: a block if there was an admission in the last minute, otherwise nothing.
    pub fn most(&self, whole: &Limits, percent: u64, now: Moment) -> Most {
        match percent > 0 && now.uptime < self.last + MINUTE {
            true => Most::of(whole, percent),
            false => Most::default(),
        }
    }

    /// Whether other gateways may have a share as well.
    pub fn is_shared(&self) -> bool {
        self.share.is_some()
    }

    /// From now on other gateways may have a share as well: keeps only what is in use.
    pub fn begin_sharing(&mut self, now: Moment) {
        let (counted, calendar) = (self.budget.counted(now), self.budget.calendar());
        self.share.get_or_insert_with(|| Share::of_used(counted, calendar, now));
    }

    /// No other gateway has a share any more, or has used anything that this ledger does not know about.
    pub fn end_sharing(&mut self) {
        self.share = None;
    }

    /// What this gateway asks to keep; it gives up what it holds beyond `most`. `None` if nothing is shared.
    pub fn claim(&mut self, most: Option<&Most>, now: Moment) -> Option<Claim> {
        let counted = self.budget.counted(now);
        let unsent = if self.unsent_day == self.budget.calendar().of(now) { self.unsent } else { 0 };
        let unsent = unsent.saturating_add(self.budget.reserved());
        self.share.as_mut().map(|share| share.claim(counted, unsent, most, now))
    }

    /// Takes over the result of a [`trade`](super::trade).
    pub fn take(&mut self, whole: &Limits, claim: &Claim, traded: (&Holding, Amounts), elsewhere: &Elsewhere) {
        if let Some(share) = &mut self.share {
            share.take(whole, claim, traded, elsewhere);
        }
    }

    /// The other gateways know that this one is alive until this uptime.
    pub fn extend(&mut self, until: Duration, now: Moment) {
        let counted = self.budget.counted(now);
        if let Some(share) = &mut self.share {
            share.extend(counted, until, now);
        }
    }

    /// The database is away, so nothing can be declared: all that is held may be used. Returns whether that is more
    /// than before.
    pub fn declare_all(&mut self) -> bool {
        self.share.as_mut().is_some_and(Share::declare_all)
    }
}
