//! How long may each step between the gateway and its nodes take?
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fleet::LoadTerms;

/// Deadlines between the gateway and its nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RelaySettings {
    /// Longest wait for a slot, seconds; then the request gets 503. Default `300`.
    pub queue_seconds: u64,
    /// Longest wait for a connection to a node, milliseconds; then another node is tried. Default `2000`.
    pub connect_ms: u64,
    /// Longest wait for a node's first byte, seconds. It covers loading the model, reading the prompt and, for an
    /// answer that is not streamed, all of the answer. Default `600`.
    pub first_byte_seconds: u64,
    /// How long the status of a waiting stream is held back, seconds. Until then a refusal keeps its own status, so
    /// that SDKs retry; afterwards the client gets 200, heartbeats and, if need be, an error inside the stream.
    /// Default `20`.
    pub commit_seconds: u64,
    /// Time between two heartbeats (comment lines) of a waiting stream, seconds. Default `10`.
    pub heartbeat_seconds: u64,
    /// Longest wait for a node to load a model, seconds; then that node is not asked to load it again for a while.
    /// Default `600`.
    pub load_seconds: u64,
    /// How long a model stays in a node's memory after its last request, minutes, unless the memory is needed. This
    /// replaces whatever `keep_alive` a client sends. Default `1440`.
    pub model_keep_alive_minutes: u64,
    /// Longest pause within an answer, seconds; then the node counts as failed. Default `120`.
    pub chunk_gap_seconds: u64,
    /// Longest life of a request, from arrival to end, seconds. Default `3600`.
    pub total_seconds: u64,
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self {
            queue_seconds: 300,
            connect_ms: 2000,
            first_byte_seconds: 600,
            commit_seconds: 20,
            heartbeat_seconds: 10,
            load_seconds: 600,
            model_keep_alive_minutes: 1440,
            chunk_gap_seconds: 120,
            total_seconds: 3600,
        }
    }
}

impl RelaySettings {
    /// Longest wait for a connection to a node.
    pub fn connect(&self) -> Duration {
        Duration::from_millis(self.connect_ms)
    }

    /// How models are loaded.
    pub fn load_terms(&self) -> LoadTerms {
        LoadTerms {
            deadline: Duration::from_secs(self.load_seconds),
            keep_alive: Duration::from_secs(self.model_keep_alive_minutes * 60),
        }
    }

    pub(super) fn queue(&self) -> Duration {
        Duration::from_secs(self.queue_seconds)
    }

    /// Longest wait for a node's first byte.
    pub fn first_byte(&self) -> Duration {
        Duration::from_secs(self.first_byte_seconds)
    }

    /// How long a waiting stream's status is held back.
    pub fn commit(&self) -> Duration {
        Duration::from_secs(self.commit_seconds)
    }

    /// The time between two heartbeats of a waiting stream.
    pub fn heartbeat(&self) -> Duration {
        Duration::from_secs(self.heartbeat_seconds)
    }

    pub(super) fn chunk_gap(&self) -> Duration {
        Duration::from_secs(self.chunk_gap_seconds)
    }

    pub(super) fn total(&self) -> Duration {
        Duration::from_secs(self.total_seconds)
    }
}
