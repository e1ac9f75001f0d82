//! How is a changed configuration applied without a restart?
//!
//! First all of it is read and checked; if there is a mistake, nothing changes. Nodes, model names and the limits of
//! new users change at once. Every other setting that differs is reported, and waits for a restart.
use std::sync::Arc;

use serde_json::Value;
use uuid::Uuid;

use crate::clock::Clock;
use crate::config::Config;
use crate::fleet::{ChangeLog, Roster};
use crate::http::{Live, ModelNames, ReloadReport};
use crate::metrics::Metrics;
use crate::store::{AuditEntry, Role, Store};

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
        let read = tokio::task::spawn_blocking(move || (inner.read)()).await;
        let now = parts.clock.now();
        let new = read.map_err(|error| error.to_string()).and_then(|read| read).inspect_err(|mistakes| {
            parts.metrics.config_loaded(false, now.unix_ms);
            parts.changes.tell_reload_failed(mistakes, now);
        })?;
        let (applied, needs_restart): (Vec<String>, Vec<String>) =
            differences(&current, &new).into_iter().partition(|path| is_live(path));
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

fn is_live(path: &str) -> bool {
    ["nodes", "models", "limits"].contains(&path.split('.').next().unwrap_or(path))
}

/// The paths of settings that differ; never their values.
fn differences(old: &Config, new: &Config) -> Vec<String> {
    let tree = |config: &Config| serde_json::to_value(config).unwrap_or_default();
    let (Value::Object(old), Value::Object(new)) = (tree(old), tree(new)) else { return Vec::new() };
    let mut paths = Vec::new();
    for (section, new) in &new {
        match (old.get(section), new) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                let changed = new.iter().filter(|(key, value)| old.get(*key) != Some(value));
                paths.extend(changed.map(|(key, _)| format!("{section}.{key}")));
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
        assert!(is_live("nodes") && is_live("limits.requests_per_minute") && !is_live("database.url"));
    }
}
