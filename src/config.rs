//! What did the operator configure? `gateway.yaml` and the environment over the defaults, checked as a whole.
//!
//! Each module defines its own settings; here they are only combined and checked against each other. Their names are a
//! contract, and each one is documented in `gateway.yaml`.
mod check;
pub mod document;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use document::{Document, Mistake, Renamed};
use serde::{Deserialize, Serialize};

use crate::fleet::{HealthSettings, NodeSettings};
use crate::http::ServerSettings;
use crate::link::ClusterSettings;
use crate::relay::RelaySettings;
use crate::trace::TracingSettings;
use crate::{http, metrics, store, telemetry};

/// The file that is read if no other is given.
pub const DEFAULT_FILE: &str = "gateway.yaml";
/// The demo's admin key, which everybody knows.
pub const DEMO_ADMIN_KEY: &str = "admin-secret-key";
/// The least length of an admin key that others can reach.
const MIN_ADMIN_KEY: usize = 32;

/// All settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What the gateway accepts from clients.
    pub server: ServerSettings,
    /// The admin key.
    pub admin: AdminSettings,
    /// Where users, keys and usage are stored.
    pub database: store::DatabaseSettings,
    /// How gateways on one Postgres reach each other, so that one of them schedules for all.
    pub cluster: ClusterSettings,
    /// How users' keys are stored.
    pub keys: store::KeySettings,
    /// The Ollama nodes. Default: one at `http://127.0.0.1:11434`.
    pub nodes: Vec<NodeSettings>,
    /// The limits of new users.
    pub limits: limits::DefaultLimits,
    /// Other names for models, and substitutes for missing ones.
    pub models: http::ModelNames,
    /// How many requests may wait.
    pub queue: scheduler::QueueLimits,
    /// Deadlines of requests.
    pub relay: RelaySettings,
    /// How nodes are watched.
    pub health: HealthSettings,
    /// What is exported to Prometheus.
    pub metrics: metrics::MetricsSettings,
    /// Where traces are sent.
    pub tracing: TracingSettings,
    /// The log.
    pub log: telemetry::LogSettings,
}

/// The key that opens `/admin`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminSettings {
    /// The admin key. `null` = one is generated at the first start, shown once and kept in the file `admin_key`
    /// next to the database (mode 0600). On any address other than loopback it needs at least 32 characters.
    /// Default `null`.
    pub key: Option<String>,
    /// A file that holds the key, instead of `key`. Default `null`.
    pub key_file: Option<PathBuf>,
}

/// Keeps the key out of logs.
impl fmt::Debug for AdminSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("AdminSettings").field("key_file", &self.key_file).finish_non_exhaustive()
    }
}

impl Default for Config {
    fn default() -> Self {
        let local = NodeSettings::new("local", "http://127.0.0.1:11434");
        Self {
            server: ServerSettings::default(),
            admin: AdminSettings::default(),
            database: store::DatabaseSettings::default(),
            cluster: ClusterSettings::default(),
            keys: store::KeySettings::default(),
            nodes: vec![local],
            limits: limits::DefaultLimits::default(),
            models: http::ModelNames::default(),
            queue: scheduler::QueueLimits::default(),
            relay: RelaySettings::default(),
            health: HealthSettings::default(),
            metrics: metrics::MetricsSettings::default(),
            tracing: TracingSettings::default(),
            log: telemetry::LogSettings::default(),
        }
    }
}

/// Settings that had different names in earlier versions: three were called keep-alive without saying of what.
const RENAMED: [Renamed; 3] = [
    ("server.keep_alive_seconds", "server.idle_connection_seconds"),
    ("relay.keep_alive_seconds", "relay.heartbeat_seconds"),
    ("relay.keep_alive_minutes", "relay.model_keep_alive_minutes"),
];

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {error}")]
    Unreadable {
        /// The file's name.
        path: String,
        /// The reason.
        error: std::io::Error,
    },
    /// Every mistake that was found.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Mistakes(Vec<Mistake>),
}

/// Reads and checks the configuration: the defaults, then the file, then the environment. The default file may be
/// missing; a file that was named may not.
///
/// # Errors
/// [`ConfigError`] with every mistake.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Document<Config>, ConfigError> {
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    let name = path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(ConfigError::Unreadable { path: name, error }),
    };
    parse(text.as_deref().map(|text| (name.as_str(), text)), environment).map_err(ConfigError::Mistakes)
}

