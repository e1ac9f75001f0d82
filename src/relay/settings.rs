//! How long may each step between the gateway and its nodes take?
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fleet::LoadTerms;

/// Deadlines between the gateway and its nodes. Zero is not allowed anywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RelaySettings {
    /// Longest wait for a slot, seconds. Default 300.
    pub queue_seconds: u64,
    /// Longest wait for a connection to a node, milliseconds. Default 2000.
    pub connect_ms: u64,
    /// Longest wait for a node's first byte, seconds: loading the model, reading the prompt and, for a plain answer,
    /// all of it. Default 600.
    pub first_byte_seconds: u64,
    /// How long a waiting stream's status is held back, seconds; after it the client gets 200 and keep-alives, and errors
    /// come in the stream. Default 20.
    pub commit_seconds: u64,
    /// Between two keep-alives of a stream that waits, seconds. Default 10.
    pub keep_alive_seconds: u64,
    /// Longest wait for a model to be loaded, seconds. Default 600.
    pub load_seconds: u64,
    /// How long a model that the gateway loaded stays in a node's memory after its last request, minutes, if nothing else
    /// needs the memory. Default 1440.
    pub keep_alive_minutes: u64,
    /// Longest silence within an answer, seconds. Default 120.
    pub chunk_gap_seconds: u64,
    /// Longest time for a request from arrival to end, seconds. Default 3600.
    pub total_seconds: u64,
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self {
            queue_seconds: 300,
            connect_ms: 2000,
            first_byte_seconds: 600,
            commit_seconds: 20,
            keep_alive_seconds: 10,
            load_seconds: 600,
            keep_alive_minutes: 1440,
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
            keep_alive: Duration::from_secs(self.keep_alive_minutes * 60),
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

    /// Between two keep-alives of a stream that waits.
    pub fn keep_alive(&self) -> Duration {
        Duration::from_secs(self.keep_alive_seconds)
    }

    pub(super) fn chunk_gap(&self) -> Duration {
        Duration::from_secs(self.chunk_gap_seconds)
    }

    pub(super) fn total(&self) -> Duration {
        Duration::from_secs(self.total_seconds)
    }
}
