//! Is a node there, and what does it have? One task for each node keeps asking.
//!
//! Its loops ask whether the node answers at all, what is on its lists, and which models have the same weights. So a slow
//! listing does not delay the probes. A node counts as there only once it has listed its models. Whether it also
//! *generates* is judged by the requests themselves; if it did not, the last loop tries whether it does again.
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::canary::{CANARY_PATIENCE, send_canary};
use super::change::{ChangeKind, FleetChange};
use super::context::FleetContext;
use super::endpoint::NodeEndpoint;
use super::inquiry::{Inquiry, Sign};
use super::kind::Kind;
use super::settings::HealthSettings;
use super::twins::SAME_ENGINE;
use super::upstream::{AskError, Upstream};
use super::weights::Weights;
use scheduler::{Event, Loaded, Model, NodeId, NodeSpec};

/// Requests of one probe, one after the other, at most.
const MOST_REQUESTS: u32 = 4;
/// Models that are asked about, one after the other, before what they say is reported.
const MOST_SHOWN: usize = 16;
/// What a busy machine may add to their timeouts.
const STOPPED: Duration = Duration::from_secs(2);

/// Watches one node.
#[derive(Debug)]
pub struct Prober {
    node: NodeId,
    context: FleetContext,
    settings: HealthSettings,
    keep_alive: Duration,
    upstream: Upstream,
    state: State,
}

/// State that the loops share.
#[derive(Debug, Default)]
struct State {
    /// Where it was last found; its configuration may have changed since.
    endpoint: RefCell<Option<Arc<NodeEndpoint>>>,
    sign: RefCell<Sign>,
    version: RefCell<Option<String>>,
    /// Whether it answered the last probe.
    answers: Cell<bool>,
    /// Whether it has listed its models since it last came back.
    is_listed: Cell<bool>,
    /// Counts its returns: a listing requested before a return says nothing about the time after it.
    returns: Cell<u64>,
    came_back: Notify,
    /// Names of the models on its disk, once it has listed them.
    models: RefCell<Option<BTreeSet<String>>>,
    /// The models as last reported.
    reported: RefCell<Arc<[Model]>>,
    weights: RefCell<Weights>,
    has_listed: Notify,
    /// For a node that is not Ollama: the models it offers, all of which are in its memory.
    offered: RefCell<Vec<Loaded>>,
    /// Slots, as the node reports them.
    slots: Cell<Option<u32>>,
    /// Whether a canary is due or under way.
    is_trying: Cell<bool>,
    canary_due: Notify,
}

impl State {
    /// The models in the allocation of the last report if they are the same, by which the scheduler knows at once that
    /// nothing has changed.
    fn shared(&self, models: Vec<Model>) -> Arc<[Model]> {
        let mut known = self.reported.borrow_mut();
        if **known != *models {
            *known = models.into();
        }
        known.clone()
    }
}

/// When the node was last asked for its lists.
#[derive(Debug, Default)]
struct Asked {
    listed: Option<Duration>,
    looked: Option<Duration>,
}

impl Prober {
    /// `None` if the node has left already. Models that the prober has tried stay in memory for `keep_alive`.
    pub fn new(
        node: NodeId,
        context: &FleetContext,
        settings: HealthSettings,
        keep_alive: Duration,
        upstream: Upstream,
    ) -> Option<Self> {
        context.nodes.get(node)?;
        Some(Self { node, context: context.clone(), settings, keep_alive, upstream, state: State::default() })
    }

