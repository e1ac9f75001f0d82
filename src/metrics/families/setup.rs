//! What is exported of a gateway itself and its surroundings? Version, configuration and certificate, the way of usage rows
//! to the database, and the other gateways that use the same nodes.
use prometheus::{Error, Gauge, GaugeVec, IntGauge, IntGaugeVec};

use crate::metrics::declare::Declare;

/// What this gateway runs with.
#[derive(Debug)]
pub(in crate::metrics) struct SetupFamilies {
    pub(in crate::metrics) config_good: Gauge,
    pub(in crate::metrics) config_loaded_at: Gauge,
    pub(in crate::metrics) certificate_expiry: GaugeVec,
}

impl SetupFamilies {
    /// # Errors
    /// Two families have the same name.
    pub(in crate::metrics) fn declare(declare: &Declare<'_>) -> Result<Self, Error> {
        let build = declare.int_gauges("build_info", "The running version; always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            config_good: declare.gauge(
                "config_last_reload_successful",
                "Whether the configuration was valid when last read: 1 or 0.",
            )?,
            config_loaded_at: declare
                .gauge("config_last_reload_timestamp_seconds", "Unix time when a valid configuration was last read.")?,
            certificate_expiry: declare.gauges(
                "tls_certificate_expiry_seconds",
                "Unix time when the certificate that clients are served expires; absent without TLS.",
                &[],
            )?,
        })
    }
}

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

/// This gateway among those that use the same nodes.
#[derive(Debug)]
pub(in crate::metrics) struct ClusterFamilies {
    pub(in crate::metrics) gateways: IntGauge,
    pub(in crate::metrics) settled: IntGauge,
    pub(in crate::metrics) role: IntGaugeVec,
    pub(in crate::metrics) epoch: IntGauge,
    pub(in crate::metrics) handovers: IntGauge,
    pub(in crate::metrics) link_delay: Gauge,
}

impl ClusterFamilies {
    /// # Errors
    /// Two families have the same name.
    pub(in crate::metrics) fn declare(declare: &Declare<'_>) -> Result<Self, Error> {
        Ok(Self {
            gateways: declare.int_gauge(
                "sharing_gateways",
                "Gateways that use these nodes at the same time; 1 means that this one is alone.",
            )?,
            settled: declare.int_gauge(
                "sharing_settled",
                "Whether this gateway knows which slots it may use: 1 or 0. Until it does, it may use fewer slots than it could.",
            )?,
            role: declare.int_gauges(
                "scheduler_role",
                "This gateway's part in scheduling: 1 for its present role, `alone`, `sharing`, `seeking`, `leading` or \
                 `following`, else 0.",
                &["role"],
            )?,
            epoch: declare.int_gauge(
                "scheduler_epoch",
                "The epoch of the lease by which this gateway leads or follows; 0 without one. The same at all gateways.",
            )?,
            handovers: declare.int_gauge(
                "scheduler_handovers",
                "How often another gateway began to lead since this one started.",
            )?,
            link_delay: declare.gauge(
                "link_delay_seconds",
                "Round trip on the slowest link with another gateway, smoothed; 0 without a link. A request at a gateway that \
                 follows waits for one round trip before it gets a slot, and for one before its first byte.",
            )?,
        })
    }
}
