//! What has one user, or one key, used at this gateway, and what may they still? The budget, and the share of limits
//! that other gateways hold, too.
use std::time::Duration;

use super::share::{Most, Share};
use super::{
    Allowance, Amounts, Budget, Claim, Elsewhere, Exceeded, Holding, Limits, Moment, Need, Reservation, Standing,
};

const MINUTE: Duration = Duration::from_secs(60);

/// A budget with its share. Without one the limits are this gateway's alone.
#[derive(Debug, Default)]
pub struct Ledger {
    budget: Budget,
    share: Option<Share>,
    /// Tokens of the day that are not in the database yet.
    unsent: u64,
    unsent_day: i32,
    /// Uptime of the last admission.
    last: Duration,
}

impl Ledger {
    /// Goes on with what was used before.
    pub fn of(budget: Budget, unsent: u64, day: i32) -> Self {
        Self { budget, share: None, unsent, unsent_day: day, last: Duration::ZERO }
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

    /// Admits a request under two ledgers, the user's and the key's.
    ///
    /// # Errors
    /// [`Exceeded`] when a limit of either stands in the way; nothing is taken of any then.
    pub fn admit_both(
        (whole, ledger): (&Limits, &mut Self),
        (own_whole, own): (&Limits, &mut Self),
        need: Need,
        now: Moment,
    ) -> Result<([Reservation; 2], Allowance), Exceeded> {
        let (limits, room) = ledger.room(whole, need, now)?;
        let (own_limits, own_room) = own.room(own_whole, need, now)?;
        let allowance = need.allowance([room, own_room].into_iter().flatten().min());
        for ledger in [&mut *ledger, &mut *own] {
            ledger.last = ledger.last.max(now.uptime);
        }
        let taken = ledger.budget.take(&limits, need, allowance, now);
        Ok(([taken, own.budget.take(&own_limits, need, allowance, now)], allowance))
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

    /// The request ended, having used `tokens` in all.
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

    /// Tokens of a day have come into the database.
    pub fn sent(&mut self, tokens: u64, day: i32) {
        if day == self.unsent_day {
            self.unsent = self.unsent.saturating_sub(tokens);
        }
    }

    /// See [`Budget::cancel`].
    pub fn cancel(&mut self, reservation: Reservation, now: Moment) {
        self.budget.cancel(reservation, now);
    }

    /// What is used and left. What other gateways hold counts as used.
    pub fn standing(&mut self, whole: Limits, now: Moment) -> Standing {
        let mut standing = self.budget.standing(whole, now);
        if let Some(share) = &self.share {
            let elsewhere = share.elsewhere(now);
            let small = |amount: u64| u32::try_from(amount).unwrap_or(u32::MAX);
            standing.running = standing.running.saturating_add(small(elsewhere.running));
            standing.requests_used = standing.requests_used.saturating_add(small(elsewhere.requests));
            standing.minute_tokens = standing.minute_tokens.saturating_add(elsewhere.minute_tokens);
            standing.tokens_used = standing.tokens_used.saturating_add(elsewhere.day_tokens);
        }
        standing
    }

    /// What may be held without using it: a block for one who was here in the last minute.
    pub fn most(&self, whole: &Limits, percent: u64, now: Moment) -> Most {
        match percent > 0 && now.uptime < self.last + MINUTE {
            true => Most::of(whole, percent),
            false => Most::default(),
        }
    }

    /// Whether others have a share, too.
    pub fn is_shared(&self) -> bool {
        self.share.is_some()
    }

    /// From now on others may have a share, too: keeps nothing but what is in use.
    pub fn begin_sharing(&mut self, now: Moment) {
        let counted = self.budget.counted(now);
        self.share.get_or_insert_with(|| Share::of_used(counted, now.day()));
    }

    /// Nobody else has a share any more, nor has used anything that this ledger does not know of.
    pub fn end_sharing(&mut self) {
        self.share = None;
    }

    /// What this gateway asks to keep; what it holds beyond `most` it gives up. `None` where nothing is shared.
    pub fn claim(&mut self, most: Option<&Most>, now: Moment) -> Option<Claim> {
        let counted = self.budget.counted(now);
        let unsent = if self.unsent_day == now.day() { self.unsent } else { 0 };
        let unsent = unsent.saturating_add(self.budget.reserved());
        self.share.as_mut().map(|share| share.claim(counted, unsent, most, now))
    }

    /// Takes up what a trade has brought.
    pub fn take(&mut self, whole: &Limits, claim: &Claim, traded: (&Holding, Amounts), elsewhere: &Elsewhere) {
        if let Some(share) = &mut self.share {
            share.take(whole, claim, traded, elsewhere);
        }
    }

    /// The others know until then that this gateway lives.
    pub fn extend(&mut self, until: Duration, now: Moment) {
        let counted = self.budget.counted(now);
        if let Some(share) = &mut self.share {
            share.extend(counted, until, now);
        }
    }

    /// Nobody can be told of anything: all that is held may be used. False where that is no more than before.
    pub fn declare_all(&mut self) -> bool {
        self.share.as_mut().is_some_and(Share::declare_all)
    }
}
