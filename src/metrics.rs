//! Every Prometheus family, declared once, with one method for each thing that happens.
//!
//! Labels are bounded: `model` only ever holds names that a node lists (`_unknown` otherwise), `node` comes from the
//! configuration, `route` is a template. No user, key or request id is a label.
use std::time::Duration;

use prometheus::{
    Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

/// The `model` label of names that no node lists.
pub const UNKNOWN_MODEL: &str = "_unknown";
const NODE_STATES: [&str; 3] = ["up", "suspect", "down"];
const DURATION_BUCKETS: [f64; 14] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0];
const FIRST_TOKEN_BUCKETS: [f64; 14] = [0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0];
const QUEUE_BUCKETS: [f64; 12] = [0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 100.0, 300.0];
const TOKEN_BUCKETS: [f64; 13] = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];

/// All families of one gateway, in a registry of their own.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    first_token: HistogramVec,
    per_token: HistogramVec,
    in_flight: IntGaugeVec,
    tokens: IntCounterVec,
    rate_limited: IntCounterVec,
    client_retries: IntCounter,
    queue_depth: IntGaugeVec,
    queue_wait: HistogramVec,
    queue_rejected: IntCounterVec,
    retries: IntCounterVec,
    node_up: IntGaugeVec,
    node_state: IntGaugeVec,
    node_slots: IntGaugeVec,
    node_in_use: IntGaugeVec,
    node_requests: IntCounterVec,
    node_loaded: IntGaugeVec,
    node_vram: GaugeVec,
    usage_backlog: IntGauge,
    usage_ready: Gauge,
}

/// How a request ended, for the `outcome` label.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// The route's template.
    pub route: &'a str,
    /// A listed model, or [`UNKNOWN_MODEL`].
    pub model: &'a str,
    /// Whether it streamed.
    pub stream: bool,
    /// The status code that the client saw; 499 where it left before one.
    pub code: u16,
    /// `ok`, `client_error`, `rate_limited`, `upstream_error`, `timeout`, `client_cancelled` or `overloaded`.
    pub outcome: &'a str,
    /// From arrival to end.
    pub duration: Duration,
}

/// A node at the moment of a scrape.
#[derive(Clone, Debug)]
pub struct NodeGauges {
    /// Its configured name.
    pub name: String,
    /// `up`, `suspect` or `down`.
    pub state: &'static str,
    /// Slots of one model.
    pub slots: u32,
    /// Requests running.
    pub in_flight: usize,
    /// Loaded models and their memory in bytes.
    pub loaded: Vec<(String, u64)>,
}

