//! What do a node's streams show about its speed?

use super::Node;
use crate::{
    estimate::{PREFILL_SLOWDOWN, REFERENCE_BYTES},
    ids::RequestId,
    instance::Instance,
    model::ModelId,
};

/// A stream is measured over at least this time.
const LEAST_WATCHED_SECONDS: f64 = 0.25;
/// A plain answer needs at least this many tokens to say something about the speed.
const LEAST_PLAIN_TOKENS: f64 = 16.0;

/// A prompt shows how fast the node reads if at least this share of it is expected to be uncached.
const LEAST_UNCACHED_SHARE: f64 = 0.9;

impl Node {
    /// The first byte of a request came, which shows how long its prompt took.
    pub(crate) fn began(&mut self, id: RequestId, model: ModelId, now: f64) {
        (self.heard_at, self.quiet_until) = (now, None);
        let Some(instance) = self.instance_mut(model) else { return };
        let Some(running) = instance.find_running(id) else { return };
        running.began_at = Some(now);
        running.heard_at = now;
        let (remembered, prompt, is_in_host) = (running.remembered, running.prompt, running.is_in_host);
        let seconds = (now - running.sent_at) / (1.0 + PREFILL_SLOWDOWN * running.others);
        if running.is_stream {
            instance.measure_cache(prompt, (remembered, is_in_host), seconds);
            // The part expected to be cached may not have been, so such a prompt says nothing about how fast the node
            // reads.
            if remembered <= (1.0 - LEAST_UNCACHED_SHARE) * prompt {
                instance.prefill.observe(prompt - remembered, seconds);
            }
            instance.slots.began(id, &instance.running, now);
        }
    }

    /// Tokens of a request came, which shows how fast the node writes.
    pub(crate) fn progressed(&mut self, id: RequestId, model: ModelId, tokens: f64, now: f64, guess: f64) {
        (self.heard_at, self.quiet_until) = (now, None);
        let others = f64::from(self.in_flight().saturating_sub(1));
        let Some(instance) = self.instance(model) else { return };
        let (size, factor) = (instance.model_bytes() / REFERENCE_BYTES, instance.correction.factor);
        let Some(running) = instance.running.iter().find(|running| running.id == id) else { return };
        let written = tokens * self.token_seconds(instance, guess) * self.speed.stretch(others);
        let new = tokens - running.delivered;
        let (since, is_worth_it) = match running.began_at {
            Some(began) => {
                let since = running.heard_at.max(began);
                (since, now - since >= LEAST_WATCHED_SECONDS && new >= 1.0)
            }
            None => {
                // A plain answer: the time that its prompt took cannot be seen separately.
                let prefill = self.prefill_seconds(instance, running.uncached, running.others, guess);
                (running.sent_at + prefill.min(0.5 * (now - running.sent_at)), new >= LEAST_PLAIN_TOKENS)
            }
        };
        let watched = now - since;
        let sample = watched / new / size;
        if is_worth_it {
            let expected = self.speed.alone().map(|alone| alone * self.speed.stretch(others));
            self.speed.observe(sample / factor, others, watched);
            if let (Some(expected), Some(instance)) = (expected, self.instance_mut(model)) {
                instance.correction.observe(sample / expected);
            }
        }
        let Some(instance) = self.instance_mut(model) else { return };
        instance.slots.look(&instance.running, now);
        if !is_worth_it {
            instance.measure_short(id, written, now);
        }
        let Some(running) = instance.find_running(id) else { return };
        running.delivered = running.delivered.max(tokens);
        if is_worth_it {
            running.heard_at = now;
        }
    }
}

impl Instance {
    /// A plain answer too short to show how fast the node writes shows how long its prompt takes there: all its time
    /// but what its tokens take. A node that gets nothing else would never be known, and seem faster than all others.
    fn measure_short(&mut self, id: RequestId, written: f64, now: f64) {
        let Some(running) = self.find_running(id).filter(|running| running.began_at.is_none()) else { return };
        let is_uncached = running.remembered <= (1.0 - LEAST_UNCACHED_SHARE) * running.prompt;
        if !running.is_stream && is_uncached {
            let seconds = (now - running.sent_at - written).max(0.0) / (1.0 + PREFILL_SLOWDOWN * running.others);
            let read = running.uncached;
            self.prefill.observe(read, seconds);
        }
    }

    /// Derives how much of a prompt must have been cached for its first token to come so soon, if the reading rate is
    /// known.
    fn measure_cache(&mut self, prompt: f64, (expected, is_in_host): (f64, bool), seconds: f64) {
        let Some((fixed, each)) = self.prefill.straight().filter(|(_, each)| *each > 0.0) else { return };
        let read = ((seconds - fixed) / each).clamp(0.0, prompt);
        self.cache.timed += prompt;
        self.cache.measured += prompt - read;
        if expected > (1.0 - LEAST_UNCACHED_SHARE) * prompt {
            let trust = if is_in_host { &mut self.cache.host_trust } else { &mut self.cache.slot_trust };
            trust.observe((prompt - read) / expected);
        }
    }
}
