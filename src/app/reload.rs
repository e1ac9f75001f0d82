//! How is a changed configuration applied without a restart, and which files with secrets, read only at the start, hold
//! something else by now? A reload names them.
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::clock::Clock;
use crate::config::Config;
use crate::flaw::Flaw;
use crate::fleet::{ChangeLog, Roster};
use crate::http::{Live, ModelNames, ReloadReport};
use crate::metrics::Metrics;
use crate::store::{AuditEntry, Role, Store};
use crate::tls::{Certificate, ServedCertificate};

/// The one group of settings within a section.
const TLS: &str = "server.tls";
const CERTIFICATE: &str = "server.tls.cert_file";
const KEY: &str = "server.tls.key_file";
const PASSWORD: &str = "database.password_file";

type Read = dyn Fn() -> Result<Config, String> + Send + Sync;

/// Applies the present configuration.
#[derive(Clone)]
pub struct Reloader(Arc<Inner>);

struct Inner {
    /// The configuration in force.
    current: tokio::sync::Mutex<Config>,
    secrets: StartSecrets,
    read: Box<Read>,
    parts: Parts,
}

/// What a reload has read.
struct Found {
    config: Config,
    /// `None` without TLS.
    certificate: Option<Certificate>,
    /// Settings whose files hold something else than at the start, which takes a restart.
    stale: Vec<String>,
}

/// The parts that a reload changes.
pub(super) struct Parts {
    pub(super) roster: Arc<Roster>,
    pub(super) names: Live<ModelNames>,
    pub(super) limits: Live<limits::DefaultLimits>,
    /// `None` without TLS.
    pub(super) certificate: Option<Arc<ServedCertificate>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) store: Store,
    pub(super) changes: Arc<ChangeLog>,
    pub(super) clock: Clock,
}

impl Reloader {
    pub(super) fn new(
        config: &Config,
        parts: Parts,
        read: impl Fn() -> Result<Config, String> + Send + Sync + 'static,
    ) -> Self {
        parts.metrics.config_loaded(true, parts.clock.now().unix_ms);
        let (current, secrets) = (tokio::sync::Mutex::new(config.clone()), StartSecrets::of(config));
        Self(Arc::new(Inner { current, secrets, read: Box::new(read), parts }))
    }

    /// Reads the configuration again, and the files it names, and applies what can be changed.
    ///
    /// # Errors
    /// Every mistake in it, in words without secrets; nothing has changed then.
    pub async fn reload(&self) -> Result<ReloadReport, String> {
        let Inner { current, parts, .. } = &*self.0;
        let mut current = current.lock().await;
        let now = parts.clock.now();
        let (found, has_other_password) = self.find().await.inspect_err(|mistakes| {
            parts.metrics.config_loaded(false, now.unix_ms);
            parts.changes.tell_reload_failed(mistakes, now);
        })?;
        let Found { config: new, certificate, mut stale } = found;
        let is_secure = parts.certificate.is_some() && certificate.is_some();
        let (mut applied, mut needs_restart): (Vec<String>, Vec<String>) =
            differences(&current, &new).into_iter().partition(|path| is_live(path, is_secure));
        stale.retain(|path| !needs_restart.contains(path));
        needs_restart.append(&mut stale);
        if has_other_password {
            applied.push(PASSWORD.to_owned());
        }
        if let Some(certificate) = certificate.filter(|_| is_secure) {
            if parts.serve(&certificate) && !applied.iter().any(|path| path == CERTIFICATE) {
                applied.push(CERTIFICATE.to_owned());
            }
            // What is served now is what the next reload is compared with.
            let files = (new.server.tls.cert_file.clone(), new.server.tls.key_file.clone());
            (current.server.tls.cert_file, current.server.tls.key_file) = files;
        }
        parts.names.set(new.models.clone());
        parts.limits.set(new.limits.clone());
        let nodes = parts.roster.replace_file(new.nodes.clone()).await;
        (current.nodes, current.models, current.limits) = (new.nodes, new.models, new.limits);
        parts.metrics.config_loaded(true, now.unix_ms);
        parts.changes.tell_reloaded(&applied, &needs_restart, parts.clock.now());
        Ok(ReloadReport::new(applied, needs_restart, nodes))
    }

    /// Reads everything, and whether the password of the database is another one.
    async fn find(&self) -> Result<(Found, bool), String> {
        let inner = self.0.clone();
        let found = tokio::task::spawn_blocking(move || inner.find()).await.map_err(|error| error.to_string())??;
        let renewed = self.0.parts.store.renew_password().await;
        Ok((found, renewed.map_err(|error| error.to_string())?))
    }

    /// Does it because of a signal, which the audit log says afterwards. Whoever sends signals might as well start the gateway
    /// anew, so that a log which cannot be written does not stand in the way.
    pub async fn reload_on_signal(&self) {
        let (status, after) = match self.reload().await {
            Ok(report) => (200, serde_json::to_string(&report).ok()),
            Err(_) => (400, None),
        };
        let Parts { store, clock, .. } = &self.0.parts;
        let entry = AuditEntry {
            at_ms: clock.now().unix_ms,
            actor: "operating system".to_owned(),
            role: Role::Admin.as_str(),
            method: "SIGNAL".to_owned(),
            route: "SIGHUP".to_owned(),
            target: "configuration".to_owned(),
            before: None,
            after,
            request_id: Uuid::now_v7(),
            status: Some(status),
        };
        if let Err(error) = store.audit(entry).await {
            tracing::error!(%error, "a reload of the configuration could not be written to the audit log");
        }
    }
}

