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
            changed |= self.list_one(id, model, Listing::new(listed.clone(), index));
        }
        changed |= self.unlist_all_but(&seen);
        self.reported = Some(listed);
        if changed {
            self.listings += 1;
            self.sort_by_weights();
            self.fill_shelf();
        }
    }

    /// The node does not have the model, although it listed it.
    pub(crate) fn forget(&mut self, model: ModelId) {
        if let Some(label) = self.label_mut(model) {
            label.listing = None;
            self.listings += 1;
            // The next report must count even if it is equal to the last one.
            self.reported = None;
            self.choose_mains();
            self.fill_shelf();
            if !self.lists(self.main(model)) {
                self.set_resident(model, None);
            }
        }
    }

    fn fill_shelf(&mut self) {
        let mut models: Vec<Model> = self.labels().filter_map(|(_, label)| label.model().cloned()).collect();
        models.sort_by(|a, b| a.name.cmp(&b.name));
        self.shelf = models.into();
    }

    fn list_one(&mut self, id: ModelId, model: &Model, listing: Listing) -> bool {
        if self.label(id).is_none() {
            self.meet(id, &model.name);
        }
        let is_alone = self.names(id).nth(1).is_none();
        let Some(label) = self.label_mut(id) else { return false };
        let is_same = label.model() == Some(model);
        if !is_same {
            let before = label.model().map(|before| &before.digest).or(label.recalled_digest.as_ref());
            label.is_replaced = before.is_some_and(|digest| *digest != model.digest);
            label.listed = model.name.as_str().into();
        }
        label.listing = Some(listing);
        if let Some(instance) = self.instance_mut(id).filter(|it| it.label.is_replaced && is_alone) {
            // A different model of the same name: what was learned of the old one does not apply.
            (instance.correction, instance.prefill) = Default::default();
            instance.vram_bytes = None;
            instance.label.is_replaced = false;
        }
        !is_same
    }

    /// Takes over a report of the memory. A model that others have loaded counts as resident from now on.
    pub(crate) fn reside(&mut self, loaded: Vec<Loaded>, models: &mut Models, now: f64) {
        self.most_resident =
            self.most_resident.max(loaded.iter().map(|loaded| loaded.vram_bytes).fold(0, u64::saturating_add));
        let mut seen = Vec::with_capacity(loaded.len());
        let loading = self.load.as_ref().map(|load| self.main(load.model));
        for Loaded { name, vram_bytes, context_length } in loaded {
            let id = models.meet(&name);
            self.meet(id, &name);
            let id = self.main(id);
            seen.push(id);
            let Some(instance) = self.instance_mut(id) else { continue };
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
