//! What does a node say of its disk and its memory?

use super::Node;
use crate::{
    catalog::{Loaded, Model},
    instance::Instance,
    model::Models,
};

/// What a node says of its memory may be older than what it answered to a load or an unload; and Ollama lists a model
/// until its memory is free again, seconds after it said that it goes.
const LISTING_LAG_SECONDS: f64 = 5.0;

impl Node {
    /// Takes over a listing of what is on disk.
    pub(crate) fn list(&mut self, listed: Vec<Model>, models: &mut Models) {
        let mut changed = false;
        let mut seen = Vec::with_capacity(listed.len());
        for model in listed {
            let id = models.meet(&model.name);
            models.listed(id);
            seen.push(id);
            let instance = self.meet(id, &model.name);
            if instance.listing.as_ref() != Some(&model) {
                let before =
                    instance.listing.as_ref().map(|before| &before.digest).or(instance.recalled_digest.as_ref());
                if before.is_some_and(|digest| *digest != model.digest) {
                    // Another model of the same name: what was learned was of the old one.
                    (instance.correction, instance.prefill) = Default::default();
                    instance.vram_bytes = None;
                }
                instance.listed = model.name.as_str().into();
                instance.listing = Some(model);
                changed = true;
            }
        }
        for (id, instance) in self.instances_mut() {
            if instance.listing.is_some() && !seen.contains(&id) {
                instance.listing = None;
                changed = true;
            }
        }
        self.listings += u64::from(changed);
    }

    /// Takes over a listing of what is in memory; the models that came into it by others' doing count from now on.
    pub(crate) fn reside(&mut self, loaded: Vec<Loaded>, models: &mut Models, now: f64) {
        self.most_resident =
            self.most_resident.max(loaded.iter().map(|loaded| loaded.vram_bytes).fold(0, u64::saturating_add));
        let mut seen = Vec::with_capacity(loaded.len());
        let loading = self.load.as_ref().map(|load| load.model);
        for Loaded { name, vram_bytes, context_length } in loaded {
            let id = models.meet(&name);
            seen.push(id);
            let instance = self.meet(id, &name);
            (instance.vram_bytes, instance.context_length) =
                (Some(vram_bytes).filter(|bytes| *bytes > 0), context_length);
            let is_leaving = instance.left_at.is_some_and(|left| now < left + LISTING_LAG_SECONDS);
            if loading != Some(id) && !is_leaving {
                instance.resident_since.get_or_insert(now);
            }
        }
        let mut pushed_out = false;
        for (id, instance) in self.instances_mut() {
            let is_gone = instance.resident_since.is_some_and(|since| since + LISTING_LAG_SECONDS < now);
            if is_gone && !seen.contains(&id) && instance.running.is_empty() {
                pushed_out |= !instance.is_leaving;
                instance.resident_since = None;
                instance.sessions.clear();
            }
        }
        // A model that goes soon after another came was pushed out; one that goes at rest has expired.
        let has_just_loaded = |instance: &Instance| instance.resident_since.is_some_and(|since| now - since < 10.0);
        let had_load = loading.is_some() || self.instances().any(|(_, instance)| has_just_loaded(instance));
        self.pushes_out |= pushed_out && had_load;
    }
}
