//! The state of the moment, taken over when Prometheus asks.
use std::sync::PoisonError;

use prometheus::{Encoder, IntCounterVec, TextEncoder};

use super::models::KnownModels;
use super::{BREAKER_STATES, Metrics, NODE_STATES, ROUTING, UNKNOWN_MODEL};

/// Everything that is looked up and not counted along the way.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Every node.
    pub nodes: Vec<NodeGauges>,
    /// Requests that wait, by the model's listed name.
    pub queued: Vec<(String, usize)>,
    /// Usage rows in memory.
    pub usage_backlog: usize,
    /// Whether usage can be stored.
    pub usage_ready: bool,
    /// The way on from the local file; `None` where that is the database.
    pub outbox: Option<OutboxGauges>,
}

/// Rows between the local file and Postgres.
#[derive(Clone, Copy, Debug)]
pub struct OutboxGauges {
    /// Not copied yet.
    pub waiting: u64,
    /// Refused by Postgres, for somebody to look at.
    pub parked: u64,
    /// Whether Postgres answered the last time.
    pub database_up: bool,
}

/// A node at the moment of a scrape.
#[derive(Clone, Debug)]
pub struct NodeGauges {
    /// Its configured name.
    pub name: String,
    /// `up`, `suspect`, `down` or `draining`.
    pub state: &'static str,
    /// Slots of one model.
    pub slots: u32,
    /// Requests running.
    pub in_flight: usize,
    /// Models on disk.
    pub models: Vec<String>,
    /// Loaded models and their memory in bytes.
    pub loaded: Vec<(String, u64)>,
    /// Requests given to it since the start: warm, cold, fallback.
    pub routed: [u64; 3],
    /// Changes of its breaker since the start: to closed, open, half-open.
    pub transitions: [u64; 3],
}

impl Metrics {
    /// Takes over the state of the moment and writes everything in the text format.
    ///
    /// # Errors
    /// When a family cannot be encoded.
    pub fn scrape(&self, snapshot: &Snapshot) -> Result<Vec<u8>, prometheus::Error> {
        let _scraping = self.scraping.lock().unwrap_or_else(PoisonError::into_inner);
        self.list_models(&snapshot.nodes.iter().flat_map(|node| &node.models).map(String::as_str).collect());
        let known = self.known_models.lock().unwrap_or_else(PoisonError::into_inner);
        self.set_queue(&known, &snapshot.queued);
        self.families.node_loaded.reset();
        snapshot.nodes.iter().for_each(|node| self.set_node(&known, node));
        drop(known);
        self.families.usage_backlog.set(to_i64(snapshot.usage_backlog));
        self.families.usage_ready.set(f64::from(u8::from(snapshot.usage_ready)));
        let outbox = snapshot.outbox.unwrap_or(OutboxGauges { waiting: 0, parked: 0, database_up: true });
        self.families.outbox_waiting.set(outbox.waiting as f64);
        self.families.outbox_parked.set(outbox.parked as f64);
        self.families.database_up.set(f64::from(u8::from(outbox.database_up)));
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

    fn set_queue(&self, known: &KnownModels, queued: &[(String, usize)]) {
        for model in known.iter() {
            self.families.queue_depth.with_label_values(&[model]).set(0);
        }
        for (model, depth) in queued.iter().filter(|(model, _)| known.has(model)) {
            self.families.queue_depth.with_label_values(&[model.as_str()]).add(to_i64(*depth));
        }
    }

    fn set_node(&self, known: &KnownModels, node: &NodeGauges) {
        let (families, name) = (&self.families, node.name.as_str());
        let is_up = node.state != "down";
        families.node_up.with_label_values(&[name]).set(i64::from(is_up));
        for state in NODE_STATES {
            families.node_state.with_label_values(&[name, state]).set(i64::from(node.state == state));
        }
        families.node_slots.with_label_values(&[name]).set(i64::from(node.slots));
        families.node_in_use.with_label_values(&[name]).set(to_i64(node.in_flight));
        if node.models.is_empty() {
            families.node_loaded.with_label_values(&[name, UNKNOWN_MODEL]).set(0);
        }
        for model in node.models.iter().filter(|model| known.has(model)) {
            families.node_loaded.with_label_values(&[name, model.as_str()]).set(0);
        }
        let mut vram = 0;
        // What a node said before it went down is no news of its memory.
        for (model, bytes) in node.loaded.iter().filter(|_| is_up) {
            if known.has(model) {
                families.node_loaded.with_label_values(&[name, model.as_str()]).set(1);
            }
            vram += bytes;
        }
        families.node_vram.with_label_values(&[name]).set(vram as f64);
        raise(&families.routing, name, ROUTING, node.routed);
        raise(&families.transitions, name, BREAKER_STATES, node.transitions);
    }
}

/// Lets counters catch up with what was counted elsewhere.
fn raise<const N: usize>(family: &IntCounterVec, node: &str, labels: [&str; N], counts: [u64; N]) {
    for (label, count) in labels.into_iter().zip(counts) {
        let counter = family.with_label_values(&[node, label]);
        counter.inc_by(count.saturating_sub(counter.get()));
    }
}

fn to_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
