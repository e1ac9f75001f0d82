//! What was going on in the last hour? A point each five seconds, in memory, for each node and for all together.
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::metrics::Beat;

/// Between two points.
pub const INTERVAL: Duration = Duration::from_secs(5);
/// An hour of points.
const POINTS: usize = 720;
/// Nodes that have points of their own; 17 kB each.
const NODES: usize = 1_000;

/// What was going on in one interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Requests on nodes at its end.
    pub running: f32,
    /// Requests waiting at its end.
    pub waiting: f32,
    /// Tokens of answers.
    pub tokens_per_second: f32,
    /// Requests that ended; of a node, attempts.
    pub requests_per_minute: f32,
    /// Of those, the ones that failed through no fault of the client.
    pub errors_per_minute: f32,
    /// What answers took to begin, on average; not a number where none began.
    pub first_token_ms: f32,
}

/// Of a moment nobody looked at.
const UNSEEN: Point = Point {
    running: f32::NAN,
    waiting: f32::NAN,
    tokens_per_second: f32::NAN,
    requests_per_minute: f32::NAN,
    errors_per_minute: f32::NAN,
    first_token_ms: f32::NAN,
};

impl Point {
    /// What happened between two looks at the counters, `elapsed` apart.
    pub fn between(before: Beat, after: Beat, elapsed: Duration, (running, waiting): (usize, usize)) -> Self {
        let seconds = elapsed.as_secs_f32().max(0.001);
        let more = |before: u64, after: u64| after.saturating_sub(before) as f32;
        let began = more(before.first_tokens, after.first_tokens);
        Self {
            running: running as f32,
            waiting: waiting as f32,
            tokens_per_second: more(before.tokens, after.tokens) / seconds,
            requests_per_minute: more(before.ended, after.ended) * 60.0 / seconds,
            errors_per_minute: more(before.failed, after.failed) * 60.0 / seconds,
            // Not a number where none began.
            first_token_ms: more(before.first_token_ms, after.first_token_ms) / began,
        }
    }
}

/// The points of the last hour, one an interval without gaps.
#[derive(Clone, Debug, Default)]
pub struct Series {
    points: VecDeque<Point>,
    /// The interval of the last point, counted from the start of the clock.
    last: u64,
}

impl Series {
    /// Adds the point of an interval, which is later than those before.
    fn push(&mut self, interval: u64, point: Point) {
        let interval = if self.points.is_empty() { interval } else { interval.max(self.last + 1) };
        if !self.points.is_empty() {
            let missed = interval.saturating_sub(self.last).saturating_sub(1);
            for _ in 0..missed.min(POINTS as u64) {
                self.add(UNSEEN);
            }
        }
        self.add(point);
        self.last = interval;
    }

    fn add(&mut self, point: Point) {
        if self.points.len() == POINTS {
            self.points.pop_front();
        }
        self.points.push_back(point);
    }

    /// The points of this interval and later ones, and the interval of the first.
    pub fn since(&self, interval: u64) -> (u64, impl Iterator<Item = &Point>) {
        let first = (self.last + 1).saturating_sub(self.points.len() as u64);
        let skipped = interval.saturating_sub(first).min(self.points.len() as u64);
        (first + skipped, self.points.iter().skip(usize::try_from(skipped).unwrap_or(usize::MAX)))
    }

    /// The last point.
    pub fn last(&self) -> Option<&Point> {
        self.points.back()
    }
}

/// All series.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) all: Series,
    pub(crate) nodes: BTreeMap<String, Series>,
}

impl Book {
    /// Adds the points of an interval; nodes that have none any more are forgotten.
    pub(crate) fn push(&mut self, interval: u64, all: Point, nodes: Vec<(String, Point)>) {
        self.all.push(interval, all);
        let present: BTreeSet<&str> = nodes.iter().map(|(name, _)| name.as_str()).collect();
        self.nodes.retain(|name, _| present.contains(name.as_str()));
        for (name, point) in nodes {
            if self.nodes.len() < NODES || self.nodes.contains_key(&name) {
                self.nodes.entry(name).or_default().push(interval, point);
            }
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn point(running: f32) -> Point {
        Point { running, ..UNSEEN }
    }

    fn running(series: &Series, from: u64) -> (u64, Vec<Option<f32>>) {
        let (first, points) = series.since(from);
        (first, points.map(|point| Some(point.running).filter(|running| !running.is_nan())).collect())
    }

    #[test]
    fn counters_become_rates() {
        let before = Beat { tokens: 100, first_tokens: 1, first_token_ms: 900, ended: 4, failed: 1 };
        let after = Beat { tokens: 350, first_tokens: 3, first_token_ms: 1500, ended: 9, failed: 2 };
        let point = Point::between(before, after, Duration::from_secs(5), (2, 7));
        assert_eq!((point.running, point.waiting, point.tokens_per_second), (2.0, 7.0, 50.0));
        assert_eq!((point.requests_per_minute, point.errors_per_minute, point.first_token_ms), (60.0, 12.0, 300.0));
        let idle = Point::between(after, after, Duration::from_secs(5), (0, 0));
        assert!(idle.first_token_ms.is_nan() && idle.tokens_per_second == 0.0);
        let restarted = Point::between(after, before, Duration::ZERO, (0, 0));
        assert_eq!((restarted.tokens_per_second, restarted.requests_per_minute), (0.0, 0.0));
    }

    #[test]
    fn an_hour_is_kept_and_what_was_missed_is_a_gap() {
        let mut series = Series::default();
        assert_eq!(running(&series, 0), (1, vec![]));
        series.push(10, point(1.0));
        series.push(13, point(2.0));
        assert_eq!(running(&series, 0), (10, vec![Some(1.0), None, None, Some(2.0)]));
        assert_eq!(running(&series, 12), (12, vec![None, Some(2.0)]));
        assert_eq!(running(&series, 99), (14, vec![]));
        for interval in 14..14 + POINTS as u64 {
            series.push(interval, point(3.0));
        }
        assert_eq!((series.points.len(), running(&series, 0).0), (POINTS, 14));
        series.push(1_000_000, point(4.0));
        let (first, points) = running(&series, 0);
        assert_eq!((first, points.len(), points[0], points[POINTS - 1]), (999_281, POINTS, None, Some(4.0)));
    }

    #[test]
    fn nodes_that_left_are_forgotten_and_there_are_no_more_than_so_many() {
        let mut book = Book::default();
        let names = |from: usize, to: usize| (from..to).map(|number| (format!("n{number:04}"), point(1.0))).collect();
        book.push(1, point(0.0), names(0, NODES + 5));
        assert_eq!(book.nodes.len(), NODES);
        book.push(2, point(0.0), names(0, 2));
        assert_eq!(book.nodes.keys().map(String::as_str).collect::<Vec<_>>(), ["n0000", "n0001"]);
    }
}
