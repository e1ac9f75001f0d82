//! How long do things take on a node?

use super::Node;
use crate::{
    estimate::{PREFILL_RATIO, PREFILL_SLOWDOWN, REFERENCE_BYTES},
    instance::{Instance, LEAST_LEFT, Running},
};

impl Node {
    /// Seconds a token for a stream that runs alone.
    pub(crate) fn token_seconds(&self, instance: &Instance, guess: f64) -> f64 {
        let size = instance.model_bytes() / REFERENCE_BYTES;
        self.speed.alone().unwrap_or(guess) * size * instance.correction.factor
    }

    /// Seconds until the first token, with this many prompt tokens to read and this many other requests on the node.
    pub(crate) fn prefill_seconds(&self, instance: &Instance, tokens: f64, others: f64, guess: f64) -> f64 {
        let stretch = 1.0 + PREFILL_SLOWDOWN * others;
        let unmeasured = || tokens * self.token_seconds(instance, guess) / PREFILL_RATIO;
        instance.prefill.at(tokens).unwrap_or_else(unmeasured) * stretch
    }

    /// Seconds until a running request gives its slot back.
    pub(crate) fn seconds_left(&self, instance: &Instance, running: &Running, now: f64, guess: f64) -> f64 {
        let others = f64::from(self.in_flight.saturating_sub(1));
        let token = self.token_seconds(instance, guess) * self.speed.stretch(others);
        let since = now - running.heard_at;
        match running.began_at {
            Some(_) => {
                let coming = running.output - running.delivered - since / token;
                coming.max(LEAST_LEFT * running.output).min(running.tokens_left()) * token
            }
            None => {
                let prefill = self.prefill_seconds(instance, running.uncached, running.others, guess);
                (prefill - (now - running.sent_at)).max(0.1 * prefill) + running.output * token
            }
        }
    }

    pub(crate) fn load_seconds(&self, instance: &Instance) -> f64 {
        self.load_time.of(instance.model_bytes())
    }
}
