//! What is shared by everything that works on the nodes?
use std::sync::Arc;

use super::catalog::Catalog;
use super::change_log::ChangeLog;
use super::maintenances::Maintenances;
use super::nodes::Fleet;
use super::plots::Plots;
use crate::clock::Clock;
use crate::dispatch::Dispatcher;
use crate::metrics::Metrics;

/// The nodes, and everything that is told about them. All copies share the same state.
#[derive(Clone, Debug)]
pub struct FleetContext {
    /// The nodes' endpoints.
    pub nodes: Fleet,
    /// What the nodes say about their models.
    pub catalog: Arc<Catalog>,
    /// Which of them are under maintenance.
    pub maintenances: Maintenances,
    /// What has changed lately.
    pub changes: Arc<ChangeLog>,
    /// What went on in the last hour.
    pub plots: Plots,
    /// The queue and its scheduler.
    pub dispatcher: Arc<Dispatcher>,
    /// The clock.
    pub clock: Clock,
    /// Where observations are counted.
    pub metrics: Arc<Metrics>,
}
