//! Which families are exported? Each one once, with its name, help, labels and buckets.
use std::collections::{BTreeSet, HashMap};

use prometheus::core::Collector;
use prometheus::{
    Counter, Error, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};

const DURATION_BUCKETS: [f64; 14] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0];
const FIRST_TOKEN_BUCKETS: [f64; 14] = [0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0];
const QUEUE_BUCKETS: [f64; 12] = [0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 100.0, 300.0];
const TOKEN_BUCKETS: [f64; 13] = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];
const OVERHEAD_BUCKETS: [f64; 10] = [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1];
const LOCK_BUCKETS: [f64; 10] = [0.000005, 0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.05];
const LOAD_BUCKETS: [f64; 11] = [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0];
const PROBE_BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

/// Handles on all families.
#[derive(Debug)]
pub(super) struct Families {
    pub(super) requests: IntCounterVec,
    pub(super) request_duration: HistogramVec,
    pub(super) first_token: HistogramVec,
    pub(super) per_token: HistogramVec,
    pub(super) overhead: HistogramVec,
    pub(super) in_flight: IntGaugeVec,
    pub(super) tokens: IntCounterVec,
    pub(super) rate_limited: IntCounterVec,
    pub(super) claims_corrected: IntCounterVec,
    pub(super) listing_skipped: IntCounterVec,
    pub(super) canaries: IntCounterVec,
    pub(super) client_retries: IntCounter,
    pub(super) queue_depth: IntGaugeVec,
    pub(super) queue_wait: HistogramVec,
    pub(super) queue_rejected: IntCounterVec,
    pub(super) routing: IntCounterVec,
    pub(super) retries: IntCounterVec,
    pub(super) node_up: IntGaugeVec,
    pub(super) node_state: IntGaugeVec,
    pub(super) node_slots: IntGaugeVec,
    pub(super) node_in_use: IntGaugeVec,
    pub(super) node_requests: IntCounterVec,
    pub(super) node_duration: HistogramVec,
    pub(super) node_loaded: IntGaugeVec,
    pub(super) prompt_tokens: IntCounterVec,
    pub(super) scheduler_lock: HistogramVec,
    pub(super) node_vram: GaugeVec,
    pub(super) model_load: HistogramVec,
    pub(super) probe_duration: HistogramVec,
    pub(super) probed_at: GaugeVec,
    pub(super) transitions: IntCounterVec,
    pub(super) config_good: Gauge,
    pub(super) config_loaded_at: Gauge,
    pub(super) certificate_expiry: GaugeVec,
    pub(super) usage_backlog: IntGauge,
    pub(super) usage_ready: Gauge,
    pub(super) outbox_waiting: Gauge,
    pub(super) outbox_parked: Gauge,
    pub(super) database_up: Gauge,
    pub(super) rollup_mismatches: Gauge,
    pub(super) sharing_gateways: IntGauge,
    pub(super) sharing_settled: IntGauge,
    pub(super) scheduler_role: IntGaugeVec,
    pub(super) scheduler_epoch: IntGauge,
    pub(super) scheduler_handovers: IntGauge,
    pub(super) link_delay: Gauge,
}

/// Declares families in one registry, adding the common prefix.
pub(super) struct Declare<'a>(pub(super) &'a Registry);

