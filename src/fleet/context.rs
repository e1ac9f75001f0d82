//! What do all that work on the nodes share?
use std::sync::Arc;

use super::catalog::Catalog;
use super::change_log::ChangeLog;
use super::nodes::Fleet;
use crate::clock::Clock;
use crate::dispatch::Dispatcher;
use crate::metrics::Metrics;

/// The nodes, and who is told about them. Copies share everything.
#[derive(Clone, Debug)]
pub struct FleetContext {
    /// Where the nodes are.
    pub nodes: Fleet,
    /// What they say about their models.
    pub catalog: Arc<Catalog>,
    /// What has changed lately.
    pub changes: Arc<ChangeLog>,
    /// The queue and its scheduler.
    pub dispatcher: Arc<Dispatcher>,
    /// The clock.
    pub clock: Clock,
    /// Where what is seen of them is counted.
    pub metrics: Arc<Metrics>,
}
