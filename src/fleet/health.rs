//! Is a node there, and what does it have? Asked of every node all the time, by one task a node.
//!
//! `/api/version` tells whether it answers at all; `/api/ps` what is loaded, `/api/tags` what is on disk. A node counts
//! as there only once all three have been heard. Whether it also *generates* is judged by the requests themselves.
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;

use super::catalog::Catalog;
use super::context::FleetContext;
use super::endpoint::NodeEndpoint;
use super::nodes::Fleet;
use super::upstream::Upstream;
use crate::clock::Clock;
use crate::dispatch::Dispatcher;
use crate::metrics::Metrics;
use scheduler::{Event, Loaded, Model, NodeId};

/// How often nodes are asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthSettings {
    /// Between two questions whether a node is there, milliseconds. Default 500.
    pub probe_interval_ms: u64,
    /// Longest wait for that answer, milliseconds. Default 1000. Two in a row without one take the node out.
    pub probe_timeout_ms: u64,
    /// Between two looks at the loaded models, seconds. Default 2.
    pub loaded_interval_seconds: u64,
    /// Between two looks at the models on disk, seconds. Default 10.
    pub models_interval_seconds: u64,
    /// Between two looks at which nodes there are, seconds: in the database, where other gateways may have changed them,
    /// and in the DNS, for those that are discovered. Default 5.
    pub fleet_interval_seconds: u64,
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            probe_interval_ms: 500,
            probe_timeout_ms: 1000,
            loaded_interval_seconds: 2,
            models_interval_seconds: 10,
            fleet_interval_seconds: 5,
        }
    }
}

/// A node may be slow to list its models right after its start, or while it unloads one.
const LISTING_TIMEOUT: Duration = Duration::from_secs(5);

/// Watches one node.
#[derive(Debug)]
pub struct Prober {
    node: NodeId,
    fleet: Fleet,
    endpoint: Arc<NodeEndpoint>,
    settings: HealthSettings,
    clock: Clock,
    upstream: Upstream,
    catalog: Arc<Catalog>,
    metrics: Arc<Metrics>,
    listed: Option<Duration>,
    looked: Option<Duration>,
}

impl Prober {
    /// A prober that has seen nothing yet; `None` where the node has left already.
    pub fn new(node: NodeId, context: &FleetContext, settings: HealthSettings, upstream: Upstream) -> Option<Self> {
        let fleet = context.nodes.clone();
        let endpoint = fleet.get(node)?;
        let (clock, catalog) = (context.clock, context.catalog.clone());
        let metrics = context.metrics.clone();
        Some(Self { node, fleet, endpoint, settings, clock, upstream, catalog, metrics, listed: None, looked: None })
    }

    /// Asks again and again, until `stop`.
    pub async fn run(mut self, dispatcher: Arc<Dispatcher>, stop: CancellationToken) {
        let interval = Duration::from_millis(self.settings.probe_interval_ms);
        loop {
            let round = async {
                for event in self.round().await {
                    dispatcher.report(event);
                }
                tokio::time::sleep(interval).await;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = round => {}
            }
        }
    }

