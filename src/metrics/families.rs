//! Which families are exported? Each one once, with its name, help, labels and buckets; a file for each subject.
mod nodes;
mod requests;
mod setup;

use std::collections::BTreeSet;

use prometheus::{Error, Registry};

use self::nodes::AttemptFamilies;
use self::requests::QueueFamilies;
use self::setup::{ClusterFamilies, StorageFamilies};
use super::declare::Declare;
use nodes::NodeFamilies;
use requests::RequestFamilies;
use setup::SetupFamilies;

/// Handles on all families.
#[derive(Debug)]
pub(super) struct Families {
    pub(super) requests: RequestFamilies,
    pub(super) queue: QueueFamilies,
    pub(super) attempts: AttemptFamilies,
    pub(super) nodes: NodeFamilies,
    pub(super) storage: StorageFamilies,
    pub(super) cluster: ClusterFamilies,
    pub(super) setup: SetupFamilies,
}

impl Families {
    /// # Errors
    /// Two families have the same name.
    pub(super) fn declare(registry: &Registry) -> Result<Self, Error> {
        let declare = &Declare(registry);
        Ok(Self {
            requests: RequestFamilies::declare(declare)?,
            queue: QueueFamilies::declare(declare)?,
            attempts: AttemptFamilies::declare(declare)?,
            nodes: NodeFamilies::declare(declare)?,
            storage: StorageFamilies::declare(declare)?,
            cluster: ClusterFamilies::declare(declare)?,
            setup: SetupFamilies::declare(declare)?,
        })
    }

    /// Ends every series of these models.
    pub(super) fn end_models(&self, models: &BTreeSet<String>) {
        self.requests.end_models(models);
        self.queue.end_models(models);
        self.attempts.end_models(models);
    }

    /// Ends every series of these nodes.
    pub(super) fn end_nodes(&self, nodes: &BTreeSet<String>) {
        self.attempts.end_nodes(nodes);
        self.nodes.end_nodes(nodes);
    }
}
