//! What is known of one node: its models, what runs there, its health.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    breaker::{Breaker, Epoch},
    event::{Failure, Loaded, Model, NodeSpec, NodeView, RequestId, Routed, Time},
    name::Name,
};

/// How long a node that called itself busy is left alone.
const BUSY_BACK_OFF: Duration = Duration::from_secs(1);

/// While two looks at a node agree in this, nothing has changed for requests
/// that wait, but for slots.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(super) struct Standing {
    is_live: bool,
    admits: bool,
    listings: u64,
}

/// See the module.
pub(super) struct Node {
    spec: NodeSpec,
    breaker: Breaker,
    /// On disk, by listed name.
    models: BTreeMap<Arc<str>, Model>,
    /// How often `models` changed.
    listings: u64,
    /// In memory, when the node was last asked.
    loaded: Vec<Loaded>,
    /// Answered since then, so in memory as well.
    answered_since: BTreeSet<Arc<str>>,
    /// Requests running, by listed name; no zeros.
    running: BTreeMap<Arc<str>, u32>,
    in_flight: u32,
    busy_until: Option<Time>,
    /// The number of the last dispatch to this node; zero if there was none.
    last_dispatch: u64,
    last_error: Option<String>,
    completed: u64,
    failed: u64,
    routed: Routed,
}

impl Node {
    pub(super) fn new(spec: NodeSpec) -> Self {
        Self {
            spec,
            breaker: Breaker::new(),
            models: BTreeMap::new(),
            listings: 0,
            loaded: Vec::new(),
            answered_since: BTreeSet::new(),
            running: BTreeMap::new(),
            in_flight: 0,
            busy_until: None,
            last_dispatch: 0,
            last_error: None,
            completed: 0,
            failed: 0,
            routed: Routed::default(),
        }
    }

    /// The model of this name: as given, or else in its other spelling.
    pub(super) fn find(&self, name: &Name) -> Option<(&Arc<str>, &Model)> {
        let other = || self.models.get_key_value(name.other.as_deref()?);
        self.models.get_key_value(name.given).or_else(other)
    }

    pub(super) fn models(&self) -> impl Iterator<Item = &Model> {
        self.models.values()
    }

    pub(super) fn is_live(&self) -> bool {
        self.spec.slots > 0 && self.breaker.is_live()
    }

    /// What decides for waiting requests whether this node is for them, slots apart.
    pub(super) fn standing(&self) -> Standing {
        Standing { is_live: self.is_live(), admits: self.breaker.admits(), listings: self.listings }
    }

    pub(super) fn reopens_at(&self) -> Option<Time> {
        self.breaker.reopens_at()
    }

