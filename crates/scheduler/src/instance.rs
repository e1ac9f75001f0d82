//! One model on one node: is it in memory, what runs there, how many at a time, and how fast?
//!
//! ```text
//! absent --Load--> (the node's `load`) --Loaded--> resident --drained, Unload--> absent
//! ```
//! A node's own report (`/api/ps`) also makes a model resident or absent: others may load it, and a node may evict it.
//! Several names may stand for one instance: see `node/synonyms.rs`.

use std::sync::Arc;

use crate::{
    catalog::Model,
    correction::Correction,
    estimate::REFERENCE_BYTES,
    failure::Failure,
    ids::RequestId,
    model::ModelId,
    reading::Reading,
    running::Running,
    share::Portion,
    slots::{Runner, Slots},
};

/// A model in a node's listing of its disk. The whole listing is shared, as it seldom changes.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    all: Arc<[Model]>,
    index: usize,
    /// By the model's family, which is a name; asked for with every event.
    runner: Runner,
}

impl Listing {
    pub(crate) fn new(all: Arc<[Model]>, index: usize) -> Self {
        let runner = Runner::of(&all[index].family);
        Self { all, index, runner }
    }

    pub(crate) fn model(&self) -> &Model {
        &self.all[self.index]
    }
}

/// A name of a model on a node.
#[derive(Clone, Debug)]
pub(crate) struct Label {
    /// Set while the model is on the node's disk. A model that is only in memory serves no requests.
    pub(crate) listing: Option<Listing>,
    /// The digest it had here in an earlier run.
    pub(crate) recalled_digest: Option<String>,
    /// The name as the node lists it.
    pub(crate) listed: Arc<str>,
    /// The name has come to stand for other content since the node's names were last sorted by their weights.
    pub(crate) is_replaced: bool,
}

impl Label {
    pub(crate) fn new(listed: Arc<str>) -> Self {
        Self { listing: None, recalled_digest: None, listed, is_replaced: false }
    }

    pub(crate) fn model(&self) -> Option<&Model> {
        self.listing.as_ref().map(Listing::model)
    }
}

/// How much of the prompts sent to a model on a node was cached, in tokens.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub(crate) struct CacheUse {
    pub(crate) prompt: f64,
    pub(crate) expected: f64,
    /// Prompt tokens of the streams whose first token was timed.
    pub(crate) timed: f64,
    /// How many of them must have been cached, as they were read so fast.
    pub(crate) measured: f64,
    /// How much of the prompt expected in a slot or in the host's memory was found there, as a share. Not every runner
    /// saves to the host's memory what it pushes out of its slots.
    pub(crate) slot_trust: Trust,
    pub(crate) host_trust: Trust,
}

/// A share between 0 and 1; 1 before the first measurement.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(crate) struct Trust(pub(crate) f64);

impl Default for Trust {
    fn default() -> Self {
        Self(1.0)
    }
}

impl Trust {
    /// The weight of one measurement.
    const NEWS: f64 = 0.1;

    pub(crate) fn observe(&mut self, share: f64) {
        self.0 += Self::NEWS * (share.clamp(0.0, 1.0) - self.0);
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) label: Label,
    /// Since when it is in memory, in seconds. Only [`crate::node::Node::set_resident`] sets it.
    pub(crate) resident_since: Option<f64>,
    /// When it was last unloaded, in seconds.
    pub(crate) left_at: Option<f64>,
    /// Memory it uses, as the node last reported.
    pub(crate) vram_bytes: Option<u64>,
    pub(crate) context_length: Option<u64>,
    /// About to be unloaded, because another model needs its memory. It takes no new requests.
    pub(crate) is_leaving: bool,
    pub(crate) slots: Slots,
    /// The parts of the slots that this gateway may use; empty means all slots.
    pub(crate) portions: Vec<Portion>,
    /// The most slots that it may hold under [`crate::Reach::Held`].
    pub(crate) ceiling: Option<u32>,
    pub(crate) running: Vec<Running>,
    /// Where the last request that was looked for ran.
    pub(crate) found: usize,
    /// When a request was last sent to it or ended there, in seconds.
    pub(crate) used_at: f64,
    /// Speed relative to the node's own.
    pub(crate) correction: Correction,
    /// How long its prompts take.
    pub(crate) prefill: Reading,
    pub(crate) cache: CacheUse,
    pub(crate) load_failures: u32,
    pub(crate) last_load_failure: Option<Failure>,
    /// It is not loaded again before then, in seconds.
    pub(crate) load_again_at: f64,
}

impl Instance {
    pub(crate) fn new(listed: Arc<str>, slots: Option<u32>) -> Self {
        Self {
            label: Label::new(listed),
            resident_since: None,
            left_at: None,
            vram_bytes: None,
            context_length: None,
            is_leaving: false,
            slots: Slots::new(slots),
            portions: Vec::new(),
            ceiling: None,
            running: Vec::new(),
            found: 0,
            used_at: f64::NEG_INFINITY,
            correction: Correction::default(),
            prefill: Reading::default(),
            cache: CacheUse::default(),
            load_failures: 0,
            last_load_failure: None,
            load_again_at: 0.0,
        }
    }

    pub(crate) fn model(&self) -> Option<&Model> {
        self.label.model()
    }

    fn runner(&self) -> Runner {
        self.label.listing.as_ref().map(|listing| listing.runner).unwrap_or_default()
    }

