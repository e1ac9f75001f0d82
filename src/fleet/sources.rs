//! Which nodes follow from the file, the database and DNS?
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::settings::{Discover, NodeSettings};
use crate::store::{Store, StoreError};

/// Where a node's entry comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `gateway.yaml`.
    File,
    /// `POST /admin/nodes`.
    Added,
    /// An entry of either that is discovered through DNS.
    Discovered,
}

impl Source {
    /// One word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Added => "added",
            Self::Discovered => "dns",
        }
    }
}

/// A node that should exist.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Desired {
    /// With its own name.
    pub(crate) settings: NodeSettings,
    pub(crate) source: Source,
    /// Its exact address, if it was discovered.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) is_draining: bool,
    /// Its endpoint must be rebuilt.
    pub(crate) is_stale: bool,
}

impl Desired {
    /// Whether both are the same machine, so that what is known of one applies to the other.
    pub(crate) fn is_same_machine(&self, other: &Self) -> bool {
        self.settings.url == other.settings.url && self.address == other.address
    }
}

/// Everything that decides which nodes should exist.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) file: Vec<NodeSettings>,
    pub(crate) added: BTreeMap<String, NodeSettings>,
    /// Names of nodes and of entries.
    pub(crate) drained: BTreeSet<String>,
    /// The latest DNS answers, by entry.
    pub(crate) found: BTreeMap<String, Vec<SocketAddr>>,
    pub(crate) next_id: usize,
    /// Names in the database that the file has as well, and that a warning was logged for.
    shadowed: BTreeSet<String>,
}

impl Sources {
    pub(crate) fn new(file: Vec<NodeSettings>) -> Self {
        Self { file, ..Self::default() }
    }

    pub(crate) fn is_in_file(&self, name: &str) -> bool {
        self.file.iter().any(|settings| settings.name == name)
    }

    /// Whether an entry has this name.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.is_in_file(name) || self.added.contains_key(name)
    }

    /// Takes over the database's nodes.
    pub(crate) async fn read(&mut self, store: &Store) -> Result<(), StoreError> {
        let (nodes, drained) = (store.nodes().await?, store.drained_nodes().await?);
        let understood = nodes.into_iter().filter_map(|node| match serde_json::from_str(&node.settings) {
            Ok(settings) => Some((node.name, settings)),
            Err(error) => {
                // Left unchanged, as a newer version may have written it.
                tracing::error!(node = node.name, %error, "a node of the database cannot be understood");
                None
            }
        });
        (self.added, self.drained) = (understood.collect(), drained);
        Ok(())
    }

    /// The entries to resolve: entry, host, port.
    pub(crate) fn to_resolve(&self) -> Vec<(String, String, u16)> {
        let discovering = |settings: &&NodeSettings| settings.discover == Discover::Dns;
        let place = |settings: &NodeSettings| {
            let (host, port) = settings.host_and_port()?;
            Some((settings.name.clone(), host, port))
        };
        self.entries().map(|(settings, _)| settings).filter(discovering).filter_map(place).collect()
    }

    /// Every node that should exist, each name once.
    pub(crate) fn desired(&mut self) -> Vec<Desired> {
        self.tell_of_shadowed();
        let mut names = BTreeSet::new();
        let mut desired = Vec::new();
        for (settings, source) in self.entries() {
            for node in self.nodes_of(settings, source) {
                if names.insert(node.settings.name.clone()) {
                    desired.push(node);
                }
            }
        }
        desired
    }

    fn nodes_of(&self, settings: &NodeSettings, source: Source) -> Vec<Desired> {
        let is_drained = |name: &str| self.drained.contains(name) || self.drained.contains(&settings.name);
        if settings.discover == Discover::Off {
            let (settings, is_draining) = (settings.clone(), is_drained(&settings.name));
            return vec![Desired { settings, source, address: None, is_draining, is_stale: false }];
        }
        let found = self.found.get(&settings.name).into_iter().flatten();
        let instance = |address: &SocketAddr| {
            let name = instance_name(&settings.name, *address);
            let is_draining = is_drained(&name);
            let settings = NodeSettings { name, ..settings.clone() };
            Desired { settings, source: Source::Discovered, address: Some(*address), is_draining, is_stale: false }
        };
        found.map(instance).collect()
    }

    fn entries(&self) -> impl Iterator<Item = (&NodeSettings, Source)> {
        let added = self.added.values().filter(|settings| !self.is_in_file(&settings.name));
        let file = self.file.iter().map(|settings| (settings, Source::File));
        file.chain(added.map(|settings| (settings, Source::Added)))
    }

    fn tell_of_shadowed(&mut self) {
        let shadowed: BTreeSet<String> = self.added.keys().filter(|name| self.is_in_file(name)).cloned().collect();
        for name in shadowed.difference(&self.shadowed) {
            tracing::warn!(node = name, "gateway.yaml and the database both have this node: gateway.yaml wins");
        }
        self.shadowed = shadowed;
    }
}

/// The name of a discovered node: its entry's name and its address.
fn instance_name(entry: &str, address: SocketAddr) -> String {
    format!("{entry}-{}", address.ip().to_string().replace(':', "-"))
}
