//! Which nodes should exist, and do they?
//!
//! Nodes come from `gateway.yaml` and from the database, to which they can be added while the gateway runs. If both
//! have a name, the file wins. An entry of either with `discover: dns` stands for as many nodes as its name has
//! addresses, each named after the entry and its address. Every change, whether an operator, another gateway or DNS
//! made it, takes the same path: the [`Sources`] are changed, and [`Roster::settle`] compares the nodes that should
//! exist with those that do. The differences join, leave or drain in the fleet, the scheduler, the metrics and the
//! probers together. Ids are never reused; a node that leaves finishes the requests it has.
//!
//! Changes are made one at a time. A name that cannot be resolved keeps its previous addresses: a DNS outage is no
//! reason to lose nodes, and probes show which of them are gone.
mod drains;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

pub use self::drains::DrainTerms;
use super::change::{ChangeKind, FleetChange};
use super::context::FleetContext;
use super::discovery::Resolver;
use super::endpoint::NodeEndpoint;
use super::roster_error::RosterError;
use super::settings::NodeSettings;
use super::sources::{Desired, Source, Sources};
use super::twins::SAME_ENGINE;
use super::watchers::Watch;
use crate::store::{Maintenance, Store, StoreError, StoredNode};
use scheduler::{Event, NodeId};

/// The most probers that wait to be started; the task that starts them never waits for anything else.
const WATCHES: usize = 64;

/// How soon, and how often at most, the files of a node that refuses its credentials are read again.
const DENIED_LOOK: Duration = Duration::from_secs(2);

/// What a change did to the nodes, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Nodes that are new.
    pub joined: Vec<String>,
    /// Nodes that are gone.
    pub left: Vec<String>,
    /// Nodes that stayed, with other settings.
    pub changed: Vec<String>,
}

/// A node as the roster knows it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The scheduler's id for it.
    pub id: NodeId,
    /// Where its entry comes from.
    pub source: Source,
    /// Its settings, credentials included.
    pub settings: NodeSettings,
    /// Set if it is drained.
    pub maintenance: Option<Maintenance>,
}

#[derive(Debug)]
struct Running {
    id: NodeId,
    desired: Desired,
    stop: CancellationToken,
}

/// Keeps the nodes as they should be.
#[derive(Debug)]
pub struct Roster {
    context: FleetContext,
    store: Store,
    resolver: Resolver,
    watches: mpsc::Sender<Watch>,
    tasks: CancellationToken,
    /// Locked for the whole of a change.
    sources: tokio::sync::Mutex<Sources>,
    /// Wakes the task that ends drains: another one may end first now.
    settled: Notify,
    running: Mutex<BTreeMap<String, Running>>,
}

impl Roster {
    /// Reads the nodes of the file and of the database; the probers to start go to [`super::Watchers`]. Resolves no
    /// names yet. While the database is away, only the nodes of the file are used. `tasks` ends every prober.
    pub async fn open(
        file: Vec<NodeSettings>,
        context: FleetContext,
        store: Store,
        resolver: Resolver,
        tasks: CancellationToken,
    ) -> (Arc<Self>, mpsc::Receiver<Watch>) {
        let mut sources = Sources::new(file);
        if let Err(error) = sources.read(&store).await {
            tracing::warn!(%error, "the database's nodes could not be read: only those of gateway.yaml are used");
        }
        // Nothing receives watches yet, so the channel must have room for all of them.
        let (watches, wanted) = mpsc::channel(WATCHES + sources.desired(context.clock.now().unix_ms).len());
        let (running, sources) = (Mutex::default(), tokio::sync::Mutex::new(sources));
        let roster = Self { context, store, resolver, watches, tasks, sources, settled: Notify::new(), running };
        roster.settle(&mut *roster.sources.lock().await).await;
        (Arc::new(roster), wanted)
    }

    /// Keeps the nodes as they should be, until the tasks end.
    pub async fn run(self: Arc<Self>, interval: Duration) {
        let keeping = async {
            loop {
                if let Err(error) = self.refresh().await {
                    tracing::warn!(%error, "the nodes could not be read again; the known ones stay");
                }
                tokio::time::sleep(interval).await;
            }
        };
        tokio::select! {
            () = self.tasks.cancelled() => {}
            () = keeping => {}
            () = self.follow_credentials() => {}
            () = self.end_drains() => {}
        }
    }

