//! How does one request get its answer? From the queue to a node and back, with everything accounted for at its end.
//!
//! [`Relay::carry`] is the path: wait for a slot ([`dispatcher`]), ask the node ([`upstream`]), and hand on its answer,
//! plain or as a [`MeteredBody`]. The [`Meter`] goes along from admission to the end and settles exactly once,
//! also when the client leaves and the future is dropped.
mod carry;
mod catalog;
mod connector;
mod dispatcher;
mod health;
mod library;
mod loader;
mod loads;
mod meter;
mod metered;
mod nodes;
mod roster;
mod trace;
mod upstream;
mod work;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use carry::{Answer, CarryError, Content, Job, Relay, Served, WhyNot};
pub use catalog::Catalog;
pub use dispatcher::Dispatcher;
pub use health::{HealthSettings, Prober};
pub use library::Progress;
pub use loader::{Errand, Loader};
pub use loads::LoadCost;
pub use meter::{Admission, Meter, Meters};
pub use metered::MeteredBody;
pub use nodes::{Discover, Flaw, Fleet, NodeEndpoint, NodeSettings};
pub use roster::{Changes, Listed, Resolver, Roster, RosterError, Source, Watch, Watchers};
pub use trace::{Attribute, Closing, Exporter, Settings as TracingSettings, Trace, Tracer};
pub use upstream::Upstream;

/// Deadlines between the gateway and its nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Longest wait for a slot, seconds; then the request gets 503. Default `300`.
    pub queue_seconds: u64,
    /// Longest wait for a connection to a node, milliseconds; then another node is tried. Default `2000`.
    pub connect_ms: u64,
    /// Longest wait for a node's first byte, seconds. It covers loading the model, reading the prompt and, for an
    /// answer that is not streamed, all of the answer. Default `600`.
    pub first_byte_seconds: u64,
    /// How long the status of a waiting stream is held back, seconds. Until then a refusal keeps its own status, so
    /// that SDKs retry; afterwards the client gets 200, keep-alives and, if need be, an error inside the stream.
    /// Default `20`.
    pub commit_seconds: u64,
    /// Time between two keep-alives of a waiting stream, seconds. Default `10`.
    pub keep_alive_seconds: u64,
    /// Longest wait for a node to load a model, seconds; then that node is not asked to load it again for a while.
    /// Default `600`.
    pub load_seconds: u64,
    /// How long a model stays in a node's memory after its last request, minutes, unless the memory is needed. This
    /// replaces whatever `keep_alive` a client sends. Default `1440`.
    pub keep_alive_minutes: u64,
    /// Longest pause within an answer, seconds; then the node counts as failed. Default `120`.
    pub chunk_gap_seconds: u64,
    /// Longest life of a request, from arrival to end, seconds. Default `3600`.
    pub total_seconds: u64,
}

impl Default for Settings {
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

impl Settings {
    fn queue(&self) -> Duration {
        Duration::from_secs(self.queue_seconds)
    }

    fn first_byte(&self) -> Duration {
        Duration::from_secs(self.first_byte_seconds)
    }

    fn chunk_gap(&self) -> Duration {
        Duration::from_secs(self.chunk_gap_seconds)
    }

    fn total(&self) -> Duration {
        Duration::from_secs(self.total_seconds)
    }
}
