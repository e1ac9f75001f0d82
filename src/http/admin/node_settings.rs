//! How was a node described? In the words that it is added and changed with, without what is secret.
use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::fleet::{Discover, NodeKind, NodeSettings};

/// A node's settings as they were given, by the names that `POST` and `PATCH` take. Null is the default.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeSettingsRecord {
    /// Its name.
    name: String,
    /// Where it is; of a discovered node, the entry's.
    url: String,
    /// `off`, or `dns`: a node for each address of the URL's host.
    #[schema(value_type = String, pattern = "^(off|dns)$")]
    discover: Discover,
    /// `auto`, `ollama` or `openai`.
    #[schema(value_type = String, pattern = "^(auto|ollama|openai)$")]
    kind: NodeKind,
    /// Path that answers while an `openai` node is well.
    health_path: Option<String>,
    /// Names that models of an `openai` node have here, and their names there.
    aliases: BTreeMap<String, String>,
    /// Requests that one loaded model takes at a time; null = learned.
    slots: Option<u32>,
    /// Memory for models, GB (10^9 bytes).
    vram_gb: Option<f64>,
    /// Longest wait for a connection, milliseconds.
    connect_ms: Option<u64>,
    /// Longest wait for the first byte, seconds.
    first_byte_seconds: Option<u64>,
    /// Longest silence within an answer, seconds.
    chunk_gap_seconds: Option<u64>,
    /// Longest wait for a sign of life, milliseconds.
    probe_timeout_ms: Option<u64>,
    /// Longest wait for a list of models, seconds.
    listing_timeout_seconds: Option<u64>,
    /// Whether `api_key` is set, or a file that holds it.
    has_api_key: bool,
    /// Whether `username` is set.
    has_username: bool,
    /// Whether `password` is set, or a file that holds it.
    has_password: bool,
    /// The names of the `headers` that are set, by value or by file.
    header_names: Vec<String>,
}

impl From<NodeSettings> for NodeSettingsRecord {
    fn from(settings: NodeSettings) -> Self {
        let mut header_names: Vec<String> =
            settings.headers.into_keys().chain(settings.header_files.into_keys()).collect();
        header_names.sort_unstable();
        Self {
            name: settings.name,
            url: settings.url,
            discover: settings.discover,
            kind: settings.kind,
            health_path: settings.health_path,
            aliases: settings.aliases,
            slots: settings.slots,
            vram_gb: settings.vram_gb,
            connect_ms: settings.connect_ms,
            first_byte_seconds: settings.first_byte_seconds,
            chunk_gap_seconds: settings.chunk_gap_seconds,
            probe_timeout_ms: settings.probe_timeout_ms,
            listing_timeout_seconds: settings.listing_timeout_seconds,
            has_api_key: settings.api_key.is_some() || settings.api_key_file.is_some(),
            has_username: settings.username.is_some(),
            has_password: settings.password.is_some() || settings.password_file.is_some(),
            header_names,
        }
    }
}
