//! What is exported of the other gateways that use the same nodes?
use prometheus::{Error, Gauge, IntGauge, IntGaugeVec};

use crate::metrics::declare::Declare;

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
