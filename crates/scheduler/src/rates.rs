//! How long does a request take on a node, by its size?

use crate::{estimate::PREFILL_RATIO, instance::Instance, node::Node};

/// How long a model takes on a node.
#[derive(Copy, Clone, PartialEq, Debug)]
pub(crate) struct Rates {
    /// Seconds a token for a stream that runs alone.
    pub(crate) token: f64,
    /// How much each other stream lengthens that.
    slowdown: f64,
    /// How much each other request lengthens the time of a prompt.
    prefill_slowdown: f64,
    /// Seconds until the first token of an empty prompt, and for each prompt token.
    prefill: (f64, f64),
}

impl Rates {
    pub(crate) fn of(node: &Node, instance: &Instance, guess: f64) -> Self {
        let token = node.token_seconds(instance, guess);
        let unmeasured = (0.0, token / PREFILL_RATIO);
        Self {
            token,
            slowdown: node.speed.slowdown(),
            prefill_slowdown: instance.prefill.slowdown(),
            prefill: instance.prefill.straight().unwrap_or(unmeasured),
        }
    }

    /// The factors by which reading and writing take longer beside this many other streams.
    pub(crate) fn stretch(&self, others: f64) -> (f64, f64) {
        (1.0 + self.prefill_slowdown * others, 1.0 + self.slowdown * others)
    }

    /// Seconds to read the prompt and to write the answer.
    pub(crate) fn service(&self, uncached: f64, output: f64, stretch: (f64, f64)) -> (f64, f64) {
        let (fixed, each) = self.prefill;
        ((fixed + each * uncached).max(0.0) * stretch.0, output * self.token * stretch.1)
    }
}

/// A request's size in tokens, which decides how long it takes.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Work {
    pub(crate) prompt: f64,
    pub(crate) output: f64,
}
