//! Which metrics exist, and what changes them? Every Prometheus family is declared once, with one method for each
//! event.
//!
//! Labels are bounded: `model` is only ever a name that a node lists now (`_unknown` otherwise, `_other` beyond a
//! limit), `node` is one of the present nodes (the series of a node that leaves end), and `route` is a template. Users
//! are told apart only if the operator wants it, and then up to a cap. Keys and request ids are never labels. A series
//! whose labels are known begins at 0 before its first event, because a counter that first appears at 1 shows no
//! increase.
mod declare;
mod events;
mod families;
mod models;
mod process;
mod pulse;
mod scrape;
mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use prometheus::{Histogram, Registry};
use serde::{Deserialize, Serialize};

pub use events::Ended;
use families::Families;
use models::{KnownModels, OTHER_MODELS};
use process::Process;
pub use pulse::{Beat, Pulse, Pulses};
pub use scrape::{ClusterGauges, NodeGauges, OutboxGauges, Snapshot};
pub use users::UserLabel;
use users::UserLabelSet;

/// The `model` label for names that no node lists.
pub const UNKNOWN_MODEL: &str = "_unknown";
const NODE_STATES: [&str; 4] = ["up", "suspect", "down", "draining"];
const BREAKER_STATES: [&str; 3] = ["closed", "open", "half_open"];
const ROUTING: [&str; 3] = ["warm", "cold", "fallback"];
const CANARIES: [&str; 3] = ["answered", "failed", "inconclusive"];
const PROMPT_TOKENS: [&str; 4] = ["sent", "expected_cached", "timed", "measured_cached"];
const LOCK_USES: [&str; 2] = ["decide", "look"];
const STAGES: [&str; 4] = ["auth", "route", "forward", "record"];
/// How many nodes that left are remembered, so that their last requests do not begin new series.
const MAX_DEPARTED: usize = 256;
/// Why an attempt fails.
const FAILURES: [&str; 13] = [
    "unreachable",
    "reset",
    "crashed",
    "timed_out",
    "garbled",
    "busy",
    "missing",
    "unsupported",
    "unloadable",
    "denied",
    "silent",
    "stuck",
    "starved",
];
const REJECTIONS: [&str; 10] =
    ["user_full", "full", "deadline", "no_node", "no_route", "exhausted", "indicted", "stopping", "storage", "revoked"];
/// The usual ways to end. A stream that breaks has already sent 200.
const ENDS: [(&str, &str); 10] = [
    ("200", "ok"),
    ("200", "upstream_error"),
    ("200", "timeout"),
    ("400", "client_error"),
    ("404", "client_error"),
    ("429", "rate_limited"),
    ("499", "client_cancelled"),
    ("502", "upstream_error"),
    ("503", "overloaded"),
    ("504", "timeout"),
];

/// What `GET /metrics` exports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSettings {
    /// `off`, or `all` = metrics per user, labelled with the user's name. Anybody who can reach `/metrics` can read the
    /// names. Default `off`.
    pub user_label: UserLabel,
    /// Users with metrics of their own, first come, first served; the rest share the label `_other`. Default `100`.
    pub user_cap: usize,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self { user_label: UserLabel::Off, user_cap: 100 }
    }
}

/// All families of one gateway, in its own registry.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Families,
    pulses: Pulses,
    process: Process,
    users: Option<UserLabelSet>,
    /// Models that have their own series.
    known_models: Mutex<KnownModels>,
    /// Two concurrent scrapes would see each other's half-set gauges, and count events twice.
    scraping: Mutex<()>,
    /// By route, the models whose series have begun.
    begun: Mutex<BTreeMap<&'static str, BTreeSet<String>>>,
    /// Nodes that left; their last requests may still be counted.
    departed: Mutex<BTreeSet<String>>,
    /// The route that gets most requests; the series of each model begin there.
    main_route: String,
}