impl Families {
    /// # Errors
    /// Two families have the same name.
    pub(super) fn declare(registry: &Registry) -> Result<Self, Error> {
        let declare = Declare(registry);
        let build = declare.int_gauges("build_info", "The running version; always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            requests: declare.counters(
                "requests_total",
                "Requests that ended, by outcome.",
                &["route", "model", "code", "outcome"],
            )?,
            request_duration: declare.histograms(
                "request_duration_seconds",
                "Time from a request's arrival to the end of its answer.",
                &["route", "model", "stream"],
                &DURATION_BUCKETS,
            )?,
            first_token: declare.histograms(
                "time_to_first_token_seconds",
                "Time from a request's arrival to the node's first byte, waiting included.",
                &["model"],
                &FIRST_TOKEN_BUCKETS,
            )?,
            per_token: declare.histograms(
                "time_per_output_token_seconds",
                "For complete streams, the time after the first token divided by the number of tokens after it.",
                &["model"],
                &TOKEN_BUCKETS,
            )?,
            overhead: declare.histograms(
                "overhead_seconds",
                "The gateway's own time for a request, by stage: checking the key (auth); reading the request, its \
                 model, limits and edits (route); reading and editing the whole answer (forward); holding the end back \
                 until the usage row is safe (record). No other waiting counts.",
                &["stage"],
                &OVERHEAD_BUCKETS,
            )?,
            in_flight: declare.int_gauges(
                "requests_in_flight",
                "Requests that were accepted and have not ended.",
                &["route"],
            )?,
            tokens: declare.counters(
                "tokens_total",
                "Tokens recorded in usage rows, by input and output.",
                &["model", "type"],
            )?,
            rate_limited: declare.counters(
                "rate_limited_total",
                "Requests that a limit of their user or key refused, by limit.",
                &["limit"],
            )?,
            claims_corrected: declare.counters(
                "usage_claims_corrected_total",
                "Answers whose node reported more or fewer tokens than are possible.",
                &["node"],
            )?,
            listing_skipped: declare.counters(
                "node_listing_entries_skipped_total",
                "Entries of the node's lists of models that could not be used.",
                &["node"],
            )?,
            canaries: declare.counters(
                "node_canaries_total",
                "Requests of the gateway's own to a node that had produced nothing: it answered (answered), it did not \
                 (failed), or it could not be asked (inconclusive).",
                &["node", "outcome"],
            )?,
            client_retries: declare
                .counter("client_retries_total", "Requests that the client's SDK marked as a retry.")?,
            queue_depth: declare.int_gauges("queue_depth", "Requests waiting for a slot.", &["model"])?,
            queue_wait: declare.histograms(
                "queue_wait_seconds",
                "Time that requests waited for a slot.",
                &["model"],
                &QUEUE_BUCKETS,
            )?,
            queue_rejected: declare.counters(
                "queue_rejected_total",
                "Requests that got no answer from any node, by reason.",
                &["reason"],
            )?,
            routing: declare.counters(
                "routing_decisions_total",
                "Requests sent to the node, by reason: the model was in memory or being loaded (warm), it was not \
                 (cold), or another attempt had failed (fallback).",
                &["node", "reason"],
            )?,
            retries: declare.counters(
                "retries_total",
                "Further attempts after one that failed before its first byte, by how it failed.",
                &["reason"],
            )?,
            node_up: declare.int_gauges("node_up", "Whether the node can be given requests: 1 or 0.", &["node"])?,
            node_state: declare.int_gauges(
                "node_state",
                "The node's state: 1 for the current one, 0 for the others.",
                &["node", "state"],
            )?,
            node_slots: declare.int_gauges(
                "node_slots",
                "Requests that one loaded model serves at a time on the node.",
                &["node"],
            )?,
            node_in_use: declare.int_gauges(
                "node_slots_in_use",
                "Requests running on the node, all models together.",
                &["node"],
            )?,
            node_requests: declare.counters(
                "node_requests_total",
                "Attempts on the node that ended, by outcome.",
                &["node", "outcome"],
            )?,
            node_duration: declare.histograms(
                "node_request_duration_seconds",
                "Time of attempts, from taking the slot to the end of the node's answer.",
                &["node"],
                &DURATION_BUCKETS,
            )?,
            node_loaded: declare.int_gauges(
                "node_model_loaded",
                "Whether the model is in the node's memory: 1 or 0, for each model on its disk.",
                &["node", "model"],
            )?,
            prompt_tokens: declare.counters(
                "node_prompt_tokens_total",
                "Prompt tokens that the node was sent, by model: all of them (sent); those expected to be in its prompt \
                 cache (expected_cached); those of prompts that were timed (timed), and how many of these must have \
                 been in the cache, as they were read so fast (measured_cached).",
                &["node", "model", "part"],
            )?,
            scheduler_lock: declare.histograms(
                "scheduler_lock_seconds",
                "How long the lock of the scheduler was held at a time: to take in an event and decide (decide), or to \
                 read for a view (look).",
                &["use"],
                &LOCK_BUCKETS,
            )?,
            node_vram: declare.gauges("node_vram_bytes", "Memory used by loaded models.", &["node"])?,
            model_load: declare.histograms(
                "model_load_seconds",
                "Time to load a model into the node's memory, for loads that the gateway ordered.",
                &["node"],
                &LOAD_BUCKETS,
            )?,
            probe_duration: declare.histograms(
                "node_probe_duration_seconds",
                "Time until the node answered a probe, or the probe timed out.",
                &["node"],
                &PROBE_BUCKETS,
            )?,
            probed_at: declare.gauges(
                "node_last_probe_timestamp_seconds",
                "Unix time of the node's last probe; 0 before the first.",
                &["node"],
            )?,
            transitions: declare.counters(
                "circuit_transitions_total",
                "Changes of the node's circuit breaker, by new state: down (open), on trial (half_open), up (closed).",
                &["node", "to"],
            )?,
            config_good: declare.gauge(
                "config_last_reload_successful",
                "Whether the configuration was valid when last read: 1 or 0.",
            )?,
            config_loaded_at: declare
                .gauge("config_last_reload_timestamp_seconds", "Unix time when a valid configuration was last read.")?,
            certificate_expiry: declare.gauges(
                "tls_certificate_expiry_seconds",
                "Unix time when the certificate that clients are served expires; absent without TLS.",
                &[],
            )?,
            usage_backlog: declare.int_gauge(
                "usage_rows_waiting",
                "Usage rows in memory: those of running requests, and those not yet written.",
            )?,
            usage_ready: declare
                .gauge("usage_storage_ready", "Whether usage can be written to the local file: 1 or 0.")?,
            outbox_waiting: declare
                .gauge("usage_outbox_rows", "Usage rows in the local file that Postgres does not have yet.")?,
            outbox_parked: declare.gauge(
                "usage_parked_rows",
                "Usage rows that Postgres refused; they stay in the local file until the operator deals with them.",
            )?,
            database_up: declare
                .gauge("database_up", "Whether Postgres answered last time: 1 or 0; 1 without Postgres.")?,
            rollup_mismatches: declare.gauge(
                "usage_rollup_mismatches",
                "Daily sums of usage that differed from the rows of today and yesterday when last compared.",
            )?,
            sharing_gateways: declare.int_gauge(
                "sharing_gateways",
                "Gateways that use these nodes at the same time; 1 means that this one is alone.",
            )?,
            sharing_settled: declare.int_gauge(
                "sharing_settled",
                "Whether this gateway knows which slots it may use: 1 or 0. Until it does, it may use fewer slots than it could.",
            )?,
            scheduler_role: declare.int_gauges(
                "scheduler_role",
                "This gateway's part in scheduling: 1 for its present role, `alone`, `sharing`, `seeking`, `leading` or \
                 `following`, else 0.",
                &["role"],
            )?,
            scheduler_epoch: declare.int_gauge(
                "scheduler_epoch",
                "The epoch of the lease by which this gateway leads or follows; 0 without one. The same at all gateways.",
            )?,
            scheduler_handovers: declare.int_gauge(
                "scheduler_handovers",
                "How often another gateway began to lead since this one started.",
            )?,
            link_delay: declare.gauge(
                "link_delay_seconds",
                "Round trip on the slowest link with another gateway, smoothed; 0 without a link. A request at a gateway that \
                 follows waits for one round trip before it gets a slot, and for one before its first byte.",
            )?,
        })
    }
}

