//! Which users have used a model recently?

use std::{collections::VecDeque, time::Duration};

use super::lane::LaneId;
use crate::{ids::Time, lookup::Lookup};

/// How long a use counts.
const ACTIVE: Duration = Duration::from_secs(60);

/// The users of one model. Each use is noted, so that must be cheap; who they are is hardly ever asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Users {
    /// When each last used it.
    seen: Lookup<LaneId, Time>,
    /// Each of them once, by a use that need not be the last.
    by_time: VecDeque<(Time, LaneId)>,
}

impl Users {
    pub(super) fn note(&mut self, lane: LaneId, now: Time) {
        if self.seen.insert(lane, now).is_none() {
            self.by_time.push_back((now, lane));
        }
        while let Some((_, lane)) = self.by_time.pop_front_if(|(seen, _)| *seen + ACTIVE < now) {
            if self.seen.get(&lane).is_some_and(|last| *last + ACTIVE >= now) {
                self.by_time.push_back((now, lane));
            } else {
                self.seen.remove(&lane);
            }
        }
    }

    /// The recent users, in no order that means anything.
    pub(super) fn recent(&self, now: Time) -> impl Iterator<Item = LaneId> {
        let is_recent = move |seen: &Time| *seen + ACTIVE >= now;
        let lanes = self.by_time.iter().rev().map(|(_, lane)| *lane);
        lanes.filter(move |lane| self.seen.get(lane).is_some_and(is_recent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_secs(seconds)
    }

    fn recent(users: &Users, now: u64) -> Vec<LaneId> {
        let mut recent: Vec<LaneId> = users.recent(at(now)).collect();
        recent.sort_unstable();
        recent
    }

    #[test]
    fn a_use_counts_for_a_minute_and_each_user_is_kept_once() {
        let mut users = Users::default();
        let (one, two) = (LaneId(1), LaneId(2));
        users.note(one, at(0));
        users.note(two, at(10));
        users.note(one, at(30));
        assert_eq!(recent(&users, 70), [one, two]);
        assert_eq!(recent(&users, 71), [one]);
        users.note(two, at(75));
        assert_eq!(recent(&users, 90), [one, two]);
        assert_eq!(recent(&users, 91), [two]);
        assert_eq!((users.seen.len(), users.by_time.len()), (2, 2));
        users.note(two, at(300));
        users.note(two, at(301));
        assert_eq!((users.seen.len(), users.by_time.len()), (1, 1), "nobody else is remembered");
    }
}
