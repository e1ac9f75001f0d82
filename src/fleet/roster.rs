//! Which nodes should there be, and are they?
//!
//! Nodes come from `gateway.yaml` and, added while the gateway runs, from the database; where both have a name, the file
//! wins. An entry of either with `discover: dns` stands for as many nodes as its name has addresses, each called after
//! the entry and its address. Every change, be it an operator's, another gateway's or the DNS', goes the same way: the
//! [`Sources`] are changed, and [`Roster::settle`] compares what should be with what is. What differs joins, leaves or
//! drains: fleet, scheduler, metrics and prober in one go. Ids are never used again; a node that leaves finishes what it
//! was given.
//!
//! One change at a time. A name that cannot be resolved keeps the addresses that it had: a DNS that is away is no reason
//! to lose nodes, and probes tell which of them are gone.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::change::{ChangeKind, FleetChange};
use super::context::FleetContext;
use super::discovery::Resolver;
use super::endpoint::NodeEndpoint;
use super::flaw::Flaw;
use super::settings::NodeSettings;
use super::sources::{Desired, Source, Sources};
use super::watchers::Watch;
use crate::store::{Store, StoreError, StoredNode};
use scheduler::{Event, NodeId};

/// Probers that wait to be started; the task that starts them waits for nothing else.
const WATCHES: usize = 64;

/// Why the nodes are not changed.
#[derive(Debug, thiserror::Error)]
pub enum RosterError {
    /// There is no such node.
    #[error("there is no node `{0}`")]
    Unknown(String),
    /// The name is taken.
    #[error("there is a node `{0}` already")]
    Exists(String),
    /// The file has the last word on it.
    #[error("node `{0}` is one of gateway.yaml: change it there, then POST /admin/reload")]
    InFile(String),
    /// It is what DNS says.
    #[error("node `{0}` was discovered: change or remove the entry that discovers it")]
    Discovered(String),
    /// What it would be cannot be used.
    #[error("{0}")]
    Flawed(Flaw),
    /// The database.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for RosterError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NodeExists(name) => Self::Exists(name),
            StoreError::NoNode(name) => Self::Unknown(name),
            other => Self::Store(other),
        }
    }
}

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
    /// The scheduler's name for it.
    pub id: NodeId,
    /// Where it comes from.
    pub source: Source,
    /// Where it is.
    pub url: String,
    /// Whether it takes no new requests.
    pub is_draining: bool,
}

#[derive(Debug)]
struct Running {
    id: NodeId,
    desired: Desired,
    stop: CancellationToken,
}

/// The keeper of the nodes.
#[derive(Debug)]
pub struct Roster {
    context: FleetContext,
    store: Store,
    resolver: Resolver,
    watches: mpsc::Sender<Watch>,
    tasks: CancellationToken,
    /// Held through a whole change.
    sources: tokio::sync::Mutex<Sources>,
    running: Mutex<BTreeMap<String, Running>>,
}

impl Roster {
    /// The nodes of the file and of the database; what starts their probers goes to [`super::Watchers`]. Nothing is resolved
    /// yet. While the database is away the nodes of the file have to do. `tasks` ends every prober.
    pub async fn open(
        file: Vec<NodeSettings>,
        context: FleetContext,
        store: Store,
        resolver: Resolver,
        tasks: CancellationToken,
    ) -> (Arc<Self>, mpsc::Receiver<Watch>) {
        let mut sources = Sources::new(file);
        if let Err(error) = sources.read(&store).await {
            tracing::warn!(%error, "nodes that were added could not be read: those of gateway.yaml have to do for now");
        }
        // Nobody takes watches yet.
        let (watches, wanted) = mpsc::channel(WATCHES + sources.desired().len());
        let (running, sources) = (Mutex::default(), tokio::sync::Mutex::new(sources));
        let roster = Self { context, store, resolver, watches, tasks, sources, running };
        roster.settle(&mut *roster.sources.lock().await).await;
        (Arc::new(roster), wanted)
    }

    /// Keeps the nodes as they should be, until the tasks end.
    pub async fn run(self: Arc<Self>, interval: Duration) {
        let keeping = async {
            loop {
                if let Err(error) = self.refresh().await {
                    tracing::warn!(%error, "nodes could not be read; the last ones known stay");
                }
                tokio::time::sleep(interval).await;
            }
        };
        tokio::select! {
            () = self.tasks.cancelled() => {}
            () = keeping => {}
        }
    }

