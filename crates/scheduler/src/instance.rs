//! One model on one node: is it in memory, what runs there, how many at a time, and how fast?
//!
//! ```text
//! absent --Load--> (the node's `load`) --Loaded--> resident --drained, Unload--> absent
//! ```
//! A node's own word (`/api/ps`) makes it resident or absent as well: others may load, and a node may push out.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    catalog::Model,
    estimate::{Correction, Line},
    failure::Failure,
    ids::RequestId,
    share::Portion,
    slots::Slots,
};

/// Of an answer that is longer than expected, so much is taken to be left, in shares of what was expected.
const LEAST_LEFT: f64 = 0.3;

/// A request that runs.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) id: RequestId,
    /// Seconds; when it was sent.
    pub(crate) sent_at: f64,
    pub(crate) is_stream: bool,
    /// Tokens that were to be read: those of the prompt that were not cached.
    pub(crate) prompt: f64,
    /// Prompt tokens in all.
    pub(crate) whole_prompt: f64,
    /// Tokens the answer is expected to have.
    pub(crate) output: f64,
    /// Others on the node when it was sent.
    pub(crate) others: f64,
    pub(crate) session: Option<u64>,
    /// Seconds; when its first token came.
    pub(crate) began_at: Option<f64>,
    pub(crate) delivered: f64,
    /// Seconds; when it was last heard of.
    pub(crate) heard_at: f64,
    /// Seconds; when its client was last seen not to take what there is.
    pub(crate) stalled_at: Option<f64>,
}

impl Running {
    /// Tokens still to come, by what is known now.
    pub(crate) fn tokens_left(&self) -> f64 {
        (self.output - self.delivered).max(LEAST_LEFT * self.output)
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    /// On disk, as the node lists it; what is only in memory is not for requests.
    pub(crate) listing: Option<Model>,
    /// Of the model that was known here in an earlier run.
    pub(crate) recalled_digest: Option<String>,
    /// The name as the node gives it.
    pub(crate) listed: Arc<str>,
    /// Seconds; since when it is in memory.
    pub(crate) resident_since: Option<f64>,
    /// Seconds; when it was last taken out of memory.
    pub(crate) left_at: Option<f64>,
    /// What it takes in memory, as the node said last.
    pub(crate) vram_bytes: Option<u64>,
    pub(crate) context_length: Option<u64>,
    /// About to go: another model needs its memory. Takes nothing new.
    pub(crate) is_leaving: bool,
    pub(crate) slots: Slots,
    /// What part of the slots this gateway may use; all of them where it is empty.
    pub(crate) portions: Vec<Portion>,
    pub(crate) running: Vec<Running>,
    /// Sessions that its slots served last, the newest first, and the tokens kept of them.
    pub(crate) sessions: VecDeque<(u64, f64)>,
    /// Beside the node's own speed.
    pub(crate) correction: Correction,
    /// From dispatch to first token, over tokens read.
    pub(crate) prefill: Line,
    pub(crate) load_failures: u32,
    pub(crate) last_load_failure: Option<Failure>,
    /// Seconds; not to be loaded again before then.
    pub(crate) load_again_at: f64,
}

impl Instance {
    pub(crate) fn new(listed: Arc<str>, slots: Option<u32>) -> Self {
        Self {
            listing: None,
            recalled_digest: None,
            listed,
            resident_since: None,
            left_at: None,
            vram_bytes: None,
            context_length: None,
            is_leaving: false,
            slots: Slots::new(slots),
            portions: Vec::new(),
            running: Vec::new(),
            sessions: VecDeque::new(),
            correction: Correction::default(),
            prefill: Line::default(),
            load_failures: 0,
            last_load_failure: None,
            load_again_at: 0.0,
        }
    }

    fn family(&self) -> &str {
        self.listing.as_ref().map_or("", |model| &model.family)
    }

    /// How many slots it has, whoever may use them.
    pub(crate) fn whole_slot_count(&self) -> u32 {
        self.slots.count(self.family())
    }

    /// How many of its slots this gateway may use.
    pub(crate) fn slot_count(&self) -> usize {
        let slots = self.whole_slot_count();
        let parts = self.portions.iter().map(|portion| portion.of(slots));
        parts.fold(slots, u32::min) as usize
    }

