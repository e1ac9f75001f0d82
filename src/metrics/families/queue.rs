//! What is counted of waiting, and of what the scheduler decides?
use std::collections::BTreeSet;

use prometheus::{Error, HistogramVec, IntCounterVec, IntGaugeVec};

use crate::metrics::declare::{Declare, end};

const QUEUE_BUCKETS: [f64; 12] = [0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 100.0, 300.0];
const LOCK_BUCKETS: [f64; 10] = [0.000005, 0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.05];

/// The queue, and the scheduler that empties it.
#[derive(Debug)]
pub(in crate::metrics) struct QueueFamilies {
    pub(in crate::metrics) depth: IntGaugeVec,
    pub(in crate::metrics) wait: HistogramVec,
    pub(in crate::metrics) rejected: IntCounterVec,
    pub(in crate::metrics) lock: HistogramVec,
}

impl QueueFamilies {
    /// # Errors
    /// Two families have the same name.
    pub(in crate::metrics) fn declare(declare: &Declare<'_>) -> Result<Self, Error> {
        Ok(Self {
            depth: declare.int_gauges("queue_depth", "Requests waiting for a slot.", &["model"])?,
            wait: declare.histograms(
                "queue_wait_seconds",
                "Time that requests waited for a slot.",
                &["model"],
                &QUEUE_BUCKETS,
            )?,
            rejected: declare.counters(
                "queue_rejected_total",
                "Requests that got no answer from any node, by reason.",
                &["reason"],
            )?,
            lock: declare.histograms(
                "scheduler_lock_seconds",
                "How long the lock of the scheduler was held at a time: to take in an event and decide (decide), or to \
                 read for a view (look).",
                &["use"],
                &LOCK_BUCKETS,
            )?,
        })
    }

    /// Ends every series of these models.
    pub(in crate::metrics) fn end_models(&self, models: &BTreeSet<String>) {
        end(&self.wait, ("model", models), |labels| drop(self.wait.remove(labels)));
        end(&self.depth, ("model", models), |labels| drop(self.depth.remove(labels)));
    }
}
