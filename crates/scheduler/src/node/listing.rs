//! What does a node report about its disk and its memory?

use std::sync::Arc;

use super::Node;
use crate::{
    catalog::{Loaded, Model},
    instance::{Instance, Listing},
    model::{ModelId, Models},
};

/// A report of the memory may be older than the answer to a load or an unload. Also, Ollama lists a model until its
/// memory is free again, seconds after it agreed to unload it.
const LISTING_LAG_SECONDS: f64 = 5.0;
/// A model that disappears this soon after a load was evicted by it; otherwise it expired.
const EVICTION_SECONDS: f64 = 10.0;

impl Node {
    /// Takes over a report of the disk.
    pub(crate) fn list(&mut self, listed: Arc<[Model]>, models: &mut Models) {
        if self.reported.as_ref().is_some_and(|known| Arc::ptr_eq(known, &listed) || *known == listed) {
            return;
        }
        let mut changed = false;
        let mut seen = vec![false; self.instances.len()];
        for (index, model) in listed.iter().enumerate() {
            let id = models.meet(&model.name);
            models.listed(id);
            seen.resize(seen.len().max(id.0 + 1), false);
            seen[id.0] = true;
            changed |= self.list_one(id, model, Listing { all: listed.clone(), index });
        }
        for (instance, is_seen) in self.instances.iter_mut().zip(seen) {
            if let Some(instance) = instance.as_mut().filter(|it| it.listing.is_some() && !is_seen) {
                instance.listing = None;
                changed = true;
            }
        }
        self.reported = Some(listed);
        if changed {
            self.listings += 1;
            self.fill_shelf();
        }
    }

    /// The node does not have the model, although it listed it.
    pub(crate) fn forget(&mut self, model: ModelId) {
        if let Some(instance) = self.instance_mut(model) {
            instance.listing = None;
            self.listings += 1;
            // The next report must count even if it is equal to the last one.
            self.reported = None;
            self.fill_shelf();
            self.set_resident(model, None);
        }
    }

    fn fill_shelf(&mut self) {
        let mut models: Vec<Model> = self.instances().filter_map(|(_, instance)| instance.model().cloned()).collect();
        models.sort_by(|a, b| a.name.cmp(&b.name));
        self.shelf = models.into();
    }

    fn list_one(&mut self, id: ModelId, model: &Model, listing: Listing) -> bool {
        let instance = self.meet(id, &model.name);
        let is_same = instance.model() == Some(model);
        if !is_same {
            let before = instance.model().map(|before| &before.digest).or(instance.recalled_digest.as_ref());
            if before.is_some_and(|digest| *digest != model.digest) {
                // A different model of the same name: what was learned of the old one does not apply.
                (instance.correction, instance.prefill) = Default::default();
                instance.vram_bytes = None;
            }
            instance.listed = model.name.as_str().into();
        }
        instance.listing = Some(listing);
        !is_same
    }

    /// Takes over a report of the memory. A model that others have loaded counts as resident from now on.
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
            // Such a listing may still show a model that is on its way out, or one that is only being loaded.
            let has_left = instance.left_at.is_some_and(|left| now < left + LISTING_LAG_SECONDS);
            if loading != Some(id) && !has_left && instance.resident_since.is_none() {
                self.set_resident(id, Some(now));
            }
        }
        let is_gone = |(id, instance): &(ModelId, &Instance)| {
            // A listing that is older than the load does not show the model yet.
            let is_old = instance.resident_since.is_some_and(|since| since + LISTING_LAG_SECONDS < now);
            is_old && !seen.contains(id) && instance.running.is_empty()
        };
        let gone: Vec<ModelId> = self.residents().filter(is_gone).map(|(id, _)| id).collect();
        let mut evicted = false;
        for id in gone {
            evicted |= self.instance(id).is_some_and(|instance| !instance.is_leaving);
            self.set_resident(id, None);
        }
        let is_fresh =
            |instance: &Instance| instance.resident_since.is_some_and(|since| now - since < EVICTION_SECONDS);
        // Without a load nearby, the model was unloaded by somebody or expired: no sign of a full memory.
        let had_load = loading.is_some() || self.residents().any(|(_, instance)| is_fresh(instance));
        self.evicts |= evicted && had_load;
    }
}
