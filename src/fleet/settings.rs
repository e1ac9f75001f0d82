//! What does the operator say about a node, and is it sound?
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use scheduler::NodeSpec;

/// One Ollama machine, as configured.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSettings {
    /// `[A-Za-z0-9._-]{1,64}`, unique.
    pub name: String,
    /// `http://HOST:PORT` or `https://HOST:PORT`, without a path.
    pub url: String,
    /// `dns` = one node for each address of the URL's host, as they come and go. Default `off`.
    #[serde(default)]
    pub discover: Discover,
    /// That node's `OLLAMA_NUM_PARALLEL`: requests that one loaded model takes at a time. `null` = it is learned, by
    /// sending one more now and then. Default `null`.
    #[serde(default)]
    pub slots: Option<u32>,
    /// Memory for models, GB (10^9 bytes): what the gateway has in it at a time at most. `null` = everything fits until
    /// the node was seen to push a model out, and from then on no more than was ever seen in it. Default `null`.
    #[serde(default)]
    pub vram_gb: Option<f64>,
    /// Sent to the node as `Authorization: Bearer`. Default `null`.
    #[serde(default)]
    pub api_key: Option<String>,
    /// A file that holds the key, instead of `api_key`. Default `null`.
    #[serde(default)]
    pub api_key_file: Option<PathBuf>,
    /// The user for basic authentication, instead of a key. Default `null`.
    #[serde(default)]
    pub username: Option<String>,
    /// The password that goes with `username`. Default `null`.
    #[serde(default)]
    pub password: Option<String>,
    /// A file that holds the password, instead of `password`. Default `null`.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Further headers of every request to the node, by name. Default none.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Further headers whose values are in files, by name. Default none.
    #[serde(default)]
    pub header_files: BTreeMap<String, PathBuf>,
    /// A PEM file with the authorities that may sign the node's certificate, instead of the public ones. Default `null`.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Instead of `relay.connect_ms`. Default `null`.
    #[serde(default)]
    pub connect_ms: Option<u64>,
    /// Instead of `relay.first_byte_seconds`. Default `null`.
    #[serde(default)]
    pub first_byte_seconds: Option<u64>,
    /// Instead of `relay.chunk_gap_seconds`. Default `null`.
    #[serde(default)]
    pub chunk_gap_seconds: Option<u64>,
    /// Instead of `health.probe_timeout_ms`. Default `null`.
    #[serde(default)]
    pub probe_timeout_ms: Option<u64>,
}

/// Whether an entry is one node, or stands for several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Discover {
    /// One node.
    #[default]
    Off,
    /// One for each address of the host.
    Dns,
}

/// Keys, passwords and headers stay out of logs.
impl fmt::Debug for NodeSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("NodeSettings").field("name", &self.name).field("url", &self.url).finish_non_exhaustive()
    }
}

impl NodeSettings {
    /// For people.
    pub fn slots_in_words(&self) -> String {
        self.slots.map_or("slots as learned".to_owned(), |slots| format!("{slots} slots a model"))
    }

    /// A node with the defaults.
    pub fn new(name: impl Into<String>, url: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            url: url.into(),
            discover: Discover::Off,
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
        }
    }

    /// What the scheduler needs to know.
    pub fn spec(&self) -> NodeSpec {
        let vram_bytes = self.vram_gb.map(|gigabytes| (gigabytes * 1e9) as u64);
        NodeSpec { name: self.name.clone(), slots: self.slots, vram_bytes }
    }

    /// What to resolve where the entry is to be discovered.
    pub(crate) fn host_and_port(&self) -> Option<(String, u16)> {
        let url: awc::http::Uri = self.url.parse().ok()?;
        let standard = if url.scheme_str() == Some("https") { 443 } else { 80 };
        let host = url.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        Some((host, url.port_u16().unwrap_or(standard)))
    }
}
