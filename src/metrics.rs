//! Which metrics exist, and what changes them? Every Prometheus family is declared once, with one method for each
//! event.
//!
//! Labels are bounded: `model` is only ever a name that a node lists now (`_unknown` otherwise, `_other` beyond a
//! limit), `node` is one of the present nodes (the series of a node that leaves end), and `route` is a template. Users
//! are told apart only if the operator wants it, and then up to a cap. Keys and request ids are never labels. A series
//! whose labels are known begins at 0 before its first event, because a counter that first appears at 1 shows no
//! increase.
mod families;
mod models;
mod process;
mod pulse;
mod scrape;
mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::{Histogram, Registry};
use serde::{Deserialize, Serialize};

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

/// How a request ended, for the `outcome` label.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// The route's template.
    pub route: &'a str,
    /// A listed model, or [`UNKNOWN_MODEL`].
    pub model: &'a str,
    /// Whether it was streamed.
    pub stream: bool,
    /// The status code that the client saw; 499 if it left before that.
    pub code: u16,
    /// `ok`, `client_error`, `rate_limited`, `upstream_error`, `timeout`, `client_cancelled` or `overloaded`.
    pub outcome: &'a str,
    /// From arrival to end.
    pub duration: Duration,
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
            families.rate_limited.with_label_values(&[limit]);
        }
        for reason in REJECTIONS {
            families.queue_rejected.with_label_values(&[reason]);
        }
        for reason in FAILURES {
            families.retries.with_label_values(&[reason]);
        }
        for what in LOCK_USES {
            families.scheduler_lock.with_label_values(&[what]);
        }
        for stage in STAGES {
            families.overhead.with_label_values(&[stage]);
        }
    }

    fn begin_route(&self, route: &str) {
        self.families.in_flight.with_label_values(&[route]);
        self.families.request_duration.with_label_values(&[route, UNKNOWN_MODEL, "false"]);
        self.begin_ends(route, UNKNOWN_MODEL);
    }

    fn begin_ends(&self, route: &str, model: &str) {
        for (code, outcome) in ENDS {
            self.families.requests.with_label_values(&[route, model, code, outcome]);
        }
    }

    /// What is counted for the plots that the gateway keeps itself.
    pub fn pulses(&self) -> &Pulses {
        &self.pulses
    }

    /// How long the scheduler's lock is held, to decide and to look.
    pub fn scheduler_lock(&self) -> [Histogram; 2] {
        LOCK_USES.map(|what| self.families.scheduler_lock.with_label_values(&[what]))
    }

    /// A node joined: its series begin.
    pub fn node_joined(&self, node: &str) {
        self.departed.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
        self.pulses.join(node);
        let families = &self.families;
        for outcome in FAILURES.into_iter().chain(["ok", "client_error", "cancelled"]) {
            families.node_requests.with_label_values(&[node, outcome]);
        }
        families.claims_corrected.with_label_values(&[node]);
        for reason in ROUTING {
            families.routing.with_label_values(&[node, reason]);
        }
        for state in BREAKER_STATES {
            families.transitions.with_label_values(&[node, state]);
        }
        for part in PROMPT_TOKENS {
            families.prompt_tokens.with_label_values(&[node, UNKNOWN_MODEL, part]);
        }
        families.listing_skipped.with_label_values(&[node]);
        for outcome in CANARIES {
            families.canaries.with_label_values(&[node, outcome]);
        }
        for histograms in [&families.node_duration, &families.probe_duration, &families.model_load] {
            histograms.with_label_values(&[node]);
        }
        for gauges in [&families.node_up, &families.node_slots, &families.node_in_use] {
            gauges.with_label_values(&[node]);
        }
        for gauges in [&families.probed_at, &families.node_vram] {
            gauges.with_label_values(&[node]);
        }
        for state in NODE_STATES {
            families.node_state.with_label_values(&[node, state]);
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
        for histograms in [&families.first_token, &families.per_token, &families.queue_wait] {
            histograms.with_label_values(&[model]);
        }
        families.queue_depth.with_label_values(&[model]);
        for kind in ["input", "output"] {
            families.tokens.with_label_values(&[model, kind]);
        }
        let route = self.main_route.as_str();
        for stream in ["false", "true"] {
            families.request_duration.with_label_values(&[route, model, stream]);
        }
        self.begin_ends(route, model);
    }

    /// A user exists.
    pub fn meet_user(&self, user: &str) {
        if let Some(users) = &self.users {
            users.meet(user);
        }
    }

    /// A request was parsed. Pair it with [`Metrics::left`].
    pub fn entered(&self, route: &'static str, model: &str) {
        let model = self.label(model);
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let models = begun.entry(route).or_default();
        if !models.contains(model) {
            // So that the first failure on a rarely used route shows as an increase too.
            models.insert(model.to_owned());
            self.begin_ends(route, model);
        }
        drop(begun);
        self.families.in_flight.with_label_values(&[route]).inc();
    }

    /// A request that had [entered](Metrics::entered) ended.
    pub fn left(&self, route: &str) {
        self.families.in_flight.with_label_values(&[route]).dec();
    }

    /// A request ended, admitted or not.
    pub fn ended(&self, ended: Ended<'_>) {
        let (code, model) = (ended.code.to_string(), self.label(ended.model));
        self.families.requests.with_label_values(&[ended.route, model, &code, ended.outcome]).inc();
        let stream = if ended.stream { "true" } else { "false" };
        let duration = self.families.request_duration.with_label_values(&[ended.route, model, stream]);
        duration.observe(ended.duration.as_secs_f64());
    }

    /// A user's request ended, with its tokens.
    pub fn user_ended(&self, user: &str, code: u16, prompt: u64, completion: u64) {
        if let Some(users) = &self.users {
            users.ended(user, code, prompt, completion);
        }
    }

    /// A node's first byte came.
    pub fn first_token(&self, model: &str, after: Duration) {
        self.families.first_token.with_label_values(&[self.label(model)]).observe(after.as_secs_f64());
    }

    /// A complete stream ended: `tokens` in all, over `after_first`.
    pub fn decoded(&self, model: &str, tokens: u64, after_first: Duration) {
        if tokens > 1 {
            let per_token = after_first.as_secs_f64() / (tokens - 1) as f64;
            self.families.per_token.with_label_values(&[self.label(model)]).observe(per_token);
        }
    }

    /// The gateway's own work on a request: `auth`, `route`, `forward` or `record`.
    pub fn overhead(&self, stage: &str, spent: Duration) {
        self.families.overhead.with_label_values(&[stage]).observe(spent.as_secs_f64());
    }

    /// Tokens were recorded in usage.
    pub fn tokens(&self, model: &str, prompt: u64, completion: u64) {
        let model = self.label(model);
        self.families.tokens.with_label_values(&[model, "input"]).inc_by(prompt);
        self.families.tokens.with_label_values(&[model, "output"]).inc_by(completion);
    }

    /// The configuration was read; `is_good` if it had no mistake.
    pub fn config_loaded(&self, is_good: bool, at_unix_ms: i64) {
        self.families.config_good.set(f64::from(u8::from(is_good)));
        if is_good {
            self.families.config_loaded_at.set(at_unix_ms as f64 / 1e3);
        }
    }

    /// The certificate that clients are served ends at this time, in seconds since 1970.
    pub fn certificate_expires(&self, unix_seconds: i64) {
        self.families.certificate_expiry.with_label_values::<&str>(&[]).set(unix_seconds as f64);
    }

    /// Daily sums of usage were compared with the rows; this many differed.
    pub fn rollups_compared(&self, wrong: u64) {
        self.families.rollup_mismatches.set(wrong as f64);
    }

    /// A limit of a user or key refused a request; `limit` is its name in the configuration.
    pub fn rate_limited(&self, limit: &str) {
        self.families.rate_limited.with_label_values(&[limit]).inc();
    }

    /// A node reported more or fewer tokens than are possible for the request.
    pub fn claim_corrected(&self, node: &str) {
        self.families.claims_corrected.with_label_values(&[node]).inc();
    }

    /// A client's SDK marked the request as a retry.
    pub fn client_retried(&self) {
        self.families.client_retries.inc();
    }

    /// A request got a slot.
    pub fn waited(&self, model: &str, wait: Duration) {
        self.families.queue_wait.with_label_values(&[self.label(model)]).observe(wait.as_secs_f64());
    }

    /// A request got no answer from any node.
    pub fn queue_rejected(&self, reason: &str) {
        self.families.queue_rejected.with_label_values(&[reason]).inc();
    }

    /// An attempt ended; `outcome` is `ok`, `client_error`, `cancelled` or a failure's name.
    pub fn attempt(&self, node: &str, outcome: &str, duration: Duration) {
        self.families.node_requests.with_label_values(&[node, outcome]).inc();
        self.families.node_duration.with_label_values(&[node]).observe(duration.as_secs_f64());
    }

    /// Another attempt follows one that failed in this way.
    pub fn retried(&self, failure: &str) {
        self.families.retries.with_label_values(&[failure]).inc();
    }

    /// A load that the gateway ordered ended.
    pub fn loaded(&self, node: &str, duration: Duration) {
        self.families.model_load.with_label_values(&[node]).observe(duration.as_secs_f64());
    }

    /// This many entries of a node's list could not be used.
    pub fn listing_skipped(&self, node: &str, entries: u64) {
        self.families.listing_skipped.with_label_values(&[node]).inc_by(entries);
    }

    /// A request of the gateway's own showed whether a node works again.
    pub fn canary_ended(&self, node: &str, outcome: &str) {
        self.families.canaries.with_label_values(&[node, outcome]).inc();
    }

    /// A node was probed.
    pub fn probed(&self, node: &str, duration: Duration, at_unix_ms: i64) {
        self.families.probe_duration.with_label_values(&[node]).observe(duration.as_secs_f64());
        self.families.probed_at.with_label_values(&[node]).set(at_unix_ms as f64 / 1e3);
    }
}
