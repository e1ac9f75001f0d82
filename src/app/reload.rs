//! How is a changed configuration applied without a restart?
//!
//! First all of it is read and checked; if there is a mistake, nothing changes. Nodes, model names, the limits of new
//! users and the certificate change at once. Every other setting that differs is reported, and waits for a restart.
use std::sync::Arc;

use serde_json::Value;
use uuid::Uuid;

use crate::clock::Clock;
use crate::config::Config;
use crate::fleet::{ChangeLog, Roster};
use crate::http::{Live, ModelNames, ReloadReport};
use crate::metrics::Metrics;
use crate::store::{AuditEntry, Role, Store};
use crate::tls::{Certificate, ServedCertificate, TlsFlaw};

/// The one group of settings within a section.
const TLS: &str = "server.tls";
const CERTIFICATE: &str = "server.tls.cert_file";
const KEY: &str = "server.tls.key_file";

type Read = dyn Fn() -> Result<Config, String> + Send + Sync;

/// Applies the present configuration.
#[derive(Clone)]
pub struct Reloader(Arc<Inner>);

struct Inner {
    /// The configuration in force.
    current: tokio::sync::Mutex<Config>,
    read: Box<Read>,
    parts: Parts,
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
        Self(Arc::new(Inner { current: tokio::sync::Mutex::new(config.clone()), read: Box::new(read), parts }))
    }

    /// Reads the configuration again and applies what can be changed.
    ///
    /// # Errors
    /// Every mistake in it, in words without secrets; nothing has changed then.
    pub async fn reload(&self) -> Result<ReloadReport, String> {
        let Inner { current, parts, .. } = &*self.0;
        let mut current = current.lock().await;
        let inner = self.0.clone();
        let read = tokio::task::spawn_blocking(move || inner.read_all()).await;
        let now = parts.clock.now();
        let (new, certificate) =
            read.map_err(|error| error.to_string()).and_then(|read| read).inspect_err(|mistakes| {
                parts.metrics.config_loaded(false, now.unix_ms);
                parts.changes.tell_reload_failed(mistakes, now);
            })?;
        let is_secure = parts.certificate.is_some() && certificate.is_some();
        let (mut applied, needs_restart): (Vec<String>, Vec<String>) =
            differences(&current, &new).into_iter().partition(|path| is_live(path, is_secure));
        if let Some((served, certificate)) = parts.certificate.as_ref().zip(certificate) {
            if served.replace(&certificate) && !applied.iter().any(|path| path == CERTIFICATE) {
                applied.push(CERTIFICATE.to_owned());
            }
            parts.metrics.certificate_expires(certificate.expires());
            if let Some(warning) = certificate.warning(now.unix_ms / 1_000) {
                tracing::warn!("{warning}");
            }
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
    /// The configuration, and the certificate that it names.
    fn read_all(&self) -> Result<(Config, Option<Certificate>), String> {
        let config = (self.read)()?;
        let flawed = |flaw: TlsFlaw| format!("server.tls.{}: {}", flaw.key, flaw.message);
        let certificate = config.server.tls.certificate().map_err(flawed)?;
        Ok((config, certificate))
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
}