    /// Takes up what other gateways changed, and what the DNS says now.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn refresh(&self) -> Result<Changes, StoreError> {
        let names = self.sources.lock().await.to_resolve();
        let found = self.resolver.resolve_all(names).await;
        let mut sources = self.sources.lock().await;
        sources.found.extend(found);
        let read = sources.read(&self.store).await;
        let changes = self.settle(&mut sources).await;
        read.map(|()| changes)
    }

    /// Every node by name.
    pub fn list(&self) -> BTreeMap<String, Listed> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let listed = |running: &Running| {
            let Desired { settings, source, is_draining, .. } = &running.desired;
            Listed { id: running.id, source: *source, url: settings.url.clone(), is_draining: *is_draining }
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
        self.store.add_node(stored(&settings), self.context.clock.now().unix_ms).await?;
        sources.added.insert(settings.name.clone(), settings);
        self.find(&mut sources).await;
        self.settle(&mut sources).await;
        Ok(())
    }

    /// Changes a node that was added.
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

    /// Takes a node out that was added; what runs there may end.
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

    /// Lets a node, or all that an entry discovers, finish what runs there and take nothing new; or take requests again.
    ///
    /// # Errors
    /// [`RosterError`]
    pub async fn drain(&self, name: &str, on: bool) -> Result<(), RosterError> {
        let mut sources = self.sources.lock().await;
        if !sources.knows(name) && !self.list().contains_key(name) {
            return Err(RosterError::Unknown(name.to_owned()));
        }
        self.store.set_drained(name, on.then(|| self.context.clock.now().unix_ms)).await?;
        if on {
            sources.drained.insert(name.to_owned())
        } else {
            sources.drained.remove(name)
        };
        self.settle(&mut sources).await;
        Ok(())
    }

    /// Takes over what the file says now, and reads the files that nodes name once more.
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

    /// Makes what is what should be.
    async fn settle(&self, sources: &mut Sources) -> Changes {
        let desired = sources.desired();
        let mut changes = Changes::default();
        let watches = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
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
            // Only once the tasks have ended does nobody take it.
            let _ = self.watches.send(watch).await;
        }
        changes
    }

    /// Puts one node in its place; the prober to start, if it is a new one.
    fn place(
        &self,
        running: &mut BTreeMap<String, Running>,
        desired: Desired,
        sources: &mut Sources,
        changes: &mut Changes,
    ) -> Option<Watch> {
        let name = desired.settings.name.clone();
        match running.get_mut(&name) {
            Some(known) if known.desired.is_same_machine(&desired) => {
                if known.desired != desired && self.update(known, desired) {
                    changes.changed.push(name);
                }
                return None;
            }
            _ => {}
        }
        let endpoint = endpoint(&desired)?;
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
        self.context.dispatcher.report(Event::NodeJoined { node: id, spec: desired.settings.spec() });
        if desired.is_draining {
            self.context.dispatcher.report(Event::Drain { node: id, on: true });
        }
        self.tell(FleetChange {
            why: Some(format!("{} ({})", desired.settings.url, desired.source.as_str())),
            ..FleetChange::new(ChangeKind::NodeJoined, Some(&name), self.context.clock.now().unix_ms)
        });
        running.insert(name, Running { id, desired, stop: stop.clone() });
        Some(Watch { node: id, stop })
    }

    /// The same machine with other settings; false where only its draining changed.
    fn update(&self, known: &mut Running, desired: Desired) -> bool {
        let (id, dispatcher) = (known.id, &self.context.dispatcher);
        if known.desired.is_draining != desired.is_draining {
            dispatcher.report(Event::Drain { node: id, on: desired.is_draining });
        }
        let is_other = known.desired.settings != desired.settings;
        if is_other || known.desired.is_stale {
            let Some(endpoint) = endpoint(&desired) else { return false };
            if let Some(before) = self.context.nodes.get(id) {
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
        self.context.metrics.node_left(name);
        self.tell(FleetChange::new(ChangeKind::NodeLeft, Some(name), self.context.clock.now().unix_ms));
    }

    fn tell(&self, change: FleetChange) {
        self.context.changes.tell(change, self.context.clock.now());
    }

    /// Has every endpoint made anew at the next change: the files it names may hold something else now.
    fn renew(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.values_mut().for_each(|running| running.desired.is_stale = true);
    }
}

fn check(settings: &NodeSettings) -> Result<(), RosterError> {
    settings.flaws().into_iter().next().map_or(Ok(()), |flaw| Err(RosterError::Flawed(flaw)))
}

fn stored(settings: &NodeSettings) -> StoredNode {
    // A settings' map has text for keys and finite numbers, so there is nothing that could not be written.
    StoredNode { name: settings.name.clone(), settings: serde_json::to_string(settings).unwrap_or_default() }
}

fn endpoint(desired: &Desired) -> Option<NodeEndpoint> {
    match NodeEndpoint::new(&desired.settings) {
        Ok(endpoint) => Some(match desired.address {
            Some(address) => endpoint.at(address),
            None => endpoint,
        }),
        Err(flaw) => {
            tracing::error!(node = desired.settings.name, %flaw, "the node cannot be used");
            None
        }
    }
}
