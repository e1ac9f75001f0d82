//! Which settings does a node have, and how are all of them watched?
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use scheduler::NodeSpec;
use serde::{Deserialize, Serialize};

use super::kind::NodeKind;

/// One entry of `nodes`: one node, or several that are discovered through DNS.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSettings {
    /// 1 to 64 of the characters `A-Z a-z 0-9 . _ -`; unique.
    pub name: String,
    /// `http://HOST:PORT` or `https://HOST:PORT`; a path before the node's own may follow.
    pub url: String,
    /// `off`, or `dns` = one node for each address that the URL's host resolves to, as addresses come and go, named
    /// after this entry and the address. While the name cannot be resolved, the nodes stay as they were. Default
    /// `off`.
    #[serde(default)]
    pub discover: Discover,
    /// The API that the node speaks: `ollama`; `openai` = another server of OpenAI's API (vLLM, SGLang, llama.cpp, LM
    /// Studio, TGI, a cloud endpoint); `auto` = ask the node. Default `auto`.
    #[serde(default)]
    pub kind: NodeKind,
    /// Path that answers while an `openai` node is healthy. `null` = `/health` if the node has it, otherwise
    /// `/v1/models`. Default `null`.
    #[serde(default)]
    pub health_path: Option<String>,
    /// Names here for the models of an `openai` node, and the node's own names for them:
    /// `{llama3.2: meta-llama/Llama-3.2-3B-Instruct}`. Default none.
    #[serde(default)]
    pub aliases: BTreeMap<String, String>,
    /// The node's `OLLAMA_NUM_PARALLEL`: requests that one loaded model serves at a time. `null` = learned, starting at
    /// 1, by occasionally trying one more. Default `null`.
    #[serde(default)]
    pub slots: Option<u32>,
    /// Memory for models, GB (10^9 bytes); the gateway never loads more than that. `null` = no limit until the node
    /// is seen to evict a model by itself, and from then on the most that was ever seen loaded. Default `null`.
    #[serde(default)]
    pub vram_gb: Option<f64>,
    /// Sent to this node as `Authorization: Bearer`. Like all credentials of a node, it is sent to no other host,
    /// and redirects are not followed. Default `null`.
    #[serde(default)]
    pub api_key: Option<String>,
    /// A file that holds the key, instead of `api_key`. Default `null`.
    #[serde(default)]
    pub api_key_file: Option<PathBuf>,
    /// User name for basic authentication, instead of a key. Default `null`.
    #[serde(default)]
    pub username: Option<String>,
    /// Password for `username`. Default `null`.
    #[serde(default)]
    pub password: Option<String>,
    /// A file that holds the password, instead of `password`. Default `null`.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// More headers to send to this node, by name: `{x-tenant: lab}`. Default none.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// More headers whose values are read from files, by name: `{x-token: /run/secrets/token}`. Default none.
    #[serde(default)]
    pub header_files: BTreeMap<String, PathBuf>,
    /// PEM file with the authorities that may sign the certificate of an https node. `null` = the public ones.
    /// Default `null`.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Overrides `relay.connect_ms` for this node, milliseconds. `null` = no override. Default `null`.
    #[serde(default)]
    pub connect_ms: Option<u64>,
    /// Overrides `relay.first_byte_seconds` for this node, seconds. `null` = no override. Default `null`.
    #[serde(default)]
    pub first_byte_seconds: Option<u64>,
    /// Overrides `relay.chunk_gap_seconds` for this node, seconds. `null` = no override. Default `null`.
    #[serde(default)]
    pub chunk_gap_seconds: Option<u64>,
    /// Overrides `health.probe_timeout_ms` for this node, milliseconds. `null` = no override. Default `null`.
    #[serde(default)]
    pub probe_timeout_ms: Option<u64>,
    /// Overrides `health.listing_timeout_seconds` for this node, seconds. `null` = no override. Default `null`.
    #[serde(default)]
    pub listing_timeout_seconds: Option<u64>,
}

/// Whether an entry is one node or stands for several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Discover {
    /// One node.
    #[default]
    Off,
    /// One node for each address of the host.
    Dns,
}

/// Keeps keys, passwords and headers out of logs.
impl fmt::Debug for NodeSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("NodeSettings").field("name", &self.name).field("url", &self.url).finish_non_exhaustive()
    }
}

impl NodeSettings {
    /// The number of slots, for operators to read.
    pub fn slots_in_words(&self) -> String {
        self.slots.map_or("slots as learned".to_owned(), |slots| format!("slots a model: {slots}"))
    }

    /// A node with the defaults.
    pub fn new(name: impl Into<String>, url: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            url: url.into(),
            discover: Discover::Off,
            kind: NodeKind::Auto,
            health_path: None,
            aliases: BTreeMap::new(),
            slots: None,
            vram_gb: None,
            api_key: None,
            api_key_file: None,
            username: None,
            password: None,
            password_file: None,
            headers: BTreeMap::new(),
            header_files: BTreeMap::new(),
            ca_file: None,
            connect_ms: None,
            first_byte_seconds: None,
            chunk_gap_seconds: None,
            probe_timeout_ms: None,
            listing_timeout_seconds: None,
        }
    }

    /// Whether credentials or other headers come from files.
    pub(super) fn has_secret_files(&self) -> bool {
        self.api_key_file.is_some() || self.password_file.is_some() || !self.header_files.is_empty()
    }

    /// What the scheduler needs to know.
    pub fn spec(&self) -> NodeSpec {
        let vram_bytes = self.vram_gb.map(|gigabytes| (gigabytes * 1e9) as u64);
        NodeSpec { name: self.name.clone(), slots: self.slots, vram_bytes }
    }

    /// The host and port to resolve if the entry is discovered.
    pub(crate) fn host_and_port(&self) -> Option<(String, u16)> {
        let url: actix_http::Uri = self.url.parse().ok()?;
        let standard = if url.scheme_str() == Some("https") { 443 } else { 80 };
        let host = url.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        Some((host, url.port_u16().unwrap_or(standard)))
    }
}

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
