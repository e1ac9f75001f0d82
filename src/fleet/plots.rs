//! Where are the series of the last hour, and which time does each of their points stand for?
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::series::{Book, INTERVAL, Point, Series};

/// The series of the last hour. Copies share them.
#[derive(Clone, Debug)]
pub struct Plots {
    book: Arc<Mutex<Book>>,
    /// Uptime at which the first interval begins.
    started: Duration,
}

impl Plots {
    /// None yet; the first interval begins at this uptime.
    pub fn new(started: Duration) -> Self {
        Self { book: Arc::default(), started }
    }

    /// The uptime at which an interval ends.
    pub fn end_of(&self, interval: u64) -> Duration {
        self.started + INTERVAL.saturating_mul(u32::try_from(interval).unwrap_or(u32::MAX))
    }

    /// The first interval that ends at this uptime or later.
    pub fn interval_at(&self, uptime: Duration) -> u64 {
        let since_start = uptime.saturating_sub(self.started).as_millis();
        u64::try_from(since_start.div_ceil(INTERVAL.as_millis())).unwrap_or(u64::MAX)
    }

    /// Adds what was seen at this uptime.
    pub(crate) fn push(&self, now: Duration, all: Point, nodes: Vec<(String, Point)>) {
        // To the nearest, as a look may be a little early or late.
        let since_start = now.saturating_sub(self.started) + INTERVAL / 2;
        let interval = u64::try_from(since_start.as_millis() / INTERVAL.as_millis()).unwrap_or(u64::MAX);
        self.book.lock().unwrap_or_else(PoisonError::into_inner).push(interval, all, nodes);
    }

    /// The series of a node, or of all together; `None` for a node that has none.
    pub fn series(&self, node: Option<&str>) -> Option<Series> {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        node.map_or_else(|| Some(book.all.clone()), |node| book.nodes.get(node).cloned())
    }

    /// Tokens a second in the last interval: of all nodes, and of each.
    pub fn tokens_per_second(&self) -> (Option<f32>, BTreeMap<String, f32>) {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let last = |series: &Series| Some(series.last()?.tokens_per_second);
        let nodes = book.nodes.iter().filter_map(|(name, series)| Some((name.clone(), last(series)?)));
        (last(&book.all), nodes.collect())
    }
}