    /// One round of questions, as far as they are due.
    async fn round(&mut self) -> Vec<Event> {
        let node = self.node;
        // Its key or its deadlines may have changed.
        self.endpoint = self.fleet.get(node).unwrap_or_else(|| self.endpoint.clone());
        let timeout = self.endpoint.probe().unwrap_or(Duration::from_millis(self.settings.probe_timeout_ms));
        let asked = self.clock.uptime();
        let answer = self.ask(timeout, NodeEndpoint::version_uri).await;
        let heard = self.clock.now();
        self.metrics.probed(&self.endpoint.name, heard.uptime.saturating_sub(asked), heard.unix_ms);
        match answer {
            Ok(body) => self.hear_version(&body),
            Err(error) => {
                // A node that comes back may have other models than before.
                (self.listed, self.looked) = (None, None);
                self.catalog.hear_nothing(node);
                return vec![Event::Silent { node, error: format!("/api/version: {error}") }];
            }
        }
        let mut events = Vec::new();
        let now = self.clock.uptime();
        let due = |last: Option<Duration>, seconds| last.is_none_or(|last| now >= last + Duration::from_secs(seconds));
        let is_stale = self.catalog.take_stale(node);
        if is_stale || due(self.listed, self.settings.models_interval_seconds) {
            match self.models().await {
                Ok(models) => events.push(Event::Listed { node, models }),
                Err(error) if self.listed.is_none() => {
                    return vec![Event::Silent { node, error: format!("/api/tags: {error}") }];
                }
                Err(error) => tracing::warn!(node = &*self.endpoint.name, error, "the models could not be listed"),
            }
            self.listed = Some(now);
        }
        if is_stale || due(self.looked, self.settings.loaded_interval_seconds) {
            match self.loaded().await {
                Ok(loaded) => events.push(Event::Resident { node, loaded }),
                Err(error) => {
                    tracing::warn!(node = &*self.endpoint.name, error, "the loaded models could not be listed")
                }
            }
            self.looked = Some(now);
        }
        events.push(Event::Answered { node });
        events
    }

    fn hear_version(&self, body: &[u8]) {
        #[derive(Deserialize)]
        struct Version {
            version: String,
        }
        if let Ok(said) = serde_json::from_slice::<Version>(body) {
            self.catalog.hear_version(self.node, said.version);
        }
    }

    async fn ask(&self, within: Duration, uri: fn(&NodeEndpoint) -> &awc::http::Uri) -> Result<bytes::Bytes, String> {
        let node = &self.endpoint;
        let asking = self.upstream.get(node, uri(node));
        let asked = tokio::time::timeout(within, asking).await;
        let answer = asked.map_err(|_| format!("no answer within {} ms", within.as_millis()))?;
        answer.map_err(|error| error.to_string())
    }

    async fn models(&self) -> Result<Vec<Model>, String> {
        // A remote model would send prompts, and the bill, to somebody else's machines.
        let mut said = self.list(NodeEndpoint::tags_uri).await?;
        said.retain(|tag| tag["remote_host"].is_null());
        let models = said.iter().map(|tag| Tag::deserialize(tag).map(Tag::into_model)).collect::<Result<_, _>>();
        let models = models.map_err(|error| error.to_string())?;
        self.catalog.hear_tags(self.node, said);
        Ok(models)
    }

    async fn loaded(&self) -> Result<Vec<Loaded>, String> {
        let said = self.list(NodeEndpoint::ps_uri).await?;
        let loaded = said.iter().map(|process| Process::deserialize(process).map(Process::into_loaded));
        let loaded = loaded.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
        self.catalog.hear_loaded(self.node, said);
        Ok(loaded)
    }

    async fn list(&self, uri: fn(&NodeEndpoint) -> &awc::http::Uri) -> Result<Vec<Value>, String> {
        let body = self.ask(LISTING_TIMEOUT, uri).await?;
        let listing: Listing = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        Ok(listing.models.unwrap_or_default())
    }
}

#[derive(Deserialize)]
struct Listing {
    models: Option<Vec<Value>>,
}

#[derive(Deserialize)]
struct Tag {
    name: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    digest: String,
    #[serde(default)]
    modified_at: String,
    #[serde(default)]
    details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    #[serde(default)]
    family: String,
}

impl Tag {
    fn into_model(self) -> Model {
        let modified_unix =
            OffsetDateTime::parse(&self.modified_at, &Rfc3339).map_or(0, OffsetDateTime::unix_timestamp);
        let family = self.details.map(|details| details.family).unwrap_or_default();
        Model { name: self.name, size_bytes: self.size, digest: self.digest, modified_unix, family }
    }
}

#[derive(Deserialize)]
struct Process {
    name: String,
    #[serde(default)]
    size_vram: u64,
    #[serde(default)]
    context_length: Option<u64>,
}

impl Process {
    fn into_loaded(self) -> Loaded {
        Loaded { name: self.name, vram_bytes: self.size_vram, context_length: self.context_length }
    }
}
