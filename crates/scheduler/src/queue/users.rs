//! Which users have used a model recently?

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::lane::LaneId;
use crate::ids::Time;

/// How long a use counts.
const ACTIVE: Duration = Duration::from_secs(60);

/// The users of one model, by their last use.
#[derive(Clone, Debug, Default)]
pub(super) struct Users {
    seen: BTreeMap<LaneId, Time>,
    by_time: BTreeSet<(Time, LaneId)>,
}

impl Users {
    pub(super) fn note(&mut self, lane: LaneId, now: Time) {
        if let Some(before) = self.seen.insert(lane, now) {
            self.by_time.remove(&(before, lane));
        }
        self.by_time.insert((now, lane));
        while let Some((seen, lane)) = self.by_time.first().copied().filter(|(seen, _)| *seen + ACTIVE < now) {
            self.by_time.remove(&(seen, lane));
            self.seen.remove(&lane);
        }
    }

    /// The recent users, the latest first.
    pub(super) fn recent(&self, now: Time) -> impl Iterator<Item = LaneId> {
        let recent = self.by_time.iter().rev().take_while(move |(seen, _)| *seen + ACTIVE >= now);
        recent.map(|(_, lane)| *lane)
    }
}
