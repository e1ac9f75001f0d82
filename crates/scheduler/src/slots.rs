//! How many requests does a model take at a time on a node?

use crate::ids::RequestId;

/// Families that Ollama runs one request at a time, whatever `OLLAMA_NUM_PARALLEL` says.
const ONE_SLOT_FAMILIES: [&str; 6] = ["mllama", "qwen3vl", "qwen35", "qwen3next", "lfm2", "nemotron_h"];
/// Nobody runs more requests of one model than this on one card.
const MOST_SLOTS: u32 = 32;
/// After a probe that showed no further slot, the pause before the next one; it doubles each time, up to ten minutes.
/// The probe is repeated because its own prompt, rather than the node, may have held it up.
const PROBE_AGAIN_SECONDS: f64 = 10.0;
const PROBE_SELDOM_SECONDS: f64 = 600.0;

/// How many requests a model takes at a time on a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Slots {
    Configured(u32),
    Learned {
        count: u32,
        /// A request sent beyond `count`, to see whether it runs in parallel.
        probe: Option<Probe>,
        /// No further probe before then, in seconds.
        settled_until: f64,
        /// The pause after the next probe that shows no further slot, in seconds.
        pause: f64,
    },
}

/// A request sent although all slots are taken.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Probe {
    id: RequestId,
    /// Another request has ended since, so a first token of the probe no longer proves that it ran in parallel.
    is_spoilt: bool,
}

impl Slots {
    pub(crate) fn new(configured: Option<u32>) -> Self {
        match configured {
            Some(count) => Self::Configured(count),
            None => Self::learned(1),
        }
    }

    /// A number learned so far; probing goes on.
    pub(crate) fn learned(count: u32) -> Self {
        Self::Learned { count, probe: None, settled_until: 0.0, pause: PROBE_AGAIN_SECONDS }
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
            Self::Learned { count, probe: None, settled_until, .. }
                if *count < MOST_SLOTS && !ONE_SLOT_FAMILIES.contains(&family) =>
            {
                *settled_until
            }
            _ => f64::INFINITY,
        }
    }

    pub(crate) fn probing(&mut self, id: RequestId) {
        if let Self::Learned { probe, .. } = self {
            *probe = Some(Probe { id, is_spoilt: false });
        }
    }

    /// A request's first token came. A probe that had to wait for another request's end shows that there is no further
    /// slot.
    pub(crate) fn began(&mut self, id: RequestId, now: f64) {
        if let Self::Learned { count, probe, settled_until, pause } = self
            && let Some(ended) = probe.take_if(|probe| probe.id == id)
        {
            if ended.is_spoilt {
                *settled_until = now + *pause;
                *pause = (*pause * 2.0).min(PROBE_SELDOM_SECONDS);
            } else {
                *count += 1;
                *pause = PROBE_AGAIN_SECONDS;
            }
        }
    }

    pub(crate) fn ended(&mut self, id: RequestId) {
        if let Self::Learned { probe, .. } = self {
            // A request that ends may make room for the probe, whose first token would prove nothing then.
            let is_probe = probe.as_ref().is_some_and(|probe| probe.id == id);
            if is_probe {
                *probe = None;
            } else if let Some(probe) = probe {
                probe.is_spoilt = true;
            }
        }
    }

    /// The node answered that it is overloaded with `running` requests.
    pub(crate) fn overrun(&mut self, running: usize, now: f64) {
        if let Self::Learned { count, settled_until, .. } = self {
            *count = u32::try_from(running).unwrap_or(MOST_SLOTS).clamp(1, (*count).max(1));
            *settled_until = now + PROBE_SELDOM_SECONDS;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBE: RequestId = RequestId(2);

    #[test]
    fn a_probe_that_begins_beside_the_others_is_one_more_slot() {
        let mut slots = Slots::new(None);
        assert!(slots.probes_from("llama") <= 0.0);
        slots.probing(PROBE);
        assert!(slots.probes_from("llama") > 0.0);
        slots.began(PROBE, 1.0);
        assert_eq!(slots.count("llama"), 2);
        assert!(slots.probes_from("llama") <= 1.0);
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
            assert!(slots.probes_from("llama") > now + pause - 0.1 && slots.probes_from("llama") <= now + pause);
            now += pause;
        }
    }

    #[test]
    fn a_configured_number_is_never_exceeded_and_some_families_take_one_at_a_time() {
        assert!(Slots::new(Some(4)).probes_from("llama").is_infinite());
        assert_eq!(Slots::new(Some(4)).count("mllama"), 1);
        assert_eq!(Slots::new(Some(0)).count("mllama"), 0);
        assert!(Slots::new(None).probes_from("qwen3vl").is_infinite());
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
