//! Which ends of requests has a follower not told its leader yet?

use std::{sync::Arc, time::Duration};

use scheduler::Time;

use crate::frame::Frame;

/// A leader that was heard so recently is awake. Its answers and heartbeats come more often than that where requests
/// wait; elsewhere, an end waits for one round trip.
const AWAKE: Duration = Duration::from_millis(20);

/// The end of a request that its leader has not been told.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) frame: Frame,
    pub(crate) node: Arc<str>,
    pub(crate) model: Arc<str>,
}

/// A follower's ends of requests that wait for a sign of life of the leader. Each of them has a slot, so there are no
/// more of them than slots.
#[derive(Clone, Debug, Default)]
pub(crate) struct Releases {
    heard_at: Time,
    pub(crate) kept: Vec<Kept>,
    /// Whether the leader is known to have read this gateway's report.
    pub(crate) is_reported: bool,
}

impl Releases {
    /// A link stands, on which nothing was kept back yet.
    pub(crate) fn begin(&mut self, now: Time) {
        *self = Self { heard_at: now, kept: Vec::new(), is_reported: false };
    }

    pub(crate) fn is_awake(&self, now: Time) -> bool {
        now <= self.heard_at + AWAKE
    }

    /// The leader was heard; returns what it can be told now.
    pub(crate) fn heard(&mut self, now: Time) -> Vec<Kept> {
        self.heard_at = now;
        self.take()
    }

    pub(crate) fn take(&mut self) -> Vec<Kept> {
        std::mem::take(&mut self.kept)
    }
}
