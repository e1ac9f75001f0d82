//! What does the operator say about a node, and is it sound?
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::endpoint::NodeEndpoint;
use scheduler::NodeSpec;

/// One entry of `nodes`: an Ollama node, or several that DNS tells of.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSettings {
    /// 1 to 64 of the characters `A-Z a-z 0-9 . _ -`; unique.
    pub name: String,
    /// `http://HOST:PORT` or `https://HOST:PORT`, without a path.
    pub url: String,
    /// `off`, or `dns` = one node for each address that the URL's host resolves to, as addresses come and go, named
    /// after this entry and the address. While the name cannot be resolved, the nodes stay as they were. Default
    /// `off`.
    #[serde(default)]
    pub discover: Discover,
    /// The node's `OLLAMA_NUM_PARALLEL`: requests that one loaded model serves at a time. `null` = learned,
    /// starting at 1, by trying one more now and then. Default `null`.
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

/// A setting of a node that cannot be used. No message holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Which setting.
    pub key: &'static str,
    /// What is wrong with it.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: &'static str,
}

impl Flaw {
    pub(super) fn new(key: &'static str, message: impl Into<String>, hint: &'static str) -> Self {
        Self { key, message: message.into(), hint }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.key, self.message)
    }
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
    pub(in crate::relay) fn host_and_port(&self) -> Option<(String, u16)> {
        let url: awc::http::Uri = self.url.parse().ok()?;
        let standard = if url.scheme_str() == Some("https") { 443 } else { 80 };
        let host = url.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        Some((host, url.port_u16().unwrap_or(standard)))
    }

    /// Everything that is wrong; files that are named are read.
    pub fn flaws(&self) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=64).contains(&self.name.len()) || !self.name.bytes().all(allowed) {
            flaws.push(Flaw::new("name", "expected 1 to 64 of the characters A-Z a-z 0-9 . _ -", ""));
        }
        if self.slots.is_some_and(|slots| !(1..=1024).contains(&slots)) {
            flaws.push(Flaw::new("slots", "expected 1 to 1024", "the node's OLLAMA_NUM_PARALLEL"));
        }
        if self.vram_gb.is_some_and(|gigabytes| !(gigabytes > 0.0 && gigabytes < 1e6)) {
            flaws.push(Flaw::new("vram_gb", "expected a number above 0", ""));
        }
        let deadlines = [
            ("connect_ms", self.connect_ms),
            ("first_byte_seconds", self.first_byte_seconds),
            ("chunk_gap_seconds", self.chunk_gap_seconds),
            ("probe_timeout_ms", self.probe_timeout_ms),
        ];
        for (key, number) in deadlines {
            if number.is_some_and(|number| number == 0 || number > u64::from(u32::MAX)) {
                flaws.push(Flaw::new(key, "expected a whole number of at least 1 (and below 2^32)", ""));
            }
        }
        flaws.extend(NodeEndpoint::flaws(self));
        flaws
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flaws(change: impl FnOnce(&mut NodeSettings)) -> Vec<&'static str> {
        let mut settings = NodeSettings::new("a", "https://gpu.example.org");
        change(&mut settings);
        settings.flaws().iter().map(|flaw| flaw.key).collect()
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        assert!(flaws(|_| {}).is_empty());
        assert_eq!(flaws(|node| node.name = "a b".into()), ["name"]);
        assert_eq!(flaws(|node| node.slots = Some(0)), ["slots"]);
        assert_eq!(flaws(|node| node.vram_gb = Some(0.0)), ["vram_gb"]);
        assert_eq!(flaws(|node| node.connect_ms = Some(0)), ["connect_ms"]);
        assert_eq!(flaws(|node| node.api_key = Some("a b".into())), ["api_key"]);
        assert_eq!(flaws(|node| node.api_key_file = Some("/nowhere/key".into())), ["api_key_file"]);
        assert_eq!(flaws(|node| node.password = Some("x".into())), ["password"]);
        assert_eq!(flaws(|node| node.username = Some("x".into())), ["username"]);
        assert_eq!(flaws(|node| node.ca_file = Some("/nowhere/ca.pem".into())), ["ca_file"]);
        let two_ways = flaws(|node| {
            (node.api_key, node.username, node.password) = (Some("k".into()), Some("u".into()), Some("p".into()));
        });
        assert_eq!(two_ways, ["username"]);
        for name in ["host", "Authorization", "content-length", "x-request-id", "traceparent", "a b", ""] {
            assert_eq!(flaws(|node| drop(node.headers.insert(name.into(), "v".into()))), ["headers"], "{name}");
        }
        assert_eq!(flaws(|node| drop(node.headers.insert("x-key".into(), "a\nb".into()))), ["headers"]);
        assert_eq!(flaws(|node| drop(node.header_files.insert("x-key".into(), "/nowhere".into()))), ["header_files"]);
        let plain = flaws(|node| (node.url, node.ca_file) = ("http://a".into(), Some("/nowhere/ca.pem".into())));
        assert_eq!(plain, ["ca_file"]);
    }

    #[test]
    fn only_plain_addresses_are_taken() {
        for good in ["http://127.0.0.1:11434", "https://gpu.example.org", "http://[::1]:1/"] {
            assert!(flaws(|node| node.url = good.into()).is_empty(), "{good}");
        }
        for bad in
            ["", "127.0.0.1:11434", "ftp://a", "http://", "http://a/b", "http://u:p@a", "http://a?b", "http://a b"]
        {
            assert_eq!(flaws(|node| node.url = bad.into()), ["url"], "{bad}");
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let mut settings = NodeSettings::new("a", "https://gpu.example.org");
        settings.api_key = Some("geheim key".into());
        settings.password = Some("geheim".into());
        settings.headers.insert("x-key".into(), "geheim\n".into());
        let said = format!("{settings:?} {:?}", settings.flaws());
        assert!(!said.contains("geheim"), "{said}");
    }
}