impl Metrics {
    /// Declares every family.
    ///
    /// # Errors
    /// Only if two families had one name, which a test excludes.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let metrics = Self::declare(registry)?;
        for limit in ["requests_per_minute", "tokens_per_day"] {
            metrics.rate_limited.with_label_values(&[limit]);
        }
        for reason in ["user_full", "full", "deadline", "no_node", "exhausted"] {
            metrics.queue_rejected.with_label_values(&[reason]);
        }
        Ok(metrics)
    }

    fn declare(registry: Registry) -> Result<Self, prometheus::Error> {
        let r = &registry;
        let build = int_gauges(r, "build_info", "The running version; always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            requests: counters(
                r,
                "requests_total",
                "Requests by how they ended.",
                &["route", "model", "code", "outcome"],
            )?,
            request_duration: histograms(
                r,
                "request_duration_seconds",
                "From arrival to the end of the answer.",
                &["route", "model", "stream"],
                &DURATION_BUCKETS,
            )?,
            first_token: histograms(
                r,
                "time_to_first_token_seconds",
                "From arrival to the node's first byte, waiting included.",
                &["model"],
                &FIRST_TOKEN_BUCKETS,
            )?,
            per_token: histograms(
                r,
                "time_per_output_token_seconds",
                "Of whole streams: time after the first token, by the number of tokens after it.",
                &["model"],
                &TOKEN_BUCKETS,
            )?,
            in_flight: int_gauges(r, "requests_in_flight", "Requests admitted and not ended.", &["route"])?,
            tokens: counters(r, "tokens_total", "Tokens, as recorded in usage.", &["model", "type"])?,
            rate_limited: counters(r, "rate_limited_total", "Requests refused by a user's limit.", &["limit"])?,
            client_retries: counter(r, "client_retries_total", "Requests that an SDK says it is trying again.")?,
            queue_depth: int_gauges(r, "queue_depth", "Requests waiting for a slot.", &["model"])?,
            queue_wait: histograms(r, "queue_wait_seconds", "Waiting for a slot.", &["model"], &QUEUE_BUCKETS)?,
            queue_rejected: counters(r, "queue_rejected_total", "Requests that got no slot.", &["reason"])?,
            retries: counters(r, "retries_total", "Attempts that failed before the first byte.", &["reason"])?,
            node_up: int_gauges(r, "node_up", "Whether the node can be given requests.", &["node"])?,
            node_state: int_gauges(r, "node_state", "The node's state, one-hot.", &["node", "state"])?,
            node_slots: int_gauges(r, "node_slots", "Requests a model takes at a time there.", &["node"])?,
            node_in_use: int_gauges(r, "node_slots_in_use", "Requests running there, over all models.", &["node"])?,
            node_requests: counters(r, "node_requests_total", "Attempts by outcome.", &["node", "outcome"])?,
            node_loaded: int_gauges(r, "node_model_loaded", "Models in the node's memory.", &["node", "model"])?,
            node_vram: gauges(r, "node_vram_bytes", "Video memory taken by loaded models.", &["node"])?,
            usage_backlog: int_gauge(
                r,
                "usage_rows_waiting",
                "Usage rows in memory: running requests and unwritten rows.",
            )?,
            usage_ready: gauge(r, "usage_storage_ready", "Whether usage can be stored: 1 or 0.")?,
            registry,
        })
    }

    /// A request was admitted. Pair it with [`Metrics::left`].
    pub fn entered(&self, route: &str) {
        self.in_flight.with_label_values(&[route]).inc();
    }

    /// An admitted request ended.
    pub fn left(&self, route: &str) {
        self.in_flight.with_label_values(&[route]).dec();
    }

    /// A request ended, admitted or not.
    pub fn ended(&self, ended: Ended<'_>) {
        let code = ended.code.to_string();
        self.requests.with_label_values(&[ended.route, ended.model, &code, ended.outcome]).inc();
        let stream = if ended.stream { "true" } else { "false" };
        let duration = self.request_duration.with_label_values(&[ended.route, ended.model, stream]);
        duration.observe(ended.duration.as_secs_f64());
    }

    /// A node's first byte came.
    pub fn first_token(&self, model: &str, after: Duration) {
        self.first_token.with_label_values(&[model]).observe(after.as_secs_f64());
    }

    /// A stream ended whole: `tokens` in all, over `after_first`.
    pub fn decoded(&self, model: &str, tokens: u64, after_first: Duration) {
        if tokens > 1 {
            let per_token = after_first.as_secs_f64() / (tokens - 1) as f64;
            self.per_token.with_label_values(&[model]).observe(per_token);
        }
    }

    /// Tokens went into usage.
    pub fn tokens(&self, model: &str, prompt: u64, completion: u64) {
        self.tokens.with_label_values(&[model, "input"]).inc_by(prompt);
        self.tokens.with_label_values(&[model, "output"]).inc_by(completion);
    }

    /// A user's limit refused a request: `requests_per_minute` or `tokens_per_day`.
    pub fn rate_limited(&self, limit: &str) {
        self.rate_limited.with_label_values(&[limit]).inc();
    }

    /// An SDK said that this is not its first try.
    pub fn client_retried(&self) {
        self.client_retries.inc();
    }

    /// A request got a slot.
    pub fn waited(&self, model: &str, wait: Duration) {
        self.queue_wait.with_label_values(&[model]).observe(wait.as_secs_f64());
    }

    /// The scheduler refused a request.
    pub fn queue_rejected(&self, reason: &str) {
        self.queue_rejected.with_label_values(&[reason]).inc();
    }

    /// An attempt ended; `outcome` is `ok`, `client_error`, `cancelled` or a failure's name.
    pub fn attempt(&self, node: &str, outcome: &str) {
        self.node_requests.with_label_values(&[node, outcome]).inc();
    }

    /// An attempt failed before the first byte, so that another may follow.
    pub fn attempt_failed(&self, reason: &str) {
        self.retries.with_label_values(&[reason]).inc();
    }

    /// Takes the state of the moment and writes everything in the text format.
    ///
    /// # Errors
    /// When a family cannot be encoded.
    pub fn scrape(
        &self,
        nodes: &[NodeGauges],
        queued: &[(String, usize)],
        usage: (usize, bool),
    ) -> Result<Vec<u8>, prometheus::Error> {
        self.queue_depth.reset();
        for (model, depth) in queued {
            self.queue_depth.with_label_values(&[model.as_str()]).set(to_i64(*depth));
        }
        self.node_loaded.reset();
        nodes.iter().for_each(|node| self.set_node(node));
        self.usage_backlog.set(to_i64(usage.0));
        self.usage_ready.set(f64::from(u8::from(usage.1)));
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    fn set_node(&self, node: &NodeGauges) {
        let name = node.name.as_str();
        self.node_up.with_label_values(&[name]).set(i64::from(node.state != "down"));
        for state in NODE_STATES {
            self.node_state.with_label_values(&[name, state]).set(i64::from(node.state == state));
        }
        self.node_slots.with_label_values(&[name]).set(i64::from(node.slots));
        self.node_in_use.with_label_values(&[name]).set(to_i64(node.in_flight));
        let mut vram = 0;
        for (model, bytes) in &node.loaded {
            self.node_loaded.with_label_values(&[name, model.as_str()]).set(1);
            vram += bytes;
        }
        self.node_vram.with_label_values(&[name]).set(vram as f64);
    }
}

