//! How many requests does a model take at a time on a node?
//!
//! If that is not configured, it is learned from what is seen at work ([`Evidence`]):
//! - *up*, when more requests are at work at once than the number. To see that, a request is sent beyond it now and
//!   then: a probe.
//! - *down*, when request after request begins only once another one ends, and never as many as the number are at work.

mod evidence;
#[cfg(test)]
mod tests;

use crate::{ids::RequestId, running::Running};
use evidence::{Evidence, MOST_SLOTS};

/// Families that Ollama runs one request at a time, whatever `OLLAMA_NUM_PARALLEL` says.
const ONE_SLOT_FAMILIES: [&str; 6] = ["mllama", "qwen3vl", "qwen35", "qwen3next", "lfm2", "nemotron_h"];
/// No probe for so long after a node said that it is overloaded.
const OVERRUN_SECONDS: f64 = 600.0;

/// How many requests a model takes at a time on a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Slots {
    Configured(u32),
    Learned {
        count: u32,
        /// No probe before then, in seconds.
        settled_until: f64,
        /// What was seen so far; `None` before the first request.
        evidence: Option<Box<Evidence>>,
    },
}

impl Slots {
    pub(crate) fn new(configured: Option<u32>) -> Self {
        match configured {
            Some(count) => Self::Configured(count),
            None => Self::learned(1),
        }
    }

    /// A number learned so far; learning goes on.
    pub(crate) fn learned(count: u32) -> Self {
        Self::Learned { count, settled_until: 0.0, evidence: None }
    }

    pub(crate) fn count(&self, family: &str) -> u32 {
        match self {
            Self::Configured(0) => 0,
            _ if ONE_SLOT_FAMILIES.contains(&family) => 1,
            Self::Configured(count) | Self::Learned { count, .. } => *count,
        }
    }

    /// From when on one request more than `count` may be sent, in seconds; infinity if never.
    pub(crate) fn probes_from(&self, family: &str) -> f64 {
        match self {
            Self::Learned { count, settled_until, evidence }
                if *count < MOST_SLOTS
                    && !ONE_SLOT_FAMILIES.contains(&family)
                    && evidence.as_ref().is_some_and(|evidence| evidence.wants_probe()) =>
            {
                *settled_until
            }
            _ => f64::INFINITY,
        }
    }

    /// A request is sent. `running` are those that run already.
    pub(crate) fn sent(&mut self, id: RequestId, running: usize) {
        if let Self::Learned { count, evidence, .. } = self {
            evidence.get_or_insert_default().sent(id, running >= *count as usize);
        }
    }

    /// A request's first token came. It is one of `running`.
    pub(crate) fn began(&mut self, id: RequestId, running: &[Running], now: f64) {
        if let Self::Learned { count, evidence: Some(evidence), .. } = self {
            evidence.began(id, running, now);
            evidence.conclude(count);
        }
    }

    /// Time has passed for those that are running.
    pub(crate) fn look(&mut self, running: &[Running], now: f64) {
        if let Self::Learned { count, evidence: Some(evidence), .. } = self {
            evidence.look(running, now);
            evidence.conclude(count);
        }
    }

    /// A request ended. `running` are those that run on.
    pub(crate) fn ended(&mut self, gone: &Running, is_whole: bool, running: &[Running], now: f64) {
        if let Self::Learned { count, evidence: Some(evidence), .. } = self {
            let is_crowded = running.len() >= *count as usize;
            evidence.ended(gone, (is_whole, is_crowded), running, now);
            evidence.conclude(count);
        }
    }

    /// A request that was sent is counted elsewhere from now on.
    pub(crate) fn lost(&mut self, id: RequestId) {
        if let Self::Learned { evidence: Some(evidence), .. } = self {
            evidence.lost(id);
        }
    }

    /// The node answered that it is overloaded with `running` requests.
    pub(crate) fn overrun(&mut self, running: usize, now: f64) {
        if let Self::Learned { count, settled_until, .. } = self {
            *count = u32::try_from(running).unwrap_or(MOST_SLOTS).clamp(1, (*count).max(1));
            *settled_until = now + OVERRUN_SECONDS;
        }
    }
}
