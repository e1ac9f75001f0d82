//! How does the present state get into the metrics? It is taken over whenever Prometheus asks.
use std::sync::PoisonError;
use std::time::Duration;

use prometheus::{Encoder, IntCounterVec, TextEncoder};

use super::models::KnownModels;
use super::{BREAKER_STATES, Metrics, NODE_STATES, PROMPT_TOKENS, ROUTING, UNKNOWN_MODEL};

/// Everything that is looked up at a scrape rather than counted as it happens.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Every node.
    pub nodes: Vec<NodeGauges>,
    /// Waiting requests, by the model's listed name.
    pub queued: Vec<(String, usize)>,
    /// Usage rows in memory.
    pub usage_backlog: usize,
    /// Whether usage can be stored.
    pub usage_ready: bool,
    /// This gateway's part among those that use the nodes.
    pub cluster: ClusterGauges,
    /// Rows on their way from the local file to Postgres; `None` if the local file is the database.
    pub outbox: Option<OutboxGauges>,
}

/// A gateway's part among those that use the nodes.
#[derive(Clone, Copy, Debug)]
pub struct ClusterGauges {
    /// Its role, and every word for one.
    pub role: (&'static str, &'static [&'static str]),
    /// Gateways, this one included.
    pub gateways: usize,
    /// Whether it knows which slots it may use.
    pub is_settled: bool,
    /// The epoch of the lease by which it leads or follows; 0 without one.
    pub epoch: u64,
    /// Changes of leadership.
    pub handovers: u64,
    /// The round trip of the slowest open link; zero without one.
    pub link_delay: Duration,
}

impl Default for ClusterGauges {
    fn default() -> Self {
        Self {
            role: ("alone", &["alone"]),
            gateways: 1,
            is_settled: true,
            epoch: 0,
            handovers: 0,
            link_delay: Duration::ZERO,
        }
    }
}

/// Rows between the local file and Postgres.
#[derive(Clone, Copy, Debug)]
pub struct OutboxGauges {
    /// Not copied yet.
    pub waiting: u64,
    /// Rows that Postgres refused, for an operator to look at.
    pub parked: u64,
    /// Whether Postgres answered the last time.
    pub database_up: bool,
}

/// A node at the time of a scrape.
#[derive(Clone, Debug)]
pub struct NodeGauges {
    /// Its configured name.
    pub name: String,
    /// `up`, `suspect`, `down` or `draining`.
    pub state: &'static str,
    /// Slots for each model.
    pub slots: u32,
    /// Requests running.
    pub in_flight: usize,
    /// Models on disk.
    pub models: Vec<String>,
    /// Loaded models and their memory in bytes.
    pub loaded: Vec<(String, u64)>,
    /// Requests sent to it since the start: warm, cold, fallback.
    pub routed: [u64; 3],
    /// Changes of its breaker since the start: to closed, open, half-open.
    pub transitions: [u64; 3],
    /// Prompt tokens by model: sent, expected to be cached, timed, measured to be cached.
    pub prompts: Vec<(String, [u64; 4])>,
}

impl Metrics {
    /// Takes over the present state and returns all metrics in the text format.
    ///
    /// # Errors
    /// A family cannot be encoded.
    pub fn scrape(&self, snapshot: &Snapshot) -> Result<Vec<u8>, prometheus::Error> {
        let _scraping = self.scraping.lock().unwrap_or_else(PoisonError::into_inner);
        self.list_models(&snapshot.nodes.iter().flat_map(|node| &node.models).map(String::as_str).collect());
        let known = self.known_models.lock().unwrap_or_else(PoisonError::into_inner);
        self.set_queue(&known, &snapshot.queued);
        self.families.nodes.loaded.reset();
        snapshot.nodes.iter().for_each(|node| self.set_node(&known, node));
        drop(known);
        self.families.storage.backlog.set(to_i64(snapshot.usage_backlog));
        self.families.storage.ready.set(f64::from(u8::from(snapshot.usage_ready)));
        let outbox = snapshot.outbox.unwrap_or(OutboxGauges { waiting: 0, parked: 0, database_up: true });
        self.families.storage.outbox_waiting.set(outbox.waiting as f64);
        self.families.storage.outbox_parked.set(outbox.parked as f64);
        self.families.storage.database_up.set(f64::from(u8::from(outbox.database_up)));
        self.set_cluster(&snapshot.cluster);
        let departed = self.departed.lock().unwrap_or_else(PoisonError::into_inner);
        if !departed.is_empty() {
            self.families.end_nodes(&departed);
        }
        drop(departed);
        self.process.look();
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    fn set_cluster(&self, cluster: &ClusterGauges) {
        let ClusterGauges { role: (role, roles), gateways, is_settled, epoch, handovers, link_delay } = *cluster;
        self.families.cluster.link_delay.set(link_delay.as_secs_f64());
        self.families.cluster.gateways.set(to_i64(gateways));
        self.families.cluster.settled.set(i64::from(is_settled));
        for word in roles {
            self.families.cluster.role.with_label_values(&[*word]).set(i64::from(*word == role));
        }
        self.families.cluster.epoch.set(i64::try_from(epoch).unwrap_or(i64::MAX));
        self.families.cluster.handovers.set(i64::try_from(handovers).unwrap_or(i64::MAX));
    }

    fn set_queue(&self, known: &KnownModels, queued: &[(String, usize)]) {
        for model in known.iter() {
            self.families.queue.depth.with_label_values(&[model]).set(0);
        }
        for (model, depth) in queued.iter().filter(|(model, _)| known.has(model)) {
            self.families.queue.depth.with_label_values(&[model.as_str()]).add(to_i64(*depth));
        }
    }

    fn set_node(&self, known: &KnownModels, node: &NodeGauges) {
        let (families, name) = (&self.families, node.name.as_str());
        let is_up = node.state != "down";
        families.nodes.up.with_label_values(&[name]).set(i64::from(is_up));
        for state in NODE_STATES {
            families.nodes.state.with_label_values(&[name, state]).set(i64::from(node.state == state));
        }
        families.nodes.slots.with_label_values(&[name]).set(i64::from(node.slots));
        families.nodes.in_use.with_label_values(&[name]).set(to_i64(node.in_flight));
        if node.models.is_empty() {
            families.nodes.loaded.with_label_values(&[name, UNKNOWN_MODEL]).set(0);
        }
        for model in node.models.iter().filter(|model| known.has(model)) {
            families.nodes.loaded.with_label_values(&[name, model.as_str()]).set(0);
        }
        let mut vram = 0;
        // What a node said before it went down says nothing about its memory now.
        for (model, bytes) in node.loaded.iter().filter(|_| is_up) {
            if known.has(model) {
                families.nodes.loaded.with_label_values(&[name, model.as_str()]).set(1);
            }
            vram += bytes;
        }
        families.nodes.vram.with_label_values(&[name]).set(vram as f64);
        for (label, count) in ROUTING.into_iter().zip(node.routed) {
            raise(&families.attempts.routing, &[name, label], count);
        }
        for (label, count) in BREAKER_STATES.into_iter().zip(node.transitions) {
            raise(&families.nodes.transitions, &[name, label], count);
        }
        for (model, counts) in node.prompts.iter().filter(|(model, _)| known.has(model)) {
            for (label, count) in PROMPT_TOKENS.into_iter().zip(*counts) {
                raise(&families.attempts.prompt_tokens, &[name, model, label], count);
            }
        }
    }
}

/// Raises a counter to a total that was counted elsewhere.
fn raise(family: &IntCounterVec, labels: &[&str], count: u64) {
    let counter = family.with_label_values(labels);
    counter.inc_by(count.saturating_sub(counter.get()));
}

fn to_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{FAILURES, MetricsSettings, UserLabel};
    use scheduler::Failure;

    fn metrics(settings: &MetricsSettings) -> Metrics {
        let metrics = Metrics::new(settings, &["/v1/chat/completions", "/api/chat"]).unwrap();
        metrics.node_joined("a");
        metrics
    }

    fn text(metrics: &Metrics, snapshot: &Snapshot) -> String {
        String::from_utf8(metrics.scrape(snapshot).unwrap()).unwrap()
    }

    fn node() -> NodeGauges {
        NodeGauges {
            name: "a".to_owned(),
            state: "suspect",
            slots: 2,
            in_flight: 1,
            models: vec!["m:latest".to_owned(), "n:latest".to_owned()],
            loaded: vec![("m:latest".to_owned(), 5)],
            routed: [4, 2, 1],
            transitions: [0, 1, 1],
            prompts: vec![("m:latest".to_owned(), [100, 60, 40, 30]), ("gone".to_owned(), [1; 4])],
        }
    }

    #[test]
    fn the_state_of_the_moment_is_exported() {
        let metrics = metrics(&MetricsSettings::default());
        let queued = vec![("m:latest".to_owned(), 2), ("m:latest".to_owned(), 1), ("gone".to_owned(), 9)];
        let snapshot =
            Snapshot { nodes: vec![node()], queued, usage_backlog: 7, usage_ready: true, ..Snapshot::default() };
        // A second scrape must not count anything twice.
        text(&metrics, &snapshot);
        let said = text(&metrics, &snapshot);
        for line in [
            "gateway_node_up{node=\"a\"} 1",
            "gateway_node_state{node=\"a\",state=\"suspect\"} 1",
            "gateway_node_state{node=\"a\",state=\"up\"} 0",
            "gateway_node_model_loaded{model=\"m:latest\",node=\"a\"} 1",
            "gateway_node_model_loaded{model=\"n:latest\",node=\"a\"} 0",
            "gateway_node_vram_bytes{node=\"a\"} 5",
            "gateway_routing_decisions_total{node=\"a\",reason=\"warm\"} 4",
            "gateway_routing_decisions_total{node=\"a\",reason=\"fallback\"} 1",
            "gateway_circuit_transitions_total{node=\"a\",to=\"open\"} 1",
            "gateway_node_prompt_tokens_total{model=\"m:latest\",node=\"a\",part=\"expected_cached\"} 60",
            "gateway_node_prompt_tokens_total{model=\"m:latest\",node=\"a\",part=\"measured_cached\"} 30",
            "gateway_queue_depth{model=\"m:latest\"} 3",
            "gateway_queue_depth{model=\"n:latest\"} 0",
            "gateway_usage_rows_waiting 7",
        ] {
            assert!(said.lines().any(|other| other == line), "{line}\n{said}");
        }
        assert!(!said.contains("gone"));
        let later = text(&metrics, &Snapshot { nodes: vec![NodeGauges { state: "down", ..node() }], ..snapshot });
        for line in
            ["gateway_node_model_loaded{model=\"m:latest\",node=\"a\"} 0", "gateway_node_vram_bytes{node=\"a\"} 0"]
        {
            assert!(later.lines().any(|other| other == line), "a node that is down holds nothing: {line}");
        }
        let none = text(&metrics, &Snapshot::default());
        assert!(!none.contains("m:latest"), "no node lists it any more: {none}");
    }

    #[test]
    fn every_family_is_there_before_its_first_event() {
        let silent = NodeGauges { models: Vec::new(), loaded: Vec::new(), ..node() };
        let snapshot = Snapshot { nodes: vec![silent], ..Snapshot::default() };
        let metrics = metrics(&MetricsSettings { user_label: UserLabel::All, user_cap: 1 });
        // Without TLS there is no such date, and 0 would be one.
        metrics.certificate_expires(0);
        let said = text(&metrics, &snapshot);
        let families = said.lines().filter(|line| line.starts_with("# TYPE")).count();
        let declared = [
            include_str!("families/nodes.rs"),
            include_str!("families/requests.rs"),
            include_str!("families/setup.rs"),
            include_str!("users.rs"),
        ];
        let words = declared.iter().flat_map(|text| text.split('"').skip(1).step_by(2));
        let names: Vec<&str> = words.filter(|word| is_name(word) && !["code_class", "_other"].contains(word)).collect();
        let missing: Vec<&&str> =
            names.iter().filter(|name| !said.contains(&format!("# TYPE gateway_{name} "))).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert!(names.len() > 25 && families == names.len() + 7, "{families} families, {} of ours", names.len());
    }

    fn is_name(text: &str) -> bool {
        text.contains('_') && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    }

    #[test]
    fn every_failure_has_its_series_from_the_start() {
        assert_eq!(Failure::ALL.map(Failure::label), FAILURES);
    }

    #[test]
    fn users_are_told_apart_only_if_wanted_and_up_to_the_cap() {
        let off = metrics(&MetricsSettings::default());
        off.meet_user("ann");
        off.user_ended("ann", 200, 1, 2);
        assert!(!text(&off, &Snapshot::default()).contains("gateway_user"));
        let capped = metrics(&MetricsSettings { user_label: UserLabel::All, user_cap: 2 });
        capped.meet_user("ann");
        for user in ["bob", "ann", "carl", "dora"] {
            capped.user_ended(user, 200, 3, 4);
        }
        let said = text(&capped, &Snapshot::default());
        for line in [
            "gateway_user_tokens_total{type=\"input\",user=\"ann\"} 3",
            "gateway_user_tokens_total{type=\"output\",user=\"bob\"} 4",
            "gateway_user_tokens_total{type=\"output\",user=\"_other\"} 8",
            "gateway_user_requests_total{code_class=\"2xx\",user=\"_other\"} 2",
            "gateway_user_requests_total{code_class=\"5xx\",user=\"ann\"} 0",
        ] {
            assert!(said.lines().any(|other| other == line), "{line}\n{said}");
        }
        assert!(!said.contains("carl") && !said.contains("dora"));
    }
}
