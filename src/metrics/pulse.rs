//! How much work is done, and where? Counters beside those of Prometheus, for the plots that the gateway keeps by itself.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;

/// What was done since the start, by one node or by all.
#[derive(Debug, Default)]
pub struct Pulse {
    tokens: AtomicU64,
    first_tokens: AtomicU64,
    first_token_ms: AtomicU64,
    ended: AtomicU64,
    failed: AtomicU64,
}

/// The counters of a [`Pulse`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// Tokens of answers.
    pub tokens: u64,
    /// Answers that began.
    pub first_tokens: u64,
    /// What those took to begin, milliseconds in all.
    pub first_token_ms: u64,
    /// Requests that ended; of a node, attempts.
    pub ended: u64,
    /// Of those, the ones that failed through no fault of the client.
    pub failed: u64,
}

impl Pulse {
    /// So many tokens of an answer came.
    pub fn tokens(&self, tokens: u64) {
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
    }

    /// An answer began after so long.
    pub fn first_token(&self, after: Duration) {
        self.first_tokens.fetch_add(1, Ordering::Relaxed);
        self.first_token_ms.fetch_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Something ended.
    pub fn ended(&self, has_failed: bool) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(u64::from(has_failed), Ordering::Relaxed);
    }

    /// The counters now.
    pub fn beat(&self) -> Beat {
        Beat {
            tokens: self.tokens.load(Ordering::Relaxed),
            first_tokens: self.first_tokens.load(Ordering::Relaxed),
            first_token_ms: self.first_token_ms.load(Ordering::Relaxed),
            ended: self.ended.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

/// The pulses of all that there are.
#[derive(Debug, Default)]
pub struct Pulses {
    all: Pulse,
    nodes: DashMap<String, Arc<Pulse>>,
}

impl Pulses {
    /// Of the gateway.
    pub fn all(&self) -> &Pulse {
        &self.all
    }

    /// Of a node; one that has left counts for itself.
    pub fn of(&self, node: &str) -> Arc<Pulse> {
        self.nodes.get(node).map(|pulse| pulse.clone()).unwrap_or_default()
    }

    pub(super) fn join(&self, node: &str) {
        self.nodes.entry(node.to_owned()).or_default();
    }

    pub(super) fn leave(&self, node: &str) {
        self.nodes.remove(node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_on_a_node_counts_there_until_it_has_left() {
        let pulses = Pulses::default();
        pulses.join("a");
        let pulse = pulses.of("a");
        pulse.tokens(7);
        pulse.first_token(Duration::from_millis(250));
        pulse.ended(true);
        pulse.ended(false);
        let beat = Beat { tokens: 7, first_tokens: 1, first_token_ms: 250, ended: 2, failed: 1 };
        assert_eq!((pulses.of("a").beat(), pulses.of("b").beat()), (beat, Beat::default()));
        pulses.leave("a");
        pulse.tokens(1);
        assert_eq!((pulses.of("a").beat(), pulses.nodes.len()), (Beat::default(), 0));
    }
}