impl Inner {
    fn find(&self) -> Result<Found, String> {
        let config = (self.read)()?;
        let flawed = |flaw: Flaw| format!("server.tls.{}: {}", flaw.key, flaw.message);
        let certificate = config.server.tls.certificate().map_err(flawed)?;
        let stale = self.secrets.changed(&StartSecrets::of(&config));
        Ok(Found { config, certificate, stale })
    }
}

impl Parts {
    /// Serves this certificate from now on. Returns whether it is another one.
    fn serve(&self, certificate: &Certificate) -> bool {
        self.metrics.certificate_expires(certificate.expires());
        if let Some(warning) = certificate.warning(self.clock.now().unix_ms / 1_000) {
            tracing::warn!("{warning}");
        }
        self.certificate.as_ref().is_some_and(|served| served.replace(certificate))
    }
}

/// `is_secure`: whether TLS is spoken now and is to be, as it cannot be turned on or off.
fn is_live(path: &str, is_secure: bool) -> bool {
    let section = path.split('.').next().unwrap_or(path);
    ["nodes", "models", "limits"].contains(&section) || (is_secure && [CERTIFICATE, KEY].contains(&path))
}

/// The paths of settings that differ; never their values.
fn differences(old: &Config, new: &Config) -> Vec<String> {
    let tree = |config: &Config| serde_json::to_value(config).unwrap_or_default();
    let (Value::Object(old), Value::Object(new)) = (tree(old), tree(new)) else { return Vec::new() };
    let mut paths = Vec::new();
    for (section, new) in &new {
        match (old.get(section), new) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                for (key, value) in new.iter().filter(|(key, value)| old.get(*key) != Some(value)) {
                    let path = format!("{section}.{key}");
                    match (old.get(key), value) {
                        (Some(Value::Object(old)), Value::Object(new)) if path == TLS => {
                            let changed = new.iter().filter(|(key, value)| old.get(*key) != Some(value));
                            paths.extend(changed.map(|(key, _)| format!("{path}.{key}")));
                        }
                        _ => paths.push(path),
                    }
                }
            }
            (old, new) if old != Some(new) => paths.push(section.clone()),
            _ => {}
        }
    }
    paths
}

/// Digests of what the files held, by setting; `None` for one that cannot be read.
#[derive(Debug)]
pub(super) struct StartSecrets(Vec<(&'static str, Option<[u8; 32]>)>);

impl StartSecrets {
    /// Reads the files that this configuration names.
    pub(super) fn of(config: &Config) -> Self {
        let files = [
            ("admin.key_file", &config.admin.key_file),
            ("cluster.secret_file", &config.cluster.secret_file),
            ("keys.pepper_file", &config.keys.pepper_file),
        ];
        Self(files.into_iter().filter_map(|(setting, file)| Some((setting, digest(file.as_deref()?)))).collect())
    }

    /// The settings whose files differ; those that only one of the two has are not among them.
    pub(super) fn changed(&self, now: &Self) -> Vec<String> {
        let differs = |(setting, digest): &&(&str, Option<[u8; 32]>)| {
            now.0.iter().any(|(other, new)| other == setting && new != digest)
        };
        self.0.iter().filter(differs).map(|(setting, _)| (*setting).to_owned()).collect()
    }
}

fn digest(file: &Path) -> Option<[u8; 32]> {
    std::fs::read(file).ok().map(|content| Sha256::digest(content.trim_ascii()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named_without_its_value() {
        let old = Config::default();
        let mut new = old.clone();
        assert!(differences(&old, &new).is_empty());
        new.nodes[0].api_key = Some("geheim".to_owned());
        new.database.url = "postgres://u:geheim@h/n".to_owned();
        new.limits.requests_per_minute = Some(5);
        assert_eq!(differences(&old, &new), ["database.url", "limits.requests_per_minute", "nodes"]);
        new = old.clone();
        new.server.tls.cert_file = Some("cert".into());
        new.server.tls.plain_bind = Some("127.0.0.1:1".to_owned());
        assert_eq!(differences(&old, &new), [CERTIFICATE, "server.tls.plain_bind"]);
        for live in ["nodes", "limits.requests_per_minute"] {
            assert!(is_live(live, false), "{live}");
        }
        for (path, while_secure) in
            [(CERTIFICATE, true), (KEY, true), ("server.tls.plain_bind", false), ("database.url", false)]
        {
            assert!(!is_live(path, false) && is_live(path, true) == while_secure, "{path}");
        }
    }

    #[test]
    fn a_file_with_another_secret_is_named_and_one_with_another_end_of_line_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.admin.key_file = Some(folder.path().join("key"));
        config.keys.pepper_file = Some(folder.path().join("pepper"));
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("key", "a\n");
        write("pepper", "b");
        let before = StartSecrets::of(&config);
        write("pepper", "b\n");
        assert!(before.changed(&StartSecrets::of(&config)).is_empty());
        write("key", "c");
        assert_eq!(before.changed(&StartSecrets::of(&config)), ["admin.key_file"]);
    }
}