    /// Whether one more than its slots may be sent. What ran before their number was set to less may be more already.
    pub(crate) fn wants_probe(&self, now: f64) -> bool {
        // Among several gateways one cannot tell whether a probe ran beside everything else.
        self.portions.is_empty()
            && self.running.len() <= self.slot_count()
            && self.slots.wants_probe(self.family(), now)
    }

    /// Bytes it takes in memory, as far as is known.
    pub(crate) fn footprint(&self) -> u64 {
        self.vram_bytes.or(self.listing.as_ref().map(|model| model.size_bytes)).unwrap_or(0)
    }

    pub(crate) fn model_bytes(&self) -> f64 {
        self.listing.as_ref().map_or(self.footprint(), |model| model.size_bytes).max(1) as f64
    }

    /// Tokens of the prompt that a slot still has from the last turn.
    pub(crate) fn cached(&self, session: Option<u64>, prompt: f64) -> f64 {
        let kept = session.and_then(|session| self.sessions.iter().find(|(kept, _)| *kept == session));
        kept.map_or(0.0, |(_, tokens)| tokens.min(prompt))
    }

    pub(crate) fn keep_session(&mut self, session: u64, tokens: f64) {
        self.sessions.retain(|(kept, _)| *kept != session);
        self.sessions.push_front((session, tokens));
        self.sessions.truncate(self.slot_count());
    }

    pub(crate) fn find_running(&mut self, id: RequestId) -> Option<&mut Running> {
        self.running.iter_mut().find(|running| running.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBE: RequestId = RequestId(2);

    #[test]
    fn a_probe_that_begins_beside_the_others_is_one_more_slot() {
        let mut slots = Slots::new(None);
        assert!(slots.wants_probe("llama", 0.0));
        slots.probing(PROBE);
        assert!(!slots.wants_probe("llama", 0.0));
        slots.began(PROBE, 1.0);
        assert_eq!(slots.count("llama"), 2);
        assert!(slots.wants_probe("llama", 1.0));
    }

    #[test]
    fn a_probe_that_waits_for_an_end_shows_the_last_slot_and_is_tried_again_ever_more_seldom() {
        let mut slots = Slots::new(None);
        let mut now = 1.0;
        for pause in [10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 600.0, 600.0] {
            slots.probing(PROBE);
            slots.ended(RequestId(1));
            slots.began(PROBE, now);
            assert_eq!(slots.count("llama"), 1);
            assert!(!slots.wants_probe("llama", now + pause - 0.1) && slots.wants_probe("llama", now + pause));
            now += pause;
        }
    }

    #[test]
    fn a_configured_number_is_never_exceeded_and_some_families_take_one_at_a_time() {
        assert!(!Slots::new(Some(4)).wants_probe("llama", 0.0));
        assert_eq!(Slots::new(Some(4)).count("mllama"), 1);
        assert_eq!(Slots::new(Some(0)).count("mllama"), 0);
        assert!(!Slots::new(None).wants_probe("qwen3vl", 0.0));
    }

    #[test]
    fn nothing_is_tried_beyond_the_slots_while_more_runs_than_there_are() {
        let mut instance = Instance::new("m".into(), Some(3));
        let running = |id| Running {
            id: RequestId(id),
            sent_at: 0.0,
            is_stream: true,
            prompt: 1.0,
            whole_prompt: 1.0,
            output: 1.0,
            others: 0.0,
            session: None,
            began_at: None,
            delivered: 0.0,
            heard_at: 0.0,
            stalled_at: None,
        };
        instance.running = (0..3).map(running).collect();
        // No longer configured.
        instance.slots = Slots::new(None);
        assert!(!instance.wants_probe(0.0));
        instance.running.truncate(1);
        assert!(instance.wants_probe(0.0));
    }

    #[test]
    fn a_busy_node_lowers_what_was_learned_and_never_what_was_configured() {
        let mut slots = Slots::learned(4);
        slots.overrun(2, 0.0);
        assert_eq!(slots.count(""), 2);
        slots.overrun(0, 0.0);
        assert_eq!(slots.count(""), 1);
        let mut slots = Slots::new(Some(4));
        slots.overrun(2, 0.0);
        assert_eq!(slots.count(""), 4);
    }
}