    /// Applies what other gateways have changed, and the current DNS answers.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn refresh(&self) -> Result<Changes, StoreError> {
        // The lock is released while names are resolved: DNS may take seconds, and operators' changes should not wait
        // for it.
        let names = self.sources.lock().await.to_resolve();
        let found = self.resolver.resolve_all(names).await;
        let mut sources = self.sources.lock().await;
        sources.found.extend(found);
        let read = sources.read(&self.store).await;
        let changes = self.settle(&mut sources).await;
        read.map(|()| changes)
    }

    /// Reads the files of a node again that has refused its credentials, because they may have been rotated.
    async fn follow_credentials(&self) {
        loop {
            tokio::time::sleep(DENIED_LOOK).await;
            if self.renew_denied() {
                self.settle(&mut *self.sources.lock().await).await;
            }
        }
    }

    /// Returns whether a file holds something else now.
    fn renew_denied(&self) -> bool {
        let mut is_any = false;
        for (name, running) in self.lock_running().iter_mut() {
            let Some(known) = self.context.nodes.get(running.id).filter(|known| known.take_denied()) else { continue };
            if !running.desired.settings.has_secret_files() {
                continue;
            }
            match NodeEndpoint::new(&running.desired.settings) {
                Ok(new) if !new.has_headers_of(&known) => {
                    tracing::info!(node = name, "the files with the credentials of a node have changed");
                    running.desired.is_stale = true;
                    is_any = true;
                }
                Ok(_) => {}
                Err(flaw) => {
                    let (error, now) = (flaw.to_string(), self.context.clock.uptime());
                    self.context.changes.warn(name, "the credentials of a node could not be read again", error, now);
                }
            }
        }
        is_any
    }

    fn lock_running(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every node, by name.
    pub fn list(&self) -> BTreeMap<String, Listed> {
        let running = self.lock_running();
        let listed = |running: &Running| {
            let Desired { settings, source, maintenance, .. } = running.desired.clone();
            Listed { id: running.id, source, settings, maintenance }
        };
        running.iter().map(|(name, running)| (name.clone(), listed(running))).collect()
    }

    /// Adds a node.
    ///
    /// # Errors
    /// [`RosterError`]
    pub async fn add(&self, settings: NodeSettings) -> Result<(), RosterError> {
        check(&settings)?;
        let mut sources = self.sources.lock().await;
        if sources.knows(&settings.name) || self.list().contains_key(&settings.name) {
            return Err(RosterError::Exists(settings.name));
        }
        // The database first: if it fails, memory is as it was, and the caller is told.
        self.store.add_node(stored(&settings), self.context.clock.now().unix_ms).await?;
        sources.added.insert(settings.name.clone(), settings);
        self.find(&mut sources).await;
        self.settle(&mut sources).await;
        Ok(())
    }

    /// Changes a node that was added while the gateway ran.
    ///
    /// # Errors
    /// [`RosterError`]
    pub async fn change(&self, name: &str, change: impl FnOnce(&mut NodeSettings)) -> Result<(), RosterError> {
        let mut sources = self.sources.lock().await;
        let mut settings = self.added(&sources, name)?.clone();
        change(&mut settings);
        check(&settings)?;
        self.store.change_node(stored(&settings), self.context.clock.now().unix_ms).await?;
        sources.added.insert(name.to_owned(), settings);
        self.find(&mut sources).await;
        self.settle(&mut sources).await;
        Ok(())
    }

    /// Removes a node that was added while the gateway ran; its running requests may finish.
    ///
    /// # Errors
    /// [`RosterError`]
    pub async fn remove(&self, name: &str) -> Result<(), RosterError> {
        let mut sources = self.sources.lock().await;
        self.added(&sources, name)?;
        self.store.remove_node(name).await?;
        sources.added.remove(name);
        sources.drained.remove(name);
        self.settle(&mut sources).await;
        Ok(())
    }

    /// Takes over the file's present entries, and reads the files named by any node again.
    pub async fn replace_file(&self, file: Vec<NodeSettings>) -> Changes {
        let mut sources = self.sources.lock().await;
        sources.file = file;
        self.renew();
        self.find(&mut sources).await;
        self.settle(&mut sources).await
    }

    fn added<'a>(&self, sources: &'a Sources, name: &str) -> Result<&'a NodeSettings, RosterError> {
        if sources.is_in_file(name) {
            return Err(RosterError::InFile(name.to_owned()));
        }
        sources.added.get(name).ok_or_else(|| match self.list().get(name) {
            Some(_) => RosterError::Discovered(name.to_owned()),
            None => RosterError::Unknown(name.to_owned()),
        })
    }

    async fn find(&self, sources: &mut Sources) {
        let names = sources.to_resolve();
        sources.found.extend(self.resolver.resolve_all(names).await);
    }

    /// Makes the nodes what they should be.
    async fn settle(&self, sources: &mut Sources) -> Changes {
        let desired = sources.desired(self.context.clock.now().unix_ms);
        self.settled.notify_one();
        let mut changes = Changes::default();
        // The std lock ends with this block: nothing may be awaited under it.
        let watches = {
            let mut running = self.lock_running();
            let names: BTreeSet<&str> = desired.iter().map(|desired| desired.settings.name.as_str()).collect();
            let gone: Vec<String> = running.keys().filter(|name| !names.contains(name.as_str())).cloned().collect();
            for name in gone {
                self.leave(&mut running, &name);
                changes.left.push(name);
            }
            let settled =
                desired.into_iter().filter_map(|desired| self.place(&mut running, desired, sources, &mut changes));
            settled.collect::<Vec<Watch>>()
        };
        for watch in watches {
            // This fails only once the tasks have ended.
            let _ = self.watches.send(watch).await;
        }
        changes
    }

    /// Puts one node in its place; returns the prober to start if the node is new.
    fn place(
        &self,
        running: &mut BTreeMap<String, Running>,
        desired: Desired,
        sources: &mut Sources,
        changes: &mut Changes,
    ) -> Option<Watch> {
        let name = desired.settings.name.clone();
        match running.get_mut(&name) {
            // What was learned of a machine stays with its id. Another machine of the name gets a new one, further
            // down.
            Some(known) if known.desired.is_same_machine(&desired) => {
                if known.desired != desired && self.update(known, desired) {
                    changes.changed.push(name);
                }
                return None;
            }
            _ => {}
        }
        // Before anything is taken away: a node whose new settings cannot be used stays as it was.
        let endpoint = desired.endpoint()?;
        if running.contains_key(&name) {
            self.leave(running, &name);
            changes.changed.push(name.clone());
        } else {
            changes.joined.push(name.clone());
        }
        let id = NodeId(sources.next_id);
        sources.next_id += 1;
        let stop = self.tasks.child_token();
        self.context.metrics.node_joined(&name);
        self.context.nodes.put(id, endpoint);
        self.look_for_twins(id, &name);
        self.context.dispatcher.report(Event::NodeJoined { node: id, spec: desired.settings.spec() });
        if desired.maintenance.is_some() {
            self.drained(id, &desired);
        }
        self.tell(FleetChange {
            why: Some(format!("{} ({})", desired.settings.url, desired.source.as_str())),
            ..FleetChange::new(ChangeKind::NodeJoined, Some(&name), self.context.clock.now().unix_ms)
        });
        running.insert(name, Running { id, desired, stop: stop.clone() });
        Some(Watch { node: id, stop })
    }

    fn look_for_twins(&self, id: NodeId, name: &str) {
        for (twin, endpoint) in self.context.nodes.at_the_place_of(id) {
            self.context.catalog.share_address(id, twin);
            let error = format!("`{}` has the same address", endpoint.name);
            self.context.changes.warn(name, SAME_ENGINE, error, self.context.clock.uptime());
        }
    }

    /// Updates the settings of the same machine; false if only its draining changed.
    fn update(&self, known: &mut Running, desired: Desired) -> bool {
        let (id, dispatcher) = (known.id, &self.context.dispatcher);
        if known.desired.maintenance != desired.maintenance {
            self.drained(id, &desired);
        }
        let is_other = known.desired.settings != desired.settings;
        if is_other || known.desired.is_stale {
            let Some(endpoint) = desired.endpoint() else { return false };
            if let Some(before) = self.context.nodes.get(id) {
                // Otherwise the node would count as an unknown kind until its next probe.
                endpoint.remember(&before);
            }
            self.context.nodes.put(id, endpoint);
        }
        if known.desired.settings.spec() != desired.settings.spec() {
            dispatcher.report(Event::NodeChanged { node: id, spec: desired.settings.spec() });
        }
        known.desired = desired;
        is_other
    }

    fn leave(&self, running: &mut BTreeMap<String, Running>, name: &str) {
        let Some(Running { id, stop, .. }) = running.remove(name) else { return };
        stop.cancel();
        self.context.dispatcher.report(Event::NodeLeft { node: id });
        self.context.nodes.remove(id);
        self.context.catalog.forget(id);
        self.context.maintenances.forget(id);
        self.context.metrics.node_left(name);
        self.tell(FleetChange::new(ChangeKind::NodeLeft, Some(name), self.context.clock.now().unix_ms));
    }

    pub(super) fn tell(&self, change: FleetChange) {
        self.context.changes.tell(change, self.context.clock.now());
    }

    /// Rebuilds every endpoint at the next change, because the files it names may have changed.
    fn renew(&self) {
        let mut running = self.lock_running();
        running.values_mut().for_each(|running| running.desired.is_stale = true);
    }
}

fn check(settings: &NodeSettings) -> Result<(), RosterError> {
    settings.flaws().into_iter().next().map_or(Ok(()), |flaw| Err(RosterError::Flawed(flaw)))
}

fn stored(settings: &NodeSettings) -> StoredNode {
    // The keys of a settings map are text and its numbers finite, so writing it cannot fail.
    StoredNode { name: settings.name.clone(), settings: serde_json::to_string(settings).unwrap_or_default() }
}