    /// How many slots it has, for all gateways together.
    pub(crate) fn whole_slot_count(&self) -> u32 {
        self.slots.count(self.runner())
    }

    /// How many of its slots this gateway may use.
    pub(crate) fn slot_count(&self) -> usize {
        let slots = self.whole_slot_count();
        let parts = self.portions.iter().map(|portion| portion.of(slots));
        parts.chain(self.ceiling).fold(slots, u32::min) as usize
    }

    /// The free slots that it holds; `None` if there are none.
    pub(crate) fn spare(&self) -> Option<u32> {
        let running = u32::try_from(self.running.len()).unwrap_or(u32::MAX);
        self.ceiling?.checked_sub(running).filter(|spare| *spare > 0)
    }

    /// Whether one request more than its slots may be sent. More may run already if the number was lowered meanwhile.
    pub(crate) fn wants_probe(&self, now: f64) -> bool {
        self.probes_from() <= now
    }

    /// From when on that is so, in seconds; infinity if not without another change.
    pub(crate) fn probes_from(&self) -> f64 {
        // With several gateways, nobody can tell whether a probe ran in parallel with everything else.
        let is_whole = self.portions.is_empty() && self.ceiling.is_none();
        let may_probe = is_whole && self.running.len() <= self.slot_count();
        if may_probe { self.slots.probes_from(self.runner()) } else { f64::INFINITY }
    }

    /// Whether it could serve requests, as far as its memory goes.
    pub(crate) fn is_serving(&self) -> bool {
        self.label.listing.is_some() && self.resident_since.is_some() && !self.is_leaving
    }

    /// Whether it would take one more request, if its node does; `slots` is [`Self::slot_count`].
    pub(crate) fn has_vacancy(&self, slots: usize, now: f64) -> bool {
        self.is_serving() && (self.running.len() < slots || self.wants_probe(now))
    }

    /// Bytes it uses in memory, as far as is known.
    pub(crate) fn footprint(&self) -> u64 {
        self.vram_bytes.or(self.model().map(|model| model.size_bytes)).unwrap_or(0)
    }

    pub(crate) fn model_bytes(&self) -> f64 {
        self.model().map_or(self.footprint(), |model| model.size_bytes).max(1) as f64
    }

    /// Seconds a token on a node that needs so many seconds for a token of a reference model.
    pub(crate) fn token_seconds(&self, alone: f64) -> f64 {
        alone * (self.model_bytes() / REFERENCE_BYTES) * self.correction.factor()
    }

    /// Whether it tells more than another instance of the same weights.
    pub(crate) fn is_more_used_than(&self, other: &Self) -> bool {
        let use_of = |it: &Self| (it.resident_since.is_some(), it.running.len(), it.prefill.straight().is_some());
        use_of(self) > use_of(other)
    }

    pub(crate) fn find_running(&mut self, id: RequestId) -> Option<&mut Running> {
        let place = self.place_of(id)?;
        self.running.get_mut(place)
    }

    /// A request is over, or goes on elsewhere.
    pub(crate) fn take_running(&mut self, id: RequestId) -> Option<Running> {
        let place = self.place_of(id)?;
        Some(self.running.swap_remove(place))
    }

    /// Very many may run, and the last events of a request come one after the other.
    fn place_of(&mut self, id: RequestId) -> Option<usize> {
        if self.running.get(self.found).is_none_or(|running| running.id != id) {
            self.found = self.running.iter().position(|running| running.id == id)?;
        }
        Some(self.found)
    }
}

/// A load in progress on a node.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) model: ModelId,
    /// The models that are unloaded to make room.
    pub(crate) victims: Vec<ModelId>,
    pub(crate) phase: Phase,
    /// The request that asked for it; `None` for a hint. If that request leaves before the load begins, the next
    /// request that waits for the model takes its place, so that the load is not lost.
    pub(crate) cause: Option<RequestId>,
}

#[derive(Copy, Clone, PartialEq, Debug)]
pub(crate) enum Phase {
    Draining,
    /// `left` victims have not answered yet; `failed` is set if one of them could not be unloaded.
    Unloading {
        left: usize,
        failed: Option<Failure>,
    },
    Loading {
        since: f64,
    },
}

/// Another name for the weights of a model on a node.
#[derive(Clone, Debug)]
pub(crate) struct Synonym {
    pub(crate) model: ModelId,
    /// The name under which the node keeps the instance.
    pub(crate) main: ModelId,
    pub(crate) label: Label,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelId;

    #[test]
    fn nothing_is_tried_beyond_the_slots_while_more_runs_than_there_are() {
        let mut instance = Instance::new("m".into(), Some(3));
        let running = |id| Running {
            id: RequestId(id),
            model: ModelId(0),
            sent_at: 0.0,
            is_stream: true,
            uncached: 1.0,
            prompt: 1.0,
            output: 1.0,
            others: 0.0,
            prefixes: Arc::default(),
            remembered: 0.0,
            is_in_host: false,
            began_at: None,
            delivered: 0.0,
            heard_at: 0.0,
            stalled_at: None,
            worked: None,
            writing: None,
        };
        instance.running = (0..3).map(running).collect();
        // No longer configured; one slot is known.
        instance.slots = Slots::new(None);
        instance.slots.sent(RequestId(0), 0);
        instance.running[0].began_at = Some(1.0);
        instance.slots.began(RequestId(0), &instance.running, 1.0);
        assert!(!instance.wants_probe(1.0));
        instance.running.truncate(1);
        assert!(instance.wants_probe(1.0));
    }
}