/// The same for a file that has been read already: its name for messages, and its text.
///
/// # Errors
/// Every mistake.
pub fn parse(
    file: Option<(&str, &str)>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Document<Config>, Vec<Mistake>> {
    document::load(file, environment, &RENAMED, Config::check)
}

impl Config {
    /// The address to listen on; [`load`] has checked it.
    pub fn bind(&self) -> Option<SocketAddr> {
        bind_address(&self.server.bind)
    }

    /// The folder for files that the gateway creates.
    pub fn data_folder(&self) -> PathBuf {
        let beside = self.database.local_path().parent().filter(|folder| !folder.as_os_str().is_empty());
        beside.unwrap_or(Path::new("data")).to_path_buf()
    }

    /// Whether `key` may protect this address: on loopback any key that is not empty, elsewhere only a strong one.
    ///
    /// # Errors
    /// The reason why not, without the key.
    pub fn accepts_admin_key(&self, key: &str) -> Result<(), String> {
        if key.trim().is_empty() {
            return Err("the admin key is empty".to_owned());
        }
        if let Some(why) = store::KeySettings::unfit(key) {
            return Err(format!("the admin key {why}"));
        }
        if self.bind().is_some_and(|address| address.ip().is_loopback()) {
            return Ok(());
        }
        if key == DEMO_ADMIN_KEY {
            return Err("the demo's admin key is known to everybody".to_owned());
        }
        if key.len() < MIN_ADMIN_KEY {
            return Err(format!("an admin key that others can reach needs at least {MIN_ADMIN_KEY} characters"));
        }
        Ok(())
    }
}

fn bind_address(text: &str) -> Option<SocketAddr> {
    text.replacen("localhost:", "127.0.0.1:", 1).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.yaml");
        std::fs::write(&file, text).unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        load(Some(&file), environment).map(|document| document.value).map_err(|error| error.to_string())
    }

    #[test]
    fn a_setting_under_its_old_name_counts_and_is_pointed_out() {
        let load = |file: &str, environment: &[(&str, &str)]| {
            let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            parse(Some(("gateway.yaml", file)), environment)
        };
        let old = load(
            "server:\n  keep_alive_seconds: 9\nrelay:\n  keep_alive_seconds: 3\n",
            &[("GATEWAY__RELAY__KEEP_ALIVE_MINUTES", "7")],
        );
        let old = old.unwrap();
        let (server, relay) = (&old.value.server, &old.value.relay);
        let numbers = (server.idle_connection_seconds, relay.heartbeat_seconds, relay.model_keep_alive_minutes);
        assert_eq!(numbers, (9, 3, 7));
        let notes: Vec<String> = old.notes().iter().map(ToString::to_string).collect();
        assert_eq!(notes.len(), 3, "{notes:?}");
        assert!(notes[0].starts_with("gateway.yaml:2: server.keep_alive_seconds: "), "{notes:?}");
        assert!(notes[2].contains("`relay.model_keep_alive_minutes`"), "{notes:?}");

        let both = load("relay:\n  keep_alive_seconds: 3\n  heartbeat_seconds: 4\n", &[]).unwrap_err();
        assert_eq!(both.len(), 1, "{both:?}");
        assert!(both[0].to_string().contains("relay.keep_alive_seconds"), "{both:?}");
        let bad = load("relay:\n  keep_alive_seconds: x\n", &[]).unwrap_err();
        assert!(bad[0].to_string().starts_with("gateway.yaml:2: relay.heartbeat_seconds"), "{bad:?}");
        assert!(load("", &[]).unwrap().notes().is_empty());
    }

    #[test]
    fn the_shipped_file_says_the_defaults() {
        let shipped = include_str!("../gateway.yaml");
        assert_eq!(check(shipped, &[]).unwrap(), Config::default());
    }

    #[test]
    fn every_setting_stands_in_the_shipped_file() {
        let shipped = include_str!("../gateway.yaml");
        let serde_json::Value::Object(sections) = serde_json::to_value(Config::default()).unwrap() else { panic!() };
        for (section, settings) in &sections {
            assert!(shipped.contains(&format!("\n{section}:")), "{section}");
            for key in settings.as_object().into_iter().flatten().map(|(key, _)| key) {
                assert!(shipped.contains(&format!("\n  {key}:")), "{section}.{key}");
            }
        }
        let node = serde_json::to_value(&Config::default().nodes[0]).unwrap();
        for key in node.as_object().unwrap().keys() {
            assert!(shipped.contains(&format!(" {key}:")), "nodes[].{key}");
        }
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let text = "server:\n  bind: 127.0.0.1:1\n  workers: 3\n";
        let environment = [
            ("GATEWAY__SERVER__BIND", "127.0.0.1:2"),
            ("GATEWAY__ADMIN__KEY", "123456"),
            ("GATEWAY__NODES", r#"[{"name":"a","url":"http://127.0.0.1:11434","slots":2}]"#),
        ];
        let config = check(text, &environment).unwrap();
        assert_eq!((config.server.bind.as_str(), config.server.workers), ("127.0.0.1:2", 3));
        assert_eq!(config.admin.key.as_deref(), Some("123456"));
        assert_eq!((config.nodes[0].name.as_str(), config.nodes[0].slots), ("a", Some(2)));
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_place() {
        let text = "server:\n  bind: here\ndatabase:\n  url: mysql://user:geheim@host\nnodes:\n  - name: a b\n    url: ftp://x/y\n    slots: 0\n";
        let said = check(text, &[("GATEWAY__RELAY__CONNECT_MS", "0")]).unwrap_err();
        for part in [
            ":2: server.bind: expected ADDRESS:PORT",
            ":4: database.url",
            ":6: nodes[0].name",
            ":7: nodes[0].url",
            ":8: nodes[0].slots",
            "GATEWAY__RELAY__CONNECT_MS: relay.connect_ms",
        ] {
            assert!(said.contains(part), "{part}\n{said}");
        }
        assert!(!said.contains("geheim"));
    }

    #[test]
    fn what_types_say_hides_nothing_of_what_only_a_look_at_the_whole_does() {
        let text = "server:\n  bnd: x\nadmin:\n  key: short\nnodes:\n  - name: a b\n    url: ftp://x\n    slots: -1\n";
        let said = check(text, &[("GATEWAY__SERVER__BIND", "0.0.0.0:1")]).unwrap_err();
        for part in [":2: server.bnd", ":4: admin.key", ":6: nodes[0].name", ":7: nodes[0].url", ":8: nodes[0].slots"] {
            assert!(said.contains(part), "{part}\n{said}");
        }
        assert_eq!(said.lines().count(), 5, "{said}");
        let said = check("nodes:\n  - name: a\n  - name: b\n    url: ftp://x\n", &[]).unwrap_err();
        assert!(said.contains(":2: nodes[0]") && said.lines().count() == 1, "{said}");
    }

    #[test]
    fn a_pepper_must_be_long_and_given_once() {
        let keys = |lines: &str| check(&format!("keys:\n{lines}"), &[]);
        assert!(keys("  pepper: 0123456789abcdef\n  previous_peppers: [fedcba9876543210]\n").is_ok());
        for (bad, named) in [
            ("  pepper: geheim\n", "keys.pepper"),
            ("  previous_peppers: [geheim]\n", "keys.previous_peppers"),
            ("  pepper: 0123456789abcdef\n  pepper_file: x\n", "keys.pepper_file"),
        ] {
            let said = keys(bad).unwrap_err();
            assert!(said.contains(named) && !said.contains("geheim"), "{said}");
        }
    }

    #[test]
    fn leases_are_a_part_and_a_while() {
        for (good, bad) in [("lease_percent: 50", "lease_percent: 51"), ("lease_seconds: 10", "lease_seconds: 9")] {
            assert!(check(&format!("database:\n  {good}\n"), &[]).is_ok());
            let said = check(&format!("database:\n  {bad}\n"), &[]).unwrap_err();
            assert!(said.contains(&format!(":2: database.{}", bad.split(':').next().unwrap())), "{said}");
        }
        assert!(check("database:\n  lease_percent: 0\n  lease_seconds: 3601\n", &[]).unwrap_err().lines().count() == 2);
    }

    #[test]
    fn rows_that_limits_count_cannot_be_let_go() {
        let kept = |days: &str| check(&format!("database:\n  audit_retention_days: {days}\n"), &[]);
        assert_eq!(kept("1").unwrap().database.audit_retention_days, Some(1));
        assert!(kept("0").unwrap_err().contains(":2: database.audit_retention_days: expected at least 1 day"));
        let days = |days: &str| check(&format!("database:\n  usage_retention_days: {days}\n"), &[]);
        assert_eq!(days("2").unwrap().database.usage_retention_days, Some(2));
        assert_eq!(days("null").unwrap().database.usage_retention_days, None);
        for few in ["0", "1"] {
            let said = days(few).unwrap_err();
            assert!(said.contains(":2: database.usage_retention_days: expected at least 2 days"), "{said}");
        }
    }

    #[test]
    fn an_address_that_others_reach_needs_a_strong_admin_key() {
        let key = |bind: &str, key: &str| check(&format!("server:\n  bind: {bind}\nadmin:\n  key: \"{key}\"\n"), &[]);
        let strong = "0123456789abcdef0123456789abcdef";
        assert!(key("127.0.0.1:1", DEMO_ADMIN_KEY).is_ok());
        assert!(key("127.0.0.1:1", "").is_err());
        for weak in ["", DEMO_ADMIN_KEY, "short"] {
            let said = key("0.0.0.0:1", weak).unwrap_err();
            assert!(said.contains("admin.key") && (weak.is_empty() || !said.contains(weak)), "{said}");
        }
        assert!(key("0.0.0.0:1", strong).is_ok());
        assert!(key("\"[::]:1\"", "short").is_err());
    }

    #[test]
    fn a_missing_default_file_is_fine_and_a_named_one_is_not() {
        assert!(load(Some(Path::new("/nowhere/gateway.yaml")), []).is_err());
    }
}
