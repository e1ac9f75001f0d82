//! How often are nodes asked, and how long does the gateway wait for their answers?
use serde::{Deserialize, Serialize};

/// How nodes are watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthSettings {
    /// Time between two probes of a node, milliseconds. Default `500`.
    pub probe_interval_ms: u64,
    /// Longest wait for a probe's answer, milliseconds; after two timeouts in a row the node is down. Default
    /// `1000`.
    pub probe_timeout_ms: u64,
    /// Longest wait for a node's list of models, seconds. Default `30`.
    pub listing_timeout_seconds: u64,
    /// Time between two listings of the models in a node's memory, seconds. Default `2`.
    pub loaded_interval_seconds: u64,
    /// Time between two listings of the models on a node's disk, seconds. Default `10`.
    pub models_interval_seconds: u64,
    /// Time between two checks of the list of nodes, seconds: in the database, where other gateways may have changed
    /// it, and in DNS, for nodes that are discovered. Default `5`.
    pub fleet_interval_seconds: u64,
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            probe_interval_ms: 500,
            probe_timeout_ms: 1000,
            listing_timeout_seconds: 30,
            loaded_interval_seconds: 2,
            models_interval_seconds: 10,
            fleet_interval_seconds: 5,
        }
    }
}
