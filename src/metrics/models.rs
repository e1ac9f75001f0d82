//! Which models have series of their own? Those in use, and the first of those that nodes list. The rest share one
//! label, so a node that lists endless names does not fill the memory.
use std::collections::BTreeSet;

/// The `model` label for all models without series of their own.
pub(super) const OTHER_MODELS: &str = "_other";
/// How many models have series before anybody uses them.
const MOST_UNUSED: usize = 100;
/// How many models have series of their own.
const MOST: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct KnownModels {
    used: BTreeSet<String>,
    unused: BTreeSet<String>,
}

impl KnownModels {
    /// The label of a model in use, and whether its series must begin now.
    pub(super) fn label<'a>(&mut self, model: &'a str) -> (&'a str, bool) {
        if self.used.contains(model) {
            return (model, false);
        }
        if self.used.len() >= MOST {
            return (OTHER_MODELS, false);
        }
        let has_begun = self.unused.remove(model);
        self.used.insert(model.to_owned());
        (model, !has_begun)
    }

    /// Whether a model has a label of its own.
    pub(super) fn has(&self, model: &str) -> bool {
        self.used.contains(model) || self.unused.contains(model)
    }

    /// The models that have a label of their own.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.used.iter().chain(&self.unused).map(String::as_str)
    }

    /// Takes the models that nodes list now; returns those whose series must begin, and those whose series must end.
    pub(super) fn list(&mut self, listed: &BTreeSet<&str>) -> (Vec<String>, Vec<String>) {
        let mut gone = Vec::new();
        for known in [&mut self.used, &mut self.unused] {
            known.retain(|model| {
                let stays = listed.contains(model.as_str());
                if !stays {
                    gone.push(model.clone());
                }
                stays
            });
        }
        let room = MOST_UNUSED.saturating_sub(self.unused.len());
        let new: Vec<String> =
            listed.iter().filter(|model| !self.has(model)).take(room).map(|model| (*model).to_owned()).collect();
        self.unused.extend(new.iter().cloned());
        (new, gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_end_share_one_label_and_what_is_used_has_its_own() {
        let mut known = KnownModels::default();
        let invented: Vec<String> = (0..5000).map(|index| format!("m{index:04}")).collect();
        let listed: BTreeSet<&str> = invented.iter().map(String::as_str).collect();
        let (new, gone) = known.list(&listed);
        assert_eq!((new.len(), gone.len()), (MOST_UNUSED, 0));
        assert_eq!((known.label("m4999"), known.label("m4999")), (("m4999", true), ("m4999", false)));
        assert_eq!(known.label("m0000"), ("m0000", false), "its series have begun");
        assert!(known.has("m4999") && !known.has("m4998"));
        for model in &invented {
            known.label(model);
        }
        assert_eq!(known.used.len(), MOST);
        assert_eq!(known.label("m4000"), (OTHER_MODELS, false));
    }

    #[test]
    fn the_series_of_a_model_that_nobody_lists_any_more_end() {
        let mut known = KnownModels::default();
        known.list(&["a", "b"].into());
        known.label("b");
        let (new, mut gone) = known.list(&["c"].into());
        gone.sort();
        assert_eq!((new, gone), (vec!["c".to_owned()], vec!["a".to_owned(), "b".to_owned()]));
        assert!(!known.has("a") && !known.has("b"));
    }
}
