//! How long do a request, its parts and a load take on a node, by the request's size?

use super::Node;
use crate::{
    estimate::PREFILL_RATIO,
    instance::Instance,
    reading::PromptTimes,
    running::{LEAST_LEFT, Running},
};

/// A prompt that has outgrown its estimate is expected to go on for this share of the estimate.
const LEAST_PREFILL_LEFT: f64 = 0.1;

impl Node {
    /// Seconds a token for a stream that runs alone.
    pub(crate) fn token_seconds(&self, instance: &Instance, guess: f64) -> f64 {
        instance.token_seconds(self.speed.alone().unwrap_or(guess))
    }

    /// Seconds a token beside `others` that may be charged for unseen; `None` until there are enough measurements.
    pub(crate) fn certain_token_seconds(&self, instance: &Instance, others: f64) -> Option<f64> {
        Some(instance.token_seconds(self.speed.certain(others)?))
    }

    /// Seconds until the first token, with this many prompt tokens to read and this many other requests on the node.
    pub(crate) fn prefill_seconds(&self, instance: &Instance, tokens: f64, others: f64, guess: f64) -> f64 {
        self.ends(instance, guess).prefill_seconds(tokens, others)
    }

    /// What decides when the requests that run on an instance end.
    pub(crate) fn ends(&self, instance: &Instance, guess: f64) -> Ends {
        let token = self.token_seconds(instance, guess);
        let others = f64::from(self.in_flight.saturating_sub(1));
        Ends { token: token * self.speed.stretch(others), token_alone: token, prefill: instance.prefill.times() }
    }

    /// Seconds until a running request gives its slot back.
    pub(crate) fn seconds_left(&self, instance: &Instance, running: &Running, now: f64, guess: f64) -> f64 {
        let (end, least) = self.ends(instance, guess).of(running);
        (end - now).max(least)
    }

    pub(crate) fn load_seconds(&self, instance: &Instance) -> f64 {
        self.load_time.of(instance.model_bytes())
    }
}

/// What decides when the requests that run on an instance end: the same for all of them.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Ends {
    /// Seconds a token beside those that run now, and alone.
    token: f64,
    token_alone: f64,
    prefill: PromptTimes,
}

impl Ends {
    /// Seconds until the first token, with this many prompt tokens to read and this many other requests on the node.
    fn prefill_seconds(&self, tokens: f64, others: f64) -> f64 {
        let unmeasured = || tokens * self.token_alone / PREFILL_RATIO;
        self.prefill.at(tokens).unwrap_or_else(unmeasured) * self.prefill.stretch(others)
    }

    /// When a running request is expected to give its slot back, and how many seconds more it is expected to take at
    /// least, however late it is.
    pub(crate) fn of(&self, running: &Running) -> (f64, f64) {
        let prefill = || self.prefill_seconds(running.uncached, running.others);
        match running.began_at {
            Some(_) => {
                let coming = (running.output - running.delivered) * self.token;
                (running.heard_at + coming, LEAST_LEFT * running.output * self.token)
            }
            // A plain answer shows nothing before its end, so it is as far as its time says.
            None if !running.is_stream => {
                let whole = prefill() + running.output * self.token;
                (running.sent_at + whole, LEAST_LEFT * whole)
            }
            None => {
                let (prefill, decode) = (prefill(), running.output * self.token);
                (running.sent_at + prefill + decode, LEAST_PREFILL_LEFT * prefill + decode)
            }
        }
    }
}

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
