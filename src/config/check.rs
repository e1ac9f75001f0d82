//! Which mistakes can types not express? Settings that contradict each other, or that no gateway can work with.
use super::Config;
use super::document::{Document, Mistake};
use crate::flaw::Flaw;
use crate::store;

impl Config {
    /// Every mistake in settings that are each of the right type.
    pub(super) fn check(document: &Document<Self>) -> Vec<Mistake> {
        Check { document, mistakes: Vec::new() }.run()
    }
}

struct Check<'a> {
    document: &'a Document<Config>,
    mistakes: Vec<Mistake>,
}

impl Check<'_> {
    fn run(mut self) -> Vec<Mistake> {
        let config = &self.document.value;
        if config.bind().is_none() {
            self.wrong("server.bind", "expected ADDRESS:PORT", "such as 127.0.0.1:8000 or 0.0.0.0:8000");
        }
        if !config.database.is_known_kind() {
            self.wrong(
                "database.url",
                "expected a SQLite or Postgres URL",
                "sqlite://PATH or postgres://USER:PASSWORD@HOST/NAME",
            );
        }
        if config.database.is_known_kind()
            && let Some((message, hint)) = config.database.flaw()
        {
            self.wrong("database.url", &message, hint);
        }
        if config.database.audit_retention_days == Some(0) {
            self.wrong(
                "database.audit_retention_days",
                "expected at least 1 day, or null",
                "null keeps the audit log for ever",
            );
        }
        if config.database.usage_retention_days.is_some_and(|days| days < store::MIN_RETENTION_DAYS) {
            let message = format!("expected at least {} days, or null", store::MIN_RETENTION_DAYS);
            self.wrong("database.usage_retention_days", &message, "limits count the rows of today and yesterday");
        }
        if let Err(why) = config.log.filter() {
            self.wrong("log.level", &why, "such as info or info,ollama_gateway=debug");
        }
        if let Some((key, why)) = config.tracing.flaw() {
            self.wrong(&format!("tracing.{key}"), why, "");
        }
        if config.server.body_memory_bytes < config.server.max_body_bytes {
            let message = "expected at least `server.max_body_bytes`";
            self.wrong("server.body_memory_bytes", message, "or no body of that size would ever be accepted");
        }
        self.tls();
        self.admin();
        self.peppers();
        self.leases();
        self.cluster();
        self.positive();
        self.nodes();
        self.mistakes
    }

    fn wrong(&mut self, path: &str, message: &str, hint: &str) {
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        self.mistakes.push(self.document.mistake(path, message, hint));
    }

    fn tls(&mut self) {
        let config = &self.document.value;
        for Flaw { key, message, hint } in config.server.tls.flaws() {
            self.wrong(&format!("server.tls.{key}"), &message, hint);
        }
        let plain = config.server.tls.plain_address();
        if plain.is_some_and(|plain| plain.port() != 0 && config.bind() == Some(plain)) {
            self.wrong("server.tls.plain_bind", "the address of `server.bind`", "choose another port");
        }
    }

    fn admin(&mut self) {
        let config = &self.document.value;
        if config.admin.key.is_some() && config.admin.key_file.is_some() {
            self.wrong("admin.key_file", "`admin.key` is given as well", "give one of them");
        }
        if let Some(Err(why)) = config.admin.key.as_deref().map(|key| config.accepts_admin_key(key)) {
            self.wrong("admin.key", &why, "`openssl rand -hex 32` makes a good one; leave it out to have one made");
        }
    }

    fn peppers(&mut self) {
        let keys = &self.document.value.keys;
        if keys.pepper.is_some() && keys.pepper_file.is_some() {
            self.wrong("keys.pepper_file", "`keys.pepper` is given as well", "give one of them");
        }
        let all = keys.pepper.iter().map(|pepper| ("keys.pepper", pepper));
        for (path, pepper) in all.chain(keys.previous_peppers.iter().map(|pepper| ("keys.previous_peppers", pepper))) {
            if !store::KeySettings::is_fit(pepper) {
                self.wrong(path, "expected at least 16 characters", "`openssl rand -hex 32` makes a good one");
            } else if let Some(why) = store::KeySettings::unfit(pepper) {
                self.wrong(path, &format!("a pepper that {why}"), "`openssl rand -hex 32` makes a good one");
            }
        }
    }

    fn leases(&mut self) {
        let (percent, seconds) =
            (self.document.value.database.lease_percent, self.document.value.database.lease_seconds);
        if !(1..=50).contains(&percent) {
            self.wrong("database.lease_percent", "expected 1 to 50", "5 is usual");
        }
        if !(10..=3600).contains(&seconds) {
            self.wrong("database.lease_seconds", "expected 10 to 3600", "60 is usual");
        }
    }

    fn cluster(&mut self) {
        let config = &self.document.value;
        for (key, message, hint) in config.cluster.flaws() {
            self.wrong(&format!("cluster.{key}"), message, hint);
        }
        if config.cluster.bind.is_some() && config.database.sqlite_path().is_some() {
            let message = "a gateway with SQLite is always alone";
            self.wrong("cluster.bind", message, "several gateways need one Postgres; see docs/operate/cluster.md");
        }
        if config.cluster.bind.is_some() && config.cluster.bind == Some(config.server.bind.clone()) {
            self.wrong("cluster.bind", "the address of `server.bind`", "clients must not reach the link");
        }
    }

    fn positive(&mut self) {
        let config = &self.document.value;
        let numbers = [
            ("server.max_body_bytes", config.server.max_body_bytes as u64),
            ("server.body_seconds", config.server.body_seconds),
            ("server.idle_connection_seconds", config.server.idle_connection_seconds),
            ("server.client_stall_seconds", config.server.client_stall_seconds),
            ("server.guesses_per_minute", config.server.guesses_per_minute.into()),
            ("limits.default_max_output", config.limits.default_max_output),
            ("relay.queue_seconds", config.relay.queue_seconds),
            ("relay.connect_ms", config.relay.connect_ms),
            ("relay.first_byte_seconds", config.relay.first_byte_seconds),
            ("relay.commit_seconds", config.relay.commit_seconds),
            ("relay.heartbeat_seconds", config.relay.heartbeat_seconds),
            ("relay.chunk_gap_seconds", config.relay.chunk_gap_seconds),
            ("relay.total_seconds", config.relay.total_seconds),
            ("health.probe_interval_ms", config.health.probe_interval_ms),
            ("health.probe_timeout_ms", config.health.probe_timeout_ms),
            ("health.loaded_interval_seconds", config.health.loaded_interval_seconds),
            ("health.models_interval_seconds", config.health.models_interval_seconds),
            ("health.fleet_interval_seconds", config.health.fleet_interval_seconds),
            ("metrics.user_cap", config.metrics.user_cap as u64),
        ];
        for (path, number) in numbers {
            // More than a century of anything is a mistake as well, and would overflow a clock.
            if number == 0 || number > u64::from(u32::MAX) {
                self.wrong(path, "expected a whole number of at least 1 (and below 2^32)", "");
            }
        }
    }

    fn nodes(&mut self) {
        let nodes = &self.document.value.nodes;
        if nodes.is_empty() {
            self.wrong("nodes", "no node is configured", "name at least one Ollama machine");
        }
        for (index, node) in nodes.iter().enumerate() {
            let path = |key: &str| format!("nodes[{index}].{key}");
            for Flaw { key, message, hint } in node.flaws() {
                self.wrong(&path(key), &message, hint);
            }
            if nodes[..index].iter().any(|other| other.name == node.name) {
                self.wrong(&path("name"), "another node has this name", "names must differ");
            }
        }
    }
}
