//! What do a node's answers show about its speed?

use super::Node;
use crate::{
    estimate::{REFERENCE_BYTES, SpeedNews},
    ids::RequestId,
    instance::Instance,
    model::ModelId,
    running::Running,
};

/// A stream is measured over at least this time.
const LEAST_WATCHED_SECONDS: f64 = 0.25;
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
        if running.is_stream {
            let running = running.clone();
            instance.measure_cache(&running, now - running.sent_at);
            instance.measure_prompt(&running, now - running.sent_at);
            instance.slots.began(id, &instance.running, now);
        }
    }

    /// Tokens of a request came, which shows how fast the node writes.
    pub(crate) fn progressed(&mut self, id: RequestId, model: ModelId, tokens: f64, now: f64, guess: f64) {
        (self.heard_at, self.quiet_until) = (now, None);
        let Some(instance) = self.instance_mut(model) else { return };
        instance.slots.look(&instance.running, now);
        let Some(running) = instance.find_running(id) else { return };
        let new = (tokens - running.delivered).max(0.0);
        let Some(began) = running.began_at else {
            running.delivered = running.delivered.max(tokens);
            let running = running.clone();
            return self.measure_plain(&running, model, new, now, guess);
        };
        let watched = now - running.heard_at.max(began);
        let is_worth_it = watched >= LEAST_WATCHED_SECONDS && new >= 1.0;
        running.delivered = running.delivered.max(tokens);
        if is_worth_it {
            running.heard_at = now;
            self.measure_writing(model, watched, new);
        }
    }

    /// So many tokens were written in this time.
    fn measure_writing(&mut self, model: ModelId, seconds: f64, tokens: f64) {
        let others = f64::from(self.in_flight().saturating_sub(1));
        let Some(instance) = self.instance(model) else { return };
        let size = instance.model_bytes() / REFERENCE_BYTES;
        let sample = seconds / tokens / size;
        let expected = self.speed.alone().map(|alone| alone * self.speed.stretch(others));
        let is_node_on_trial = self.speed.drift.is_on_trial();
        let Some(instance) = self.instance_mut(model) else { return };
        // What a wrong estimate of the model explains says nothing about the node.
        if let Some(expected) = expected
            && !is_node_on_trial
            && instance.correction.is_disproved_by(sample / expected)
        {
            return;
        }
        let factor = instance.correction.factor();
        let news = self.speed.observe(sample / factor, others, seconds);
        let Some(instance) = self.instance_mut(model) else { return };
        let is_new = instance.correction.is_new();
        if news == SpeedNews::Usual {
            instance.prefill.writing_is_usual();
        }
        if let Some(expected) = expected
            && (news == SpeedNews::Usual || is_new)
        {
            instance.correction.observe(sample / expected);
        }
        if let SpeedNews::Changed(factor) = news
            && !is_new
        {
            self.instances.iter_mut().flatten().for_each(|instance| instance.prefill.writing_changed(factor));
        }
    }

    /// A plain answer with so many tokens came. When it began to be written is known only if the node says so. Otherwise
    /// its time counts for the prompt and for the answer by what was expected of each: over many answers of different
    /// lengths, both come out right.
    fn measure_plain(&mut self, running: &Running, model: ModelId, tokens: f64, now: f64, guess: f64) {
        let others = f64::from(self.in_flight().saturating_sub(1));
        let Some(instance) = self.instance(model) else { return };
        let whole = (now - running.sent_at).max(0.0);
        let reading = self.prefill_seconds(instance, running.uncached, running.others, guess);
        let expected = tokens * self.token_seconds(instance, guess) * self.speed.stretch(others);
        let share = expected / (reading + expected).max(f64::MIN_POSITIVE);
        let writing = running.writing.unwrap_or(share * whole).min(whole);
        if tokens >= 1.0 {
            self.measure_writing(model, writing, tokens);
        }
        if !running.is_stream
            && let Some(instance) = self.instance_mut(model)
        {
            instance.measure_prompt(running, whole - writing);
        }
    }
}

impl Instance {
    /// The first token of a request came this long after it was sent. The part that is expected to be cached may not
    /// have been, so a prompt with such a part says nothing about how fast the node reads.
    fn measure_prompt(&mut self, running: &Running, seconds: f64) {
        if running.remembered <= (1.0 - LEAST_UNCACHED_SHARE) * running.prompt {
            self.prefill.observe(running.prompt - running.remembered, seconds, running.others);
        }
    }

    /// Derives how much of a prompt must have been cached for its first token to come so soon, if the reading rate is
    /// known.
    fn measure_cache(&mut self, running: &Running, seconds: f64) {
        let Some((fixed, each)) = self.prefill.straight().filter(|(_, each)| *each > 0.0) else { return };
        let Running { prompt, remembered, is_in_host, .. } = *running;
        let alone = seconds / self.prefill.stretch(running.others);
        let read = ((alone - fixed) / each).clamp(0.0, prompt);
        self.cache.timed += prompt;
        self.cache.measured += prompt - read;
        if remembered > (1.0 - LEAST_UNCACHED_SHARE) * prompt {
            let trust = if is_in_host { &mut self.cache.host_trust } else { &mut self.cache.slot_trust };
            trust.observe((prompt - read) / remembered);
        }
    }
}