    pub(super) fn slots(&self) -> u32 {
        self.spec.slots
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    pub(super) fn last_dispatch(&self) -> u64 {
        self.last_dispatch
    }

    pub(super) fn has_free_slot(&self, listed: &str, now: Time) -> bool {
        let running = self.running.get(listed).copied().unwrap_or(0);
        self.breaker.admits() && running < self.spec.slots && self.busy_until.is_none_or(|until| until <= now)
    }

    /// Whether the model is in memory, or is being loaded for a request.
    pub(super) fn has_loaded(&self, listed: &str) -> bool {
        self.running.contains_key(listed) || self.answered_since.contains(listed) || self.reports_loaded(listed)
    }

    fn reports_loaded(&self, listed: &str) -> bool {
        self.loaded.iter().any(|loaded| loaded.name == listed)
    }

    /// Whether the model could be in memory if it were alone there.
    pub(super) fn can_hold(&self, model: &Model) -> bool {
        self.spec.vram_bytes.is_none_or(|vram| model.size_bytes <= vram)
    }

    /// Whether the model can be loaded beside what is in memory.
    pub(super) fn has_room_for(&self, model: &Model) -> bool {
        let Some(vram) = self.spec.vram_bytes else {
            return true;
        };
        let reported = self.loaded.iter().map(|loaded| loaded.vram_bytes);
        let answered = self.answered_since.iter();
        let starting = self.running.keys().filter(|listed| !self.answered_since.contains(*listed));
        let unreported = answered
            .chain(starting)
            .filter(|listed| !self.reports_loaded(listed))
            .filter_map(|listed| Some(self.models.get(listed)?.size_bytes));
        let taken = reported.chain(unreported).fold(0, u64::saturating_add);
        model.size_bytes <= vram.saturating_sub(taken)
    }

    /// A request is sent here.
    pub(super) fn occupy(&mut self, id: RequestId, listed: &Arc<str>, dispatch: u64) -> Epoch {
        *self.running.entry(listed.clone()).or_default() += 1;
        self.in_flight += 1;
        self.last_dispatch = dispatch;
        self.breaker.dispatched(id)
    }

    /// A request was sent here, in its so-manieth attempt, to a model that was in memory or not.
    pub(super) fn count_routed(&mut self, attempt: u32, is_warm: bool) {
        match (attempt, is_warm) {
            (1, true) => self.routed.warm += 1,
            (1, false) => self.routed.cold += 1,
            _ => self.routed.fallback += 1,
        }
    }

    /// A request sent here is over.
    pub(super) fn vacate(&mut self, id: RequestId, listed: &str) {
        self.in_flight -= 1;
        self.breaker.released(id);
        if let Some(running) = self.running.get_mut(listed) {
            *running -= 1;
            if *running == 0 {
                self.running.remove(listed);
            }
        }
    }

    /// The first byte of an answer came.
    pub(super) fn started(&mut self, listed: &Arc<str>, epoch: Epoch) {
        self.answered_since.insert(listed.clone());
        self.breaker.started(epoch);
        self.forget_error_when_up();
    }

    /// A whole answer came.
    pub(super) fn completed(&mut self, listed: &Arc<str>, epoch: Epoch) {
        self.completed += 1;
        self.breaker.succeeded(epoch);
        self.started(listed, epoch);
    }

    /// An attempt failed after its first byte.
    pub(super) fn broke_off(&mut self, failure: Failure, epoch: Epoch, now: Time) {
        self.failed += 1;
        self.breaker.broke_off(epoch, now);
        self.last_error = Some(failure.to_string());
    }

    /// An attempt failed.
    pub(super) fn failed(&mut self, listed: &str, failure: Failure, epoch: Epoch, now: Time) {
        self.failed += 1;
        match failure {
            Failure::Busy => self.busy_until = Some(now + BUSY_BACK_OFF),
            Failure::Missing => {
                self.models.remove(listed);
            }
            Failure::Unreachable => self.breaker.unreachable(epoch, now),
            _ => self.breaker.failed(epoch, now),
        }
        if !matches!(failure, Failure::Busy | Failure::Missing) {
            self.last_error = Some(failure.to_string());
            self.forget_error_when_up();
        }
    }

    /// Takes over a listing of what is on disk.
    pub(super) fn list(&mut self, models: Vec<Model>) {
        let models = models.into_iter().map(|model| (model.name.as_str().into(), model)).collect();
        if models != self.models {
            self.models = models;
            self.listings += 1;
        }
    }

    /// Takes over a listing of what is in memory.
    pub(super) fn reside(&mut self, loaded: Vec<Loaded>) {
        self.loaded = loaded;
        self.answered_since.clear();
    }

    /// A probe was answered.
    pub(super) fn answered(&mut self, now: Time) {
        self.breaker.answered(now);
        self.forget_error_when_up();
    }

    /// A probe was not answered.
    pub(super) fn silent(&mut self, error: String, now: Time) {
        self.breaker.silent(now);
        self.last_error = Some(error);
    }

    /// When a node that called itself busy is to be asked again.
    pub(super) fn busy_until(&self) -> Option<Time> {
        self.busy_until
    }

    /// Ends a back-off that has passed.
    pub(super) fn end_back_off(&mut self, now: Time) {
        self.busy_until = self.busy_until.filter(|until| *until > now);
    }

    pub(super) fn view(&self) -> NodeView {
        NodeView {
            name: self.spec.name.clone(),
            state: self.breaker.state(),
            slots: self.spec.slots,
            waiting: 0,
            in_flight: self.in_flight,
            models: self.models.values().cloned().collect(),
            loaded: self.loaded.clone(),
            last_error: self.last_error.clone(),
            completed: self.completed,
            failed: self.failed,
            routed: self.routed,
            transitions: self.breaker.transitions(),
        }
    }

    fn forget_error_when_up(&mut self) {
        if self.breaker.is_faultless() {
            self.last_error = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: RequestId = RequestId(1);
    const NOW: Time = Duration::ZERO;

    fn model(name: &str, size_bytes: u64) -> Model {
        Model { name: name.into(), size_bytes, digest: String::new(), modified_unix: 0 }
    }

    fn node(slots: u32, vram_bytes: Option<u64>) -> Node {
        let mut node = Node::new(NodeSpec { name: "gpu".into(), slots, vram_bytes });
        node.answered(NOW);
        node.list(vec![model("m:latest", 6), model("n:1b", 5)]);
        node
    }

    #[test]
    fn a_listed_name_is_matched_as_given_before_the_other_spelling() {
        let mut node = node(1, None);
        assert_eq!(&**node.find(&Name::new("m")).unwrap().0, "m:latest");
        node.list(vec![model("m", 1), model("m:latest", 1)]);
        assert_eq!(&**node.find(&Name::new("m")).unwrap().0, "m");
        assert_eq!(&**node.find(&Name::new("m:latest")).unwrap().0, "m:latest");
        assert!(node.find(&Name::new("m:8b")).is_none());
    }

    #[test]
    fn slots_are_counted_for_each_model_apart() {
        let mut node = node(1, None);
        node.occupy(ID, &"n:1b".into(), 1);
        assert!(!node.has_free_slot("n:1b", NOW));
        assert!(node.has_free_slot("m:latest", NOW));
        node.vacate(ID, "n:1b");
        assert!(node.has_free_slot("n:1b", NOW));
        assert!(node.running.is_empty());
    }

    #[test]
    fn a_model_that_runs_or_has_answered_counts_as_loaded() {
        let mut node = node(1, None);
        let listed = "n:1b".into();
        let epoch = node.occupy(ID, &listed, 1);
        assert!(node.has_loaded("n:1b"));
        node.completed(&listed, epoch);
        node.vacate(ID, "n:1b");
        assert!(node.has_loaded("n:1b"));
        node.reside(Vec::new());
        assert!(!node.has_loaded("n:1b"));
    }

    #[test]
    fn room_is_what_reported_and_expected_models_leave() {
        let mut node = node(1, Some(10));
        let wanted = model("m:latest", 6);
        assert!(node.has_room_for(&wanted));
        node.occupy(ID, &"n:1b".into(), 1);
        assert!(!node.has_room_for(&wanted));
        node.vacate(ID, "n:1b");
        node.reside(vec![Loaded { name: "other".into(), vram_bytes: 5 }]);
        assert!(!node.has_room_for(&wanted));
        assert!(node.can_hold(&wanted) && !node.can_hold(&model("big", 11)));
    }

    #[test]
    fn a_busy_node_gets_nothing_for_a_second_and_stays_healthy() {
        let mut node = node(1, None);
        let epoch = node.occupy(ID, &"n:1b".into(), 1);
        node.vacate(ID, "n:1b");
        node.failed("n:1b", Failure::Busy, epoch, NOW);
        assert!(!node.has_free_slot("m:latest", Duration::from_millis(999)));
        assert!(node.has_free_slot("m:latest", Duration::from_secs(1)));
        assert_eq!(node.view().state, super::super::event::NodeState::Up);
    }

    #[test]
    fn a_missing_model_is_forgotten_until_it_is_listed_again() {
        let mut node = node(1, None);
        let epoch = node.occupy(ID, &"n:1b".into(), 1);
        node.failed("n:1b", Failure::Missing, epoch, NOW);
        assert!(node.find(&Name::new("n:1b")).is_none());
        node.list(vec![model("n:1b", 5)]);
        assert!(node.find(&Name::new("n:1b")).is_some());
    }

    #[test]
    fn the_last_error_is_shown_until_the_node_is_healthy_again() {
        let mut node = node(1, None);
        node.silent("connection refused".into(), NOW);
        assert_eq!(node.view().last_error.as_deref(), Some("connection refused"));
        node.answered(NOW);
        assert_eq!(node.view().last_error, None);
        let epoch = node.occupy(ID, &"n:1b".into(), 1);
        node.failed("n:1b", Failure::TimedOut, epoch, NOW);
        node.answered(NOW);
        assert_eq!(node.view().last_error.as_deref(), Some("sent no first byte in time"));
    }
}
