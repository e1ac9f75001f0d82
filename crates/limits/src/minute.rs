//! How many tokens do the admissions of the last minute hold? Counted in slices of a tenth of a second, which bounds the memory,
//! and summed up as they change: every request asks, and a busy user has 601 slices.
use std::collections::VecDeque;
use std::time::Duration;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
const SLICE_MS: u128 = 100;

/// The tokens of the last minute's admissions.
#[derive(Debug, Default)]
pub(crate) struct MinuteTokens {
    /// Oldest first.
    slices: VecDeque<Slice>,
    /// Over all slices; wide enough for the largest claims of all of them.
    used: u128,
    reserved: u128,
}

/// The tokens of all admissions within one tenth of a second.
#[derive(Clone, Copy, Debug)]
struct Slice {
    number: u64,
    /// Uptime of the last admission in it.
    last: Duration,
    used: u64,
    reserved: u64,
}

fn slice_of(uptime: Duration) -> u64 {
    u64::try_from(uptime.as_millis() / SLICE_MS).unwrap_or(u64::MAX)
}

fn bounded(tokens: u128) -> u64 {
    u64::try_from(tokens).unwrap_or(u64::MAX)
}

impl MinuteTokens {
    /// Used and reserved.
    pub(crate) fn tokens(&self) -> u64 {
        bounded(self.used + self.reserved)
    }

    /// The part that is only reserved.
    pub(crate) fn reserved(&self) -> u64 {
        bounded(self.reserved)
    }

    /// Uptime of the last admission in the oldest slice, which is the first to leave.
    pub(crate) fn oldest(&self) -> Option<Duration> {
        self.slices.front().map(|slice| slice.last)
    }

    /// Drops what is older than a minute.
    pub(crate) fn advance(&mut self, uptime: Duration) {
        while let Some(slice) = self.slices.pop_front_if(|slice| slice.last + MINUTE <= uptime) {
            self.used -= u128::from(slice.used);
            self.reserved -= u128::from(slice.reserved);
        }
    }

    /// Counts tokens of an admission. Admissions come in order of time.
    pub(crate) fn admit(&mut self, uptime: Duration, used: u64, reserved: u64) {
        let number = slice_of(uptime);
        if self.slices.back().is_none_or(|slice| slice.number != number) {
            self.slices.push_back(Slice { number, last: uptime, used: 0, reserved: 0 });
        }
        if let Some(slice) = self.slices.back_mut() {
            slice.last = slice.last.max(uptime);
        }
        self.change(self.slices.len() - 1, |slice| {
            slice.used = slice.used.saturating_add(used);
            slice.reserved = slice.reserved.saturating_add(reserved);
        });
    }

    /// What an admission has reserved gives way to what it has used, unless its slice has left.
    pub(crate) fn settle(&mut self, admitted_at: Duration, reserved: u64, used: u64) {
        if let Ok(index) = self.slices.binary_search_by_key(&slice_of(admitted_at), |slice| slice.number) {
            self.change(index, |slice| {
                slice.reserved = slice.reserved.saturating_sub(reserved);
                slice.used = slice.used.saturating_add(used);
            });
        }
    }

    /// Until so many tokens have left that the rest is at most `most`, if that many are here.
    pub(crate) fn until_at_most(&self, most: u64, uptime: Duration) -> Option<Duration> {
        let mut left = self.used + self.reserved;
        let enough = self.slices.iter().find(|slice| {
            left -= u128::from(slice.used) + u128::from(slice.reserved);
            left <= u128::from(most)
        });
        enough.map(|slice| (slice.last + MINUTE).saturating_sub(uptime))
    }

    fn change(&mut self, index: usize, change: impl FnOnce(&mut Slice)) {
        let Some(slice) = self.slices.get_mut(index) else { return };
        let before = *slice;
        change(slice);
        self.used = self.used - u128::from(before.used) + u128::from(slice.used);
        self.reserved = self.reserved - u128::from(before.reserved) + u128::from(slice.reserved);
    }

    /// Asserts what must hold after every step. Only the newest slices are compared; older ones were compared when they came.
    pub(crate) fn check(&self) {
        let newest = self.slices.range(self.slices.len().saturating_sub(2)..);
        debug_assert!(newest.is_sorted_by(|a, b| a.number < b.number), "slices are in the order of time");
        if cfg!(test) {
            let sums = self.slices.iter().fold((0, 0), |(used, reserved), slice| {
                (used + u128::from(slice.used), reserved + u128::from(slice.reserved))
            });
            debug_assert_eq!(sums, (self.used, self.reserved), "the sums are those of the slices");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_the_largest_claims_are_summed_up_and_leave_again() {
        let mut minute = MinuteTokens::default();
        let at = |ms: u64| Duration::from_secs(100) + Duration::from_millis(ms);
        for ms in (0..60_000).step_by(100) {
            minute.admit(at(ms), u64::MAX, u64::MAX);
            minute.admit(at(ms + 1), 1, 1);
        }
        assert_eq!((minute.tokens(), minute.reserved(), minute.slices.len()), (u64::MAX, u64::MAX, 600));
        minute.settle(at(500), u64::MAX, u64::MAX);
        minute.settle(at(90_000), 1, 1);
        minute.check();
        minute.advance(at(119_000));
        minute.check();
        assert_eq!(minute.slices.len(), 10);
        assert_eq!(minute.until_at_most(0, at(119_000)), Some(Duration::from_millis(901)));
        minute.advance(at(119_901));
        minute.check();
        assert_eq!((minute.tokens(), minute.reserved(), minute.oldest()), (0, 0, None));
        assert_eq!(minute.until_at_most(0, at(119_901)), None);
    }
}