    /// Keeps asking until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep_probing() => {}
            () = self.keep_listing() => {}
            () = self.keep_comparing() => {}
            () = self.keep_trying() => {}
        }
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(self.settings.probe_interval_ms)
    }

    fn report(&self, event: Event) {
        self.context.dispatcher.report(event);
    }

    /// The means to ask the node, as configured now; `None` once it has left.
    fn inquiry(&self) -> Option<Inquiry> {
        let endpoint = self.context.nodes.get(self.node)?;
        let mut known = self.state.endpoint.borrow_mut();
        if !known.as_ref().is_some_and(|known| Arc::ptr_eq(known, &endpoint)) {
            // Its kind may have changed.
            self.state.sign.replace(Sign::Unknown);
            // The scheduler has been given its settings anew.
            self.state.slots.set(None);
            *known = Some(endpoint.clone());
        }
        let probe_timeout = endpoint.probe().unwrap_or(Duration::from_millis(self.settings.probe_timeout_ms));
        let listing_timeout = endpoint.listing().unwrap_or(Duration::from_secs(self.settings.listing_timeout_seconds));
        Some(Inquiry { upstream: self.upstream.clone(), endpoint, probe_timeout, listing_timeout })
    }

    // Is it there?

    async fn keep_probing(&self) {
        while let Some(inquiry) = self.inquiry() {
            self.probe(&inquiry).await;
            tokio::time::sleep(self.interval()).await;
        }
    }

    async fn probe(&self, inquiry: &Inquiry) {
        let (clock, name) = (self.context.clock, &inquiry.endpoint.name);
        let asked = clock.uptime();
        let sign = self.state.sign.borrow().clone();
        let was_unknown = sign == Sign::Unknown;
        let alive = inquiry.is_alive(sign).await;
        let heard = clock.now();
        self.context.metrics.probed(name, heard.uptime.saturating_sub(asked), heard.unix_ms);
        self.context.catalog.probed(self.node, heard.unix_ms);
        match alive {
            Ok(alive) => {
                self.state.sign.replace(alive.sign);
                if was_unknown {
                    self.found(inquiry);
                }
                self.hear_version(inquiry, alive.version);
                if !self.state.answers.replace(true) {
                    self.state.returns.set(self.state.returns.get() + 1);
                    self.state.came_back.notify_one();
                }
                if self.state.is_listed.get() {
                    self.answered();
                }
            }
            // The gateway could not ask, which says nothing about the node.
            Err(AskError::Starved) => {
                let error = "the gateway has no file descriptors left".to_owned();
                self.context.changes.warn(name, "a node could not be probed", error, heard.uptime);
            }
            // This process did not run, as on a machine that was suspended: it was not the node that took so long.
            Err(_) if heard.uptime.saturating_sub(asked) > MOST_REQUESTS * inquiry.probe_timeout + STOPPED => {}
            Err(error) => {
                self.state.answers.set(false);
                self.state.sign.replace(Sign::Unknown);
                self.went_silent(format!("{}: {error}", inquiry.endpoint.probed_path()));
            }
        }
    }

    /// A canary is begun first, so that no request of a user gets ahead of it.
    fn answered(&self) {
        if !self.state.is_trying.get() && self.context.dispatcher.begin_canary(self.node) {
            self.state.is_trying.set(true);
            self.state.canary_due.notify_one();
        }
        self.report(Event::Answered { node: self.node });
    }

    /// A node that comes back may have different models.
    fn went_silent(&self, error: String) {
        self.state.is_listed.set(false);
        self.context.catalog.hear_nothing(self.node);
        self.report(Event::Silent { node: self.node, error });
    }

    /// The node's kind is known now.
    fn found(&self, inquiry: &Inquiry) {
        let kind = inquiry.endpoint.found_kind();
        self.report(Event::Routes { node: self.node, routes: kind.routes() });
        if kind == Kind::Ollama && !inquiry.endpoint.aliases.is_empty() {
            tracing::warn!(
                node = &*inquiry.endpoint.name,
                "`aliases` of an Ollama node have no effect; use `models.aliases`"
            );
        }
    }

    fn hear_version(&self, inquiry: &Inquiry, version: Option<String>) {
        let Some(version) = version else { return };
        let before = self.state.version.replace(Some(version.clone()));
        if before.is_some_and(|before| before != version) {
            // The new version may have routes that the old one lacked.
            self.report(Event::Routes { node: self.node, routes: inquiry.endpoint.found_kind().routes() });
        }
        self.context.catalog.hear_version(self.node, version);
    }

    // What does it have?

    async fn keep_listing(&self) {
        let mut asked = Asked::default();
        loop {
            tokio::select! {
                () = self.state.came_back.notified() => asked = Asked::default(),
                () = tokio::time::sleep(self.interval()) => {}
            }
            let Some(inquiry) = self.inquiry() else { return };
            if self.state.answers.get() {
                self.list(&inquiry, &mut asked).await;
            }
        }
    }

    /// Asks for the lists that are due.
    async fn list(&self, inquiry: &Inquiry, asked: &mut Asked) {
        let (node, returns) = (self.node, self.state.returns.get());
        let now = self.context.clock.uptime();
        let is_due =
            |last: Option<Duration>, seconds| last.is_none_or(|last| now >= last + Duration::from_secs(seconds));
        let is_stale = self.context.catalog.take_stale(node);
        let is_needed = is_stale || !self.state.is_listed.get();
        let lists = is_needed || is_due(asked.listed, self.settings.models_interval_seconds);
        let looks = is_needed || is_due(asked.looked, self.settings.loaded_interval_seconds);
        let models = async { if lists { Some(self.models(inquiry).await) } else { None } };
        let loaded = async { if looks { Some(self.loaded(inquiry).await) } else { None } };
        let (models, loaded) = match inquiry.endpoint.found_kind() {
            Kind::Ollama => join(models, loaded).await,
            // All models that it offers are in its memory.
            Kind::OpenAi => (models.await, loaded.await),
        };
        let warn = |error, message| self.context.changes.warn(&inquiry.endpoint.name, message, error, now);
        match models {
            Some(Ok(mut models)) => {
                self.state.weights.borrow_mut().fill_in(&mut models);
                self.hear_models(&inquiry.endpoint.name, models.iter().map(|model| model.name.clone()).collect());
                self.report(Event::Listed { node, models: self.state.shared(models) });
                self.state.has_listed.notify_one();
            }
            Some(Err(error)) if !self.state.is_listed.get() => {
                return self.went_silent(format!("the list of models: {error}"));
            }
            Some(Err(error)) => warn(error, "the models could not be listed"),
            None => {}
        }
        match loaded {
            Some(Ok(loaded)) => self.report(Event::Resident { node, loaded }),
            Some(Err(error)) => warn(error, "the loaded models could not be listed"),
            None => {}
        }
        asked.listed = if lists { Some(now) } else { asked.listed };
        asked.looked = if looks { Some(now) } else { asked.looked };
        let is_new = !self.state.is_listed.get() && self.state.answers.get();
        // If the node went away and came back meanwhile, this listing says nothing about it.
        if is_new && self.state.returns.get() == returns {
            self.state.is_listed.set(true);
            self.answered();
        }
    }

    /// Tries whether it generates again.
    async fn keep_trying(&self) {
        loop {
            self.state.canary_due.notified().await;
            let Some(inquiry) = self.inquiry() else { return };
            let loaded = tokio::time::timeout(CANARY_PATIENCE, self.loaded(&inquiry)).await;
            let loaded = loaded.ok().and_then(Result::ok).unwrap_or_default();
            let verdict = send_canary(&inquiry, &loaded, self.keep_alive).await;
            self.context.metrics.canary_ended(&inquiry.endpoint.name, verdict.label());
            self.state.is_trying.set(false);
            self.report(Event::CanaryEnded { node: self.node, verdict });
        }
    }

    // Which models have the same weights?

    async fn keep_comparing(&self) {
        loop {
            self.state.has_listed.notified().await;
            let Some(inquiry) = self.inquiry() else { return };
            while inquiry.endpoint.found_kind() == Kind::Ollama && self.compare(&inquiry).await {}
        }
    }

    /// Asks about a few models. Returns whether there may be more to ask about now.
    async fn compare(&self, inquiry: &Inquiry) -> bool {
        let listed = self.state.reported.borrow().clone();
        let models = self.state.weights.borrow().to_ask(&listed, MOST_SHOWN);
        let mut is_well = !models.is_empty();
        for Model { name, digest, .. } in &models {
            match inquiry.show(name).await {
                Ok(shown) => self.state.weights.borrow_mut().learn(digest, Some(&shown)),
                Err(AskError::Status(_)) => self.state.weights.borrow_mut().learn(digest, None),
                // It is asked again after the next listing.
                Err(_) => {
                    is_well = false;
                    break;
                }
            }
        }
        let mut models = self.state.reported.borrow().to_vec();
        self.state.weights.borrow_mut().fill_in(&mut models);
        let is_new = *models != **self.state.reported.borrow();
        if is_new {
            self.report(Event::Listed { node: self.node, models: self.state.shared(models) });
        }
        is_well
    }

    /// Tells of models that came and went.
    fn hear_models(&self, node: &str, names: BTreeSet<String>) {
        let before = self.state.models.replace(Some(names.clone()));
        let Some(before) = before.filter(|before| *before != names) else { return };
        let now = self.context.clock.now();
        let tell = |kind, models| {
            if let Some(change) = FleetChange::of_models(kind, node, models, now.unix_ms) {
                self.context.changes.tell(change, now);
            }
        };
        tell(ChangeKind::ModelsNew, names.difference(&before).map(String::as_str).collect());
        tell(ChangeKind::ModelsGone, before.difference(&names).map(String::as_str).collect());
    }

    async fn models(&self, inquiry: &Inquiry) -> Result<Vec<Model>, String> {
        let listing = inquiry.models().await?;
        self.tell_skipped(inquiry, listing.skipped);
        if inquiry.endpoint.found_kind() == Kind::OpenAi {
            let offered = |model: &Model| Loaded { name: model.name.clone(), vram_bytes: 0, context_length: None };
            self.state.offered.replace(listing.entries.iter().map(offered).collect());
            inquiry.endpoint.calls_its_models(listing.names_there);
            self.context.catalog.hear_loaded(self.node, listing.said.clone());
            self.hear_slots(inquiry).await;
        }
        self.context.catalog.hear_tags(self.node, listing.said);
        Ok(listing.entries)
    }

    async fn loaded(&self, inquiry: &Inquiry) -> Result<Vec<Loaded>, String> {
        if inquiry.endpoint.found_kind() == Kind::OpenAi {
            return Ok(self.state.offered.borrow().clone());
        }
        let listing = inquiry.loaded().await?;
        self.tell_skipped(inquiry, listing.skipped);
        let twins = self.context.catalog.hear_loaded(self.node, listing.said);
        twins.into_iter().for_each(|twin| self.tell_twin(inquiry, twin));
        Ok(listing.entries)
    }

    fn tell_twin(&self, inquiry: &Inquiry, twin: NodeId) {
        let Some(other) = self.context.nodes.get(twin) else { return };
        let error = format!("`{}` keeps the same models until the same moments", other.name);
        self.context.changes.warn(&inquiry.endpoint.name, SAME_ENGINE, error, self.context.clock.uptime());
    }

    fn tell_skipped(&self, inquiry: &Inquiry, skipped: usize) {
        if skipped > 0 {
            let name = &inquiry.endpoint.name;
            self.context.metrics.listing_skipped(name, skipped as u64);
            tracing::debug!(node = &**name, skipped, "entries of a node's list cannot be used");
        }
    }

    /// If the operator does not configure the number of slots, the node may report it.
    async fn hear_slots(&self, inquiry: &Inquiry) {
        let spec = &inquiry.endpoint.spec;
        let slots = if spec.slots.is_none() { inquiry.slots().await } else { None };
        if slots.is_some() && self.state.slots.replace(slots) != slots {
            self.report(Event::NodeChanged { node: self.node, spec: NodeSpec { slots, ..spec.clone() } });
        }
    }
}
