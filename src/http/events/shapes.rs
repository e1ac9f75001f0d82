//! What do the events say, and what do they look like on the wire? Their data, for the OpenAPI document.
use serde::Serialize;
use utoipa::ToSchema;

use crate::fleet::ToldChange;
use crate::http::maintenance::MaintenanceRecord;
use crate::http::open::OpenRecord;
use crate::http::ops::state_name;
use crate::http::time::rfc3339;

/// `snapshot`: the first event.
#[derive(Debug, Serialize, ToSchema)]
pub struct LiveSnapshot {
    #[serde(flatten)]
    pub(super) live: LiveFleet,
    /// The last changes, the oldest first; at most 100.
    pub(super) changes: Vec<ChangeRecord>,
}

/// `tick`, once a second: how things stand.
#[derive(Debug, Serialize, ToSchema)]
pub struct LiveFleet {
    /// RFC 3339 in UTC.
    pub(super) at: String,
    /// Counts the ticks since the start of the gateway. None is made while nobody listens. Of a snapshot: the last one before
    /// it.
    pub(super) tick: u64,
    /// `all`: the nodes as the gateway sees them that schedules for all. `own`: as this gateway sees them.
    pub(super) scope: &'static str,
    /// Tokens of answers of all nodes in the last five seconds; null before the first five.
    pub(super) tokens_per_second: Option<f32>,
    /// In the order in which they joined.
    pub(super) nodes: Vec<LiveNode>,
    /// Nodes beyond the first 1,000.
    pub(super) nodes_left_out: usize,
    #[serde(flatten)]
    pub(super) requests: LiveRequests,
}

/// The open requests that this gateway carries, and the number of those that others carry.
#[derive(Debug, Serialize, ToSchema)]
pub struct LiveRequests {
    /// The oldest first.
    pub(super) running: Vec<OpenRecord>,
    /// Running requests beyond the first 200.
    pub(super) running_left_out: usize,
    /// Requests that run and that other gateways carry; 0 where `scope` is `own`.
    pub(super) running_elsewhere: usize,
    /// By position.
    pub(super) waiting: Vec<OpenRecord>,
    /// Waiting requests beyond the first 200.
    pub(super) waiting_left_out: usize,
    /// Requests that wait and that other gateways carry; 0 where `scope` is `own`.
    pub(super) waiting_elsewhere: usize,
}

/// A node as it stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct LiveNode {
    /// Its name.
    pub(super) name: String,
    /// `up`, `suspect` (on trial, or one failure outstanding), `down` or `draining`.
    pub(super) state: &'static str,
    /// Since when, in RFC 3339; null before it was heard of.
    pub(super) since: Option<String>,
    /// Why it is not up; null while it is.
    pub(super) why: Option<String>,
    /// Of its software, as it says; null where it does not.
    pub(super) version: Option<String>,
    /// Set while it is drained.
    pub(super) maintenance: Option<MaintenanceRecord>,
    /// Requests running there; this gateway's own where `scope` is `own`.
    pub(super) running: u32,
    /// Waiting requests for models that it has.
    pub(super) waiting: usize,
    /// Slots in use, of all models.
    pub(super) slots_used: u32,
    /// Slots of all models in memory.
    pub(super) slots_total: u32,
    /// Tokens of answers in the last five seconds; null before the first five.
    pub(super) tokens_per_second: Option<f32>,
    /// Models in memory, and those of which something runs.
    pub(super) models: Vec<LiveModel>,
    /// The model on its way into memory, if there is one.
    pub(super) loading: Option<String>,
    /// What went wrong last; null while nothing is wrong.
    pub(super) last_error: Option<String>,
}

/// A model on a node as it stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct LiveModel {
    /// As the node gives it.
    pub(super) name: String,
    /// Bytes of video memory; 0 once it is out of memory.
    pub(super) vram_bytes: u64,
    /// Requests that run; this gateway's own where `scope` is `own`.
    pub(super) slots_used: u32,
    /// Slots, of all gateways together; configured or as learned so far.
    pub(super) slots_total: u32,
    /// Of one stream that runs alone there, as learned; null before anything ran on the node.
    pub(super) tokens_per_second: Option<f64>,
}

/// `change`: something about the fleet is another than before.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChangeRecord {
    /// Counts from 1 since the start of the gateway.
    pub(super) id: u64,
    /// When it was told, RFC 3339 in UTC.
    at: String,
    /// `node_up`, `node_suspect` (failed once), `node_down`, `node_draining`, `node_undrained`,
    /// `node_joined`, `node_left`, `breaker_open` and `breaker_closed` (of a node that drains), `breaker_half_open` (on
    /// trial), `models_new`, `models_gone`, `reloaded` or `reload_failed`.
    kind: &'static str,
    /// Where; null for what concerns no node.
    node: Option<String>,
    /// Since when it is so, RFC 3339 in UTC.
    since: String,
    /// The node's state before, where that is what changed.
    state_before: Option<&'static str>,
    /// The node's state after it.
    state: Option<&'static str>,
    /// In words.
    why: Option<String>,
    /// When a node that drains comes back by itself, RFC 3339 in UTC; null where an operator ends that.
    until: Option<String>,
    /// What came or went; at most 20.
    models: Vec<String>,
    /// Models beyond those.
    models_left_out: usize,
    /// Changes of this kind that it stands for. Of more than five of one kind in a minute, the last one stands for those that
    /// were left out.
    count: u64,
}

/// `end`: the last event.
#[derive(Debug, Serialize, ToSchema)]
pub struct EndRecord {
    /// `too_slow` (whoever listens did not keep up) or `server_shutting_down`.
    pub(super) reason: &'static str,
}

impl From<ToldChange> for ChangeRecord {
    fn from(told: ToldChange) -> Self {
        let ToldChange { id, at_ms, change, count } = told;
        Self {
            id,
            at: rfc3339(at_ms),
            kind: change.kind.label(),
            node: change.node,
            since: rfc3339(change.since_ms),
            state_before: change.states.map(|(before, _)| state_name(before)),
            state: change.states.map(|(_, after)| state_name(after)),
            why: change.why,
            until: change.until_ms.map(rfc3339),
            models: change.models,
            models_left_out: change.more_models,
            count,
        }
    }
}

/// An event as it goes over the wire.
pub(super) fn event(name: &str, id: Option<u64>, data: &impl Serialize) -> String {
    // What is written here has text for keys and finite numbers, so there is nothing that could not be written.
    let data = serde_json::to_string(data).unwrap_or_default();
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!("event: {name}\n{id}data: {data}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_block_of_lines() {
        let data = serde_json::json!({"text": "two\nlines"});
        let text = event("change", Some(7), &data);
        assert_eq!(text, "event: change\nid: 7\ndata: {\"text\":\"two\\nlines\"}\n\n");
        assert_eq!(event("tick", None, &1), "event: tick\ndata: 1\n\n");
    }
}
