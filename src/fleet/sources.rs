//! Which nodes follow from the file, the database and DNS?
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::endpoint::NodeEndpoint;
use super::settings::{Discover, NodeSettings};
use crate::store::{Maintenance, Store, StoreError};

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
    /// The name of its entry, which is its own unless it was discovered.
    pub(crate) entry: String,
    /// Its exact address, if it was discovered.
    pub(crate) address: Option<SocketAddr>,
    /// Set if it is drained.
    pub(crate) maintenance: Option<Maintenance>,
    /// Its endpoint must be rebuilt.
    pub(crate) is_stale: bool,
}

impl Desired {
    /// Whether both are the same machine, so that what is known of one applies to the other.
    pub(crate) fn is_same_machine(&self, other: &Self) -> bool {
        self.settings.url == other.settings.url && self.address == other.address
    }

    /// How it is reached; `None`, and a line in the log, if its settings cannot be used.
    pub(crate) fn endpoint(&self) -> Option<NodeEndpoint> {
        match NodeEndpoint::new(&self.settings) {
            Ok(endpoint) => Some(match self.address {
                Some(address) => endpoint.at(address),
                None => endpoint,
            }),
            Err(flaw) => {
                tracing::error!(node = self.settings.name, %flaw, "the node cannot be used");
                None
            }
        }
    }
}

/// Everything that decides which nodes should exist.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) file: Vec<NodeSettings>,
    pub(crate) added: BTreeMap<String, NodeSettings>,
    /// By names of nodes and of entries.
    pub(crate) drained: BTreeMap<String, Maintenance>,
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
        let (nodes, drained) = (store.nodes().await?, store.maintenances().await?);
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

    /// Every node that should exist now, each name once.
    pub(crate) fn desired(&mut self, now_ms: i64) -> Vec<Desired> {
        self.tell_of_shadowed();
        let mut names = BTreeSet::new();
        let mut desired = Vec::new();
        for (settings, source) in self.entries() {
            for node in self.nodes_of(settings, source, now_ms) {
                if names.insert(node.settings.name.clone()) {
                    desired.push(node);
                }
            }
        }
        desired
    }

    fn nodes_of(&self, settings: &NodeSettings, source: Source, now_ms: i64) -> Vec<Desired> {
        let drain = |name: &str| self.drained.get(name).filter(|maintenance| !maintenance.is_over(now_ms)).cloned();
        let entry = settings.name.clone();
        if settings.discover == Discover::Off {
            let (settings, maintenance) = (settings.clone(), drain(&settings.name));
            return vec![Desired { settings, source, entry, address: None, maintenance, is_stale: false }];
        }
        let found = self.found.get(&settings.name).into_iter().flatten();
        let instance = |address: &SocketAddr| {
            let name = instance_name(&settings.name, *address);
            // A drain of this one node counts before one of the whole entry.
            let maintenance = drain(&name).or_else(|| drain(&settings.name));
            let settings = NodeSettings { name, ..settings.clone() };
            let (entry, source, address) = (entry.clone(), Source::Discovered, Some(*address));
            Desired { settings, source, entry, address, maintenance, is_stale: false }
        };
        found.map(instance).collect()
    }

    /// When the next maintenance ends by itself, as Unix time in milliseconds.
    pub(crate) fn next_end_ms(&self) -> Option<i64> {
        self.drained.values().filter_map(|maintenance| maintenance.until_ms).min()
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