fn to_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn named(name: &str, help: &str) -> Opts {
    Opts::new(format!("gateway_{name}"), help)
}

fn register<T: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    family: T,
) -> Result<T, prometheus::Error> {
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    register(registry, IntCounter::with_opts(named(name, help))?)
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    register(registry, IntCounterVec::new(named(name, help), labels)?)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
    register(registry, Gauge::with_opts(named(name, help))?)
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
    register(registry, GaugeVec::new(named(name, help), labels)?)
}

fn int_gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    register(registry, IntGauge::with_opts(named(name, help))?)
}

fn int_gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
    register(registry, IntGaugeVec::new(named(name, help), labels)?)
}

fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> Result<HistogramVec, prometheus::Error> {
    let options = HistogramOpts::from(named(name, help)).buckets(buckets.to_vec());
    register(registry, HistogramVec::new(options, labels)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_its_own_name_and_the_state_of_a_node_is_one_hot() {
        let metrics = Metrics::new().unwrap();
        let node = NodeGauges {
            name: "a".to_owned(),
            state: "suspect",
            slots: 2,
            in_flight: 1,
            loaded: vec![("m:latest".to_owned(), 5)],
        };
        let text = String::from_utf8(metrics.scrape(&[node], &[("m".to_owned(), 3)], (7, true)).unwrap()).unwrap();
        for line in [
            "gateway_node_up{node=\"a\"} 1",
            "gateway_node_state{node=\"a\",state=\"suspect\"} 1",
            "gateway_node_state{node=\"a\",state=\"up\"} 0",
            "gateway_queue_depth{model=\"m\"} 3",
            "gateway_usage_rows_waiting 7",
            "gateway_queue_rejected_total{reason=\"full\"} 0",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        let again = String::from_utf8(metrics.scrape(&[], &[], (0, false)).unwrap()).unwrap();
        assert!(!again.contains("gateway_queue_depth{"));
    }
}
