//! What shows how many requests of a model are at work on a node at once?
//!
//! | request | at work from | to |
//! |---|---|---|
//! | stream | before its first token, a part of the time that its prompt takes at the fastest pace seen | its end |
//! | plain, if the node says how long it worked | that long before its end | its end |
//! | other plain | a part of the time that its work takes at the fastest pace seen, before its end | its end |
//!
//! All three begin late rather than early, and the last part of each is left out, as the gateway may hear of an end
//! late. Two requests that the node took one after the other, in whatever order, thus never seem to be at work at once.

use std::collections::VecDeque;

use crate::{estimate::PREFILL_RATIO, ids::RequestId, running::Running};

/// Nobody runs more requests of one model than this on one card.
pub(super) const MOST_SLOTS: u32 = 32;
/// Spans and ends that are remembered: enough for the most slots.
const MOST_SPANS: usize = 64;
/// The share of the time at the fastest pace seen that a request is taken to need at least.
const SURE: f64 = 0.6;
/// The fastest pace is known once so many were seen.
const PACES: u32 = 8;
/// The fastest pace becomes slower by this factor with each slower one, as the node may have become slower.
const FORGETTING: f64 = 1.003;
/// Probes in a row, each as soon as it is possible, before they become rarer.
const EAGER_PROBES: u32 = 12;
/// Requests between two probes, at most.
const RAREST_PROBE: u32 = 64;
/// So many requests in a row that began only when another one had ended show that the number is too high.
const LATE_IN_A_ROW: u32 = 8;
/// A shorter wait may have any cause, in seconds.
const LEAST_WAIT: f64 = 0.02;
/// The gateway hears of an end at most so much later than it happened, in seconds.
const HEARD_WITHIN: f64 = 0.05;
/// The most of the work that is left out for that.
const LEFT_OUT: f64 = 0.25;

/// What was seen of the requests of a model on a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Evidence {
    /// The latest times of work, by their ends.
    spans: VecDeque<Span>,
    /// When the latest requests ended, in seconds.
    ends: VecDeque<f64>,
    /// The most requests that were at work at once since the last [`Evidence::conclude`].
    at_once: u32,
    /// A request sent beyond the number.
    probe: Option<RequestId>,
    /// Probes in a row that showed nothing.
    vain_probes: u32,
    /// Requests sent since the last probe.
    since_probe: u32,
    /// Until when more ran than the number, in seconds.
    crowded_until: f64,
    /// Requests that waited for another one's end, since as many as the number were last seen at work.
    late: u32,
    /// Seconds from dispatch to the first token of a stream, for each token of the prompt.
    reading: Fastest,
    /// Seconds from dispatch to the end of a plain answer, for each token.
    working: Fastest,
}

/// A time in which a request was certainly at work, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Span {
    from: f64,
    to: f64,
}

/// The fastest pace seen, in seconds a token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Fastest {
    pace: f64,
    seen: u32,
}

impl Fastest {
    fn observe(&mut self, seconds: f64, tokens: f64) {
        let pace = seconds / tokens.max(1.0);
        self.pace = if self.seen == 0 { pace } else { (self.pace * FORGETTING).min(pace) };
        self.seen = self.seen.saturating_add(1);
    }

    /// The time that so many tokens surely take.
    fn least(&self, tokens: f64) -> Option<f64> {
        (self.seen >= PACES).then_some(SURE * self.pace * tokens)
    }
}

impl Evidence {
    /// A probe shows something only beside requests whose work can be told from their waiting.
    pub(super) fn wants_probe(&self) -> bool {
        let pause = 1 << self.vain_probes.saturating_sub(EAGER_PROBES).min(RAREST_PROBE.ilog2());
        let can_tell = self.reading.seen > 0 || self.working.seen >= PACES || !self.spans.is_empty();
        self.probe.is_none() && can_tell && (self.vain_probes < EAGER_PROBES || self.since_probe >= pause)
    }

    pub(super) fn sent(&mut self, id: RequestId, is_beyond: bool) {
        if is_beyond && self.probe.is_none() {
            (self.probe, self.since_probe) = (Some(id), 0);
        } else {
            self.since_probe = self.since_probe.saturating_add(1);
        }
    }