impl Metrics {
    /// Declares every family, with the series of the `routes` that make nodes work, the main one first.
    ///
    /// # Errors
    /// Two families have the same name, which a test rules out.
    pub fn new(settings: &MetricsSettings, routes: &[&str]) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let users = match settings.user_label {
            UserLabel::Off => None,
            UserLabel::All => Some(UserLabelSet::declare(&registry, settings.user_cap)?),
        };
        let metrics = Self {
            families: Families::declare(&registry)?,
            pulses: Pulses::default(),
            process: Process::declare(&registry)?,
            users,
            registry,
            known_models: Mutex::default(),
            scraping: Mutex::default(),
            begun: Mutex::default(),
            departed: Mutex::default(),
            main_route: routes.first().copied().unwrap_or_default().to_owned(),
        };
        metrics.begin();
        routes.iter().for_each(|route| metrics.begin_route(route));
        [UNKNOWN_MODEL, OTHER_MODELS].iter().for_each(|model| metrics.meet_model(model));
        Ok(metrics)
    }

    fn begin(&self) {
        let families = &self.families;
        for limit in ["requests_per_minute", "tokens_per_minute", "tokens_per_day", "max_concurrency"] {
            families.requests.rate_limited.with_label_values(&[limit]);
        }
        for reason in REJECTIONS {
            families.queue.rejected.with_label_values(&[reason]);
        }
        for reason in FAILURES {
            families.attempts.retries.with_label_values(&[reason]);
        }
        for what in LOCK_USES {
            families.queue.lock.with_label_values(&[what]);
        }
        for stage in STAGES {
            families.requests.overhead.with_label_values(&[stage]);
        }
    }

    fn begin_route(&self, route: &str) {
        self.families.requests.in_flight.with_label_values(&[route]);
        self.families.requests.duration.with_label_values(&[route, UNKNOWN_MODEL, "false"]);
        self.begin_ends(route, UNKNOWN_MODEL);
    }

    fn begin_ends(&self, route: &str, model: &str) {
        for (code, outcome) in ENDS {
            self.families.requests.ended.with_label_values(&[route, model, code, outcome]);
        }
    }

    /// What is counted for the plots that the gateway keeps itself.
    pub fn pulses(&self) -> &Pulses {
        &self.pulses
    }

    /// How long the scheduler's lock is held, to decide and to look.
    pub fn scheduler_lock(&self) -> [Histogram; 2] {
        LOCK_USES.map(|what| self.families.queue.lock.with_label_values(&[what]))
    }

    /// A node joined: its series begin.
    pub fn node_joined(&self, node: &str) {
        self.departed.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
        self.pulses.join(node);
        let families = &self.families;
        for outcome in FAILURES.into_iter().chain(["ok", "client_error", "cancelled"]) {
            families.attempts.ended.with_label_values(&[node, outcome]);
        }
        families.attempts.claims_corrected.with_label_values(&[node]);
        for reason in ROUTING {
            families.attempts.routing.with_label_values(&[node, reason]);
        }
        for state in BREAKER_STATES {
            families.nodes.transitions.with_label_values(&[node, state]);
        }
        for part in PROMPT_TOKENS {
            families.attempts.prompt_tokens.with_label_values(&[node, UNKNOWN_MODEL, part]);
        }
        families.nodes.listing_skipped.with_label_values(&[node]);
        for outcome in CANARIES {
            families.nodes.canaries.with_label_values(&[node, outcome]);
        }
        for histograms in [&families.attempts.duration, &families.nodes.probe_duration, &families.attempts.model_load] {
            histograms.with_label_values(&[node]);
        }
        for gauges in [&families.nodes.up, &families.nodes.slots, &families.nodes.in_use] {
            gauges.with_label_values(&[node]);
        }
        for gauges in [&families.nodes.probed_at, &families.nodes.vram] {
            gauges.with_label_values(&[node]);
        }
        for state in NODE_STATES {
            families.nodes.state.with_label_values(&[node, state]);
        }
    }

    /// A node left: its series end.
    pub fn node_left(&self, node: &str) {
        let mut departed = self.departed.lock().unwrap_or_else(PoisonError::into_inner);
        if departed.len() >= MAX_DEPARTED {
            departed.pop_first();
        }
        departed.insert(node.to_owned());
        self.pulses.leave(node);
        self.families.end_nodes(&BTreeSet::from([node.to_owned()]));
    }

    /// The label for a model.
    fn label<'a>(&self, model: &'a str) -> &'a str {
        if model == UNKNOWN_MODEL {
            return model;
        }
        let (label, is_new) = self.known_models.lock().unwrap_or_else(PoisonError::into_inner).label(model);
        if is_new {
            self.meet_model(label);
        }
        label
    }

    /// Begins and ends the series of models as the nodes' lists change.
    fn list_models(&self, listed: &BTreeSet<&str>) {
        let (new, gone) = self.known_models.lock().unwrap_or_else(PoisonError::into_inner).list(listed);
        new.iter().for_each(|model| self.meet_model(model));
        if !gone.is_empty() {
            let gone: BTreeSet<String> = gone.into_iter().collect();
            let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
            begun.values_mut().for_each(|models| models.retain(|model| !gone.contains(model)));
            drop(begun);
            self.families.end_models(&gone);
        }
    }

    /// A model is listed or used for the first time.
    fn meet_model(&self, model: &str) {
        let families = &self.families;
        for histograms in [&families.requests.first_token, &families.requests.per_token, &families.queue.wait] {
            histograms.with_label_values(&[model]);
        }
        families.queue.depth.with_label_values(&[model]);
        for kind in ["input", "output"] {
            families.requests.tokens.with_label_values(&[model, kind]);
        }
        let route = self.main_route.as_str();
        for stream in ["false", "true"] {
            families.requests.duration.with_label_values(&[route, model, stream]);
        }
        self.begin_ends(route, model);
    }

    /// A user exists.
    pub fn meet_user(&self, user: &str) {
        if let Some(users) = &self.users {
            users.meet(user);
        }
    }
}