impl Families {
    /// Ends every series of these models.
    pub(super) fn end_models(&self, models: &BTreeSet<String>) {
        let these = ("model", models);
        for family in [&self.requests, &self.tokens, &self.prompt_tokens] {
            end(family, these, |labels| drop(family.remove(labels)));
        }
        for family in [&self.request_duration, &self.first_token, &self.per_token, &self.queue_wait] {
            end(family, these, |labels| drop(family.remove(labels)));
        }
        end(&self.queue_depth, these, |labels| drop(self.queue_depth.remove(labels)));
    }

    /// Ends every series of these nodes.
    pub(super) fn end_nodes(&self, nodes: &BTreeSet<String>) {
        for family in [
            &self.node_requests,
            &self.routing,
            &self.transitions,
            &self.claims_corrected,
            &self.listing_skipped,
            &self.canaries,
            &self.prompt_tokens,
        ] {
            end(family, ("node", nodes), |labels| drop(family.remove(labels)));
        }
        for family in [&self.node_up, &self.node_state, &self.node_slots, &self.node_in_use, &self.node_loaded] {
            end(family, ("node", nodes), |labels| drop(family.remove(labels)));
        }
        for family in [&self.node_duration, &self.probe_duration, &self.model_load] {
            end(family, ("node", nodes), |labels| drop(family.remove(labels)));
        }
        for family in [&self.node_vram, &self.probed_at] {
            end(family, ("node", nodes), |labels| drop(family.remove(labels)));
        }
    }
}

/// Removes a family's series whose label has one of the values.
fn end(family: &impl Collector, (name, values): (&str, &BTreeSet<String>), remove: impl Fn(&HashMap<&str, &str>)) {
    for series in family.collect().iter().flat_map(|family| family.get_metric()) {
        let labels: HashMap<&str, &str> =
            series.get_label().iter().map(|label| (label.name(), label.value())).collect();
        if labels.get(name).is_some_and(|value| values.contains(*value)) {
            remove(&labels);
        }
    }
}

fn ours(name: &str, help: &str) -> Opts {
    Opts::new(format!("gateway_{name}"), help)
}

impl Declare<'_> {
    fn register<T: Collector + Clone + 'static>(&self, family: T) -> Result<T, Error> {
        self.0.register(Box::new(family.clone()))?;
        Ok(family)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, Error> {
        self.register(IntCounter::with_opts(ours(name, help))?)
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Error> {
        self.register(IntCounterVec::new(ours(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<Gauge, Error> {
        self.register(Gauge::with_opts(ours(name, help))?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, Error> {
        self.register(GaugeVec::new(ours(name, help), labels)?)
    }

    fn int_gauge(&self, name: &str, help: &str) -> Result<IntGauge, Error> {
        self.register(IntGauge::with_opts(ours(name, help))?)
    }

    fn int_gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, Error> {
        self.register(IntGaugeVec::new(ours(name, help), labels)?)
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> Result<HistogramVec, Error> {
        let options = HistogramOpts::from(ours(name, help)).buckets(buckets.to_vec());
        self.register(HistogramVec::new(options, labels)?)
    }

    /// A gauge of the process, under the name that Prometheus' own libraries use.
    pub(super) fn process_gauge(&self, name: &str, help: &str) -> Result<Gauge, Error> {
        self.register(Gauge::with_opts(Opts::new(format!("process_{name}"), help))?)
    }

    /// The same for a counter.
    pub(super) fn process_counter(&self, name: &str, help: &str) -> Result<Counter, Error> {
        self.register(Counter::with_opts(Opts::new(format!("process_{name}"), help))?)
    }
}