    pub(super) fn began(&mut self, id: RequestId, running: &[Running], now: f64) {
        let Some(began) = running.iter().find(|running| running.id == id) else { return };
        if let Some(least) = self.reading.least(began.uncached).filter(|_| self.probe != Some(id)) {
            self.late += u32::from(self.is_late(began.sent_at, now, least));
        }
        self.reading.observe(now - began.sent_at, began.uncached);
        self.look(running, now);
    }

    /// Looks at what is running.
    pub(super) fn look(&mut self, running: &[Running], now: f64) {
        self.at_once = self.at_once.max(at_work(running, now - HEARD_WITHIN));
    }

    pub(super) fn ended(
        &mut self,
        gone: &Running,
        (is_whole, is_crowded): (bool, bool),
        running: &[Running],
        now: f64,
    ) {
        // Before this end, one more was running.
        if is_crowded {
            self.crowded_until = now;
        }
        let work = gone.uncached / PREFILL_RATIO + gone.delivered;
        let is_alone = self.crowded_until < gone.sent_at;
        let from = match (gone.began_at, gone.worked) {
            // What a client reads late may have been written long before.
            _ if gone.stalled_at.is_some() => None,
            (_, Some(worked)) => {
                let from = (now - worked).max(gone.sent_at);
                if self.probe != Some(gone.id) {
                    self.late += u32::from(self.is_late(gone.sent_at, from, 0.0));
                }
                Some(from)
            }
            (Some(began), None) => Some((began - self.reading.least(gone.uncached).unwrap_or(0.0)).max(gone.sent_at)),
            (None, None) if is_whole && work >= 1.0 => {
                if is_alone {
                    self.working.observe(now - gone.sent_at, work);
                }
                self.working.least(work).map(|least| (now - least).max(gone.sent_at))
            }
            _ => None,
        };
        if let Some(from) = from {
            let to = now - HEARD_WITHIN.min(LEFT_OUT * (now - from));
            self.add(Span { from, to }, running);
        }
        self.look(running, now);
        keep(&mut self.ends, now);
        if self.probe == Some(gone.id) {
            self.probe = None;
            self.vain_probes = self.vain_probes.saturating_add(1);
        }
    }

    pub(super) fn lost(&mut self, id: RequestId) {
        self.probe = self.probe.filter(|probe| *probe != id);
    }

    /// The most are at work at once when one of them begins.
    fn add(&mut self, span: Span, running: &[Running]) {
        if span.to <= span.from {
            return;
        }
        keep(&mut self.spans, span);
        let starts = self.spans.iter().map(|span| span.from).filter(|start| (span.from..span.to).contains(start));
        let at_once = starts.map(|start| {
            let ended = self.spans.iter().filter(|span| span.from <= start && start < span.to).count();
            u32::try_from(ended).unwrap_or(u32::MAX).saturating_add(at_work(running, start))
        });
        self.at_once = at_once.fold(self.at_once, u32::max);
    }

    /// Whether a request waited and then began after another one's end. To begin takes at least `least` seconds.
    fn is_late(&self, sent_at: f64, began_at: f64, least: f64) -> bool {
        let last_end = self.ends.iter().rev().find(|end| **end < began_at).filter(|end| **end > sent_at);
        last_end.is_some_and(|end| {
            let (waited, beginning) = (end - sent_at, began_at - end);
            waited >= LEAST_WAIT && waited > beginning && beginning >= least
        })
    }

    /// Corrects the number by what was seen.
    pub(super) fn conclude(&mut self, count: &mut u32) {
        let at_once = std::mem::take(&mut self.at_once).min(MOST_SLOTS);
        if at_once > *count {
            *count = at_once;
            (self.vain_probes, self.late) = (0, 0);
        } else if at_once == *count {
            self.late = 0;
        } else if self.late >= LATE_IN_A_ROW && *count > 1 {
            *count -= 1;
            self.late = 0;
            self.vain_probes = self.vain_probes.max(EAGER_PROBES);
        }
    }
}

/// How many of them have certainly been at work since `since`.
fn at_work(running: &[Running], since: f64) -> u32 {
    let works =
        |running: &&Running| running.stalled_at.is_none() && running.began_at.is_some_and(|began| began <= since);
    u32::try_from(running.iter().filter(works).count()).unwrap_or(u32::MAX)
}

fn keep<T>(latest: &mut VecDeque<T>, next: T) {
    if latest.len() == MOST_SPANS {
        latest.pop_front();
    }
    latest.push_back(next);
}
