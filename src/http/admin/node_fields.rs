//! What may be said of a node over REST, when it is added and when it is changed, and how is it shown again?

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::fleet::{Discover, NodeKind, NodeSettings};

/// Declares a request body that has a node's settings beside fields of its own. serde cannot flatten a struct into one that
/// names the field of a mistake.
macro_rules! body_with_node_fields {
    ($(#[$attribute:meta])* pub struct $name:ident { $($fields:tt)* }) => {
        $(#[$attribute])*
        #[derive(serde::Deserialize, utoipa::ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($fields)*
            /// `off`, or `dns`: a node for each address of the URL's host.
            #[serde(default, deserialize_with = "present")]
            #[schema(value_type = Option<String>, pattern = "^(off|dns)$")]
            discover: Option<Option<crate::fleet::Discover>>,
            /// `auto`: the node is asked; `ollama`; or `openai`: another server of OpenAI's API.
            #[serde(default, deserialize_with = "present")]
            #[schema(value_type = Option<String>, pattern = "^(auto|ollama|openai)$")]
            kind: Option<Option<crate::fleet::NodeKind>>,
            /// Path that answers while an `openai` node is well.
            #[serde(default, deserialize_with = "present")]
            #[schema(value_type = Option<String>)]
            health_path: Option<Option<String>>,
            /// Names that models of an `openai` node have here, and their names there.
            #[serde(default, deserialize_with = "present")]
            #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
            aliases: Option<Option<std::collections::BTreeMap<String, String>>>,
            /// Requests that one loaded model takes at a time; null = learned.
            #[serde(default, deserialize_with = "present")]
            #[schema(value_type = Option<u32>, minimum = 1, maximum = 1024)]
            slots: Option<Option<u32>>,
            /// Memory for models, GB (10^9 bytes).
            #[serde(default, deserialize_with = "present")]
            #[schema(value_type = Option<f64>)]
            vram_gb: Option<Option<f64>>,
            /// Sent to the node as `Authorization: Bearer`; kept in the database and never shown.
            #[serde(default, deserialize_with = "present")]
            #[schema(value_type = Option<String>)]
            api_key: Option<Option<String>>,
            /// For basic authentication, instead of a key.
            #[serde(default, deserialize_with = "present")]
            #[schema(value_type = Option<String>)]
            username: Option<Option<String>>,
            /// Goes with `username`; kept in the database and never shown.
            #[serde(default, deserialize_with = "present")]
            #[schema(value_type = Option<String>)]
            password: Option<Option<String>>,
            /// Further headers by name; kept in the database and never shown.
            #[serde(default, deserialize_with = "present")]
            #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
            headers: Option<Option<std::collections::BTreeMap<String, String>>>,
            /// Longest wait for a connection, milliseconds.
            #[serde(default, deserialize_with = "present")]
            #[schema(value_type = Option<u64>, minimum = 1)]
            connect_ms: Option<Option<u64>>,
            /// Longest wait for the first byte, seconds.
            #[serde(default, deserialize_with = "present")]
            #[schema(value_type = Option<u64>, minimum = 1)]
            first_byte_seconds: Option<Option<u64>>,
            /// Longest silence within an answer, seconds.
            #[serde(default, deserialize_with = "present")]
            #[schema(value_type = Option<u64>, minimum = 1)]
            chunk_gap_seconds: Option<Option<u64>>,
            /// Longest wait for a sign of life, milliseconds.
            #[serde(default, deserialize_with = "present")]
            #[schema(value_type = Option<u64>, minimum = 1)]
            probe_timeout_ms: Option<Option<u64>>,
            /// Longest wait for a list of models, seconds.
            #[serde(default, deserialize_with = "present")]
            #[schema(value_type = Option<u64>, minimum = 1)]
            listing_timeout_seconds: Option<Option<u64>>,
        }

        impl $name {
            /// Takes over what is given.
            fn apply(self, node: &mut crate::fleet::NodeSettings) {
                let base = crate::fleet::NodeSettings::new("", "");
                fn set<T>(place: &mut T, given: Option<T>) {
                    given.into_iter().for_each(|given| *place = given);
                }
                set(&mut node.discover, self.discover.map(|given| given.unwrap_or(base.discover)));
                set(&mut node.kind, self.kind.map(Option::unwrap_or_default));
                set(&mut node.health_path, self.health_path);
                set(&mut node.aliases, self.aliases.map(Option::unwrap_or_default));
                set(&mut node.slots, self.slots);
                set(&mut node.vram_gb, self.vram_gb);
                set(&mut node.api_key, self.api_key);
                set(&mut node.username, self.username);
                set(&mut node.password, self.password);
                set(&mut node.headers, self.headers.map(Option::unwrap_or_default));
                set(&mut node.connect_ms, self.connect_ms);
                set(&mut node.first_byte_seconds, self.first_byte_seconds);
                set(&mut node.chunk_gap_seconds, self.chunk_gap_seconds);
                set(&mut node.probe_timeout_ms, self.probe_timeout_ms);
                set(&mut node.listing_timeout_seconds, self.listing_timeout_seconds);
            }
        }
    };
}

pub(super) use body_with_node_fields;

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
