//! What is exported of the way of usage rows to the database?
use prometheus::{Error, Gauge, IntGauge};

use crate::metrics::declare::Declare;

/// Usage rows on their way to the database.
#[derive(Debug)]
pub(in crate::metrics) struct StorageFamilies {
    pub(in crate::metrics) backlog: IntGauge,
    pub(in crate::metrics) ready: Gauge,
    pub(in crate::metrics) outbox_waiting: Gauge,
    pub(in crate::metrics) outbox_parked: Gauge,
    pub(in crate::metrics) database_up: Gauge,
    pub(in crate::metrics) rollup_mismatches: Gauge,
}

impl StorageFamilies {
    /// # Errors
    /// Two families have the same name.
    pub(in crate::metrics) fn declare(declare: &Declare<'_>) -> Result<Self, Error> {
        Ok(Self {
            backlog: declare.int_gauge(
                "usage_rows_waiting",
                "Usage rows in memory: those of running requests, and those not yet written.",
            )?,
            ready: declare.gauge("usage_storage_ready", "Whether usage can be written to the local file: 1 or 0.")?,
            outbox_waiting: declare
                .gauge("usage_outbox_rows", "Usage rows in the local file that Postgres does not have yet.")?,
            outbox_parked: declare.gauge(
                "usage_parked_rows",
                "Usage rows that Postgres refused; they stay in the local file until the operator deals with them.",
            )?,
            database_up: declare
                .gauge("database_up", "Whether Postgres answered last time: 1 or 0; 1 without Postgres.")?,
            rollup_mismatches: declare.gauge(
                "usage_rollup_mismatches",
                "Daily sums of usage that differed from the rows of today and yesterday when last compared.",
            )?,
        })
    }
}
