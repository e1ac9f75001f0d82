//! Which links with other gateways are open, and how does a frame get onto one?
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cluster::{Candidate, Frame};
use tokio::sync::{mpsc, oneshot};

/// Frames that may wait on a link. One that is further behind is closed, and made anew.
const MOST_FRAMES: usize = 16_384;

/// The open links, by the other gateway's name.
#[derive(Debug, Default)]
pub(super) struct Links {
    open: HashMap<Arc<str>, Open>,
    last: u64,
}

#[derive(Debug)]
struct Open {
    number: u64,
    frames: mpsc::Sender<Frame>,
    /// Of the last round trips, smoothed; `None` before the first.
    round_trip: Option<Duration>,
}

impl Links {
    /// A new link, which replaces an earlier one with the same gateway. Its task sends what it receives, and ends when
    /// the channel is closed.
    pub(super) fn open(&mut self, gateway: Arc<str>) -> (u64, mpsc::Receiver<Frame>) {
        let (frames, sent) = mpsc::channel(MOST_FRAMES);
        self.last += 1;
        self.open.insert(gateway, Open { number: self.last, frames, round_trip: None });
        (self.last, sent)
    }

    /// Whether this link is the one in use with the gateway.
    pub(super) fn is_open(&self, gateway: &str, number: u64) -> bool {
        self.open.get(gateway).is_some_and(|open| open.number == number)
    }

    /// A round trip was measured. The latest counts for a quarter.
    pub(super) fn took(&mut self, gateway: &str, number: u64, time: Duration) {
        if let Some(open) = self.open.get_mut(gateway).filter(|open| open.number == number) {
            open.round_trip = Some(open.round_trip.map_or(time, |before| (before * 3 + time) / 4));
        }
    }

    /// The round trip of the slowest open link; zero without one.
    pub(super) fn slowest(&self) -> Duration {
        self.open.values().filter_map(|open| open.round_trip).max().unwrap_or_default()
    }

    pub(super) fn close(&mut self, gateway: &str) {
        self.open.remove(gateway);
    }

    /// False if the link could not keep up: it is closed then.
    pub(super) fn say(&mut self, gateway: &str, frame: Frame) -> bool {
        let Some(open) = self.open.get(gateway) else { return true };
        let is_sent = open.frames.try_send(frame).is_ok();
        if !is_sent {
            self.open.remove(gateway);
        }
        is_sent
    }
}

/// A question; if nobody can be asked, the sender of its answer is dropped.
#[derive(Debug)]
pub(crate) struct Asking {
    pub(crate) leader: Candidate,
    pub(crate) question: String,
    pub(crate) answer: oneshot::Sender<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_cannot_keep_up_is_closed() {
        let mut links = Links::default();
        let (number, mut frames) = links.open("a".into());
        for _ in 0..MOST_FRAMES {
            assert!(links.say("a", Frame::Heartbeat));
        }
        assert!(links.is_open("a", number));
        assert!(!links.say("a", Frame::Heartbeat));
        assert!(!links.is_open("a", number));
        let mut count = 0;
        while frames.try_recv().is_ok() {
            count += 1;
        }
        assert_eq!(count, MOST_FRAMES);
    }

    #[test]
    fn a_round_trip_is_that_of_the_link_in_use_and_goes_with_it() {
        let mut links = Links::default();
        let (first, _frames) = links.open("a".into());
        links.took("a", first, Duration::from_millis(4));
        links.took("a", first, Duration::from_millis(8));
        assert_eq!(links.slowest(), Duration::from_millis(5));
        let (_second, _frames) = links.open("a".into());
        links.took("a", first, Duration::from_millis(9));
        assert_eq!(links.slowest(), Duration::ZERO);
    }

    #[test]
    fn a_new_link_replaces_the_one_before() {
        let mut links = Links::default();
        let (first, mut frames) = links.open("a".into());
        let (second, _kept) = links.open("a".into());
        assert!(!links.is_open("a", first) && links.is_open("a", second));
        assert_eq!(frames.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
    }
}
