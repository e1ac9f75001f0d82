//! What is counted of requests: of their ends, of waiting, and of what the scheduler decides?
use std::collections::BTreeSet;

use prometheus::{Error, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec};

use crate::metrics::declare::{DURATION_BUCKETS, Declare, end};

const FIRST_TOKEN_BUCKETS: [f64; 14] = [0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0];
const TOKEN_BUCKETS: [f64; 13] = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];
const OVERHEAD_BUCKETS: [f64; 10] = [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1];

/// Requests of clients.
#[derive(Debug)]
pub(in crate::metrics) struct RequestFamilies {
    pub(in crate::metrics) ended: IntCounterVec,
    pub(in crate::metrics) duration: HistogramVec,
    pub(in crate::metrics) first_token: HistogramVec,
    pub(in crate::metrics) per_token: HistogramVec,
    pub(in crate::metrics) overhead: HistogramVec,
    pub(in crate::metrics) in_flight: IntGaugeVec,
    pub(in crate::metrics) tokens: IntCounterVec,
    pub(in crate::metrics) rate_limited: IntCounterVec,
    pub(in crate::metrics) client_retries: IntCounter,
}

impl RequestFamilies {
    /// # Errors
    /// Two families have the same name.
    pub(in crate::metrics) fn declare(declare: &Declare<'_>) -> Result<Self, Error> {
        Ok(Self {
            ended: declare.counters(
                "requests_total",
                "Requests that ended, by outcome.",
                &["route", "model", "code", "outcome"],
            )?,
            duration: declare.histograms(
                "request_duration_seconds",
                "Time from a request's arrival to the end of its answer.",
                &["route", "model", "stream"],
                &DURATION_BUCKETS,
            )?,
            first_token: declare.histograms(
                "time_to_first_token_seconds",
                "Time from a request's arrival to the node's first byte, waiting included.",
                &["model"],
                &FIRST_TOKEN_BUCKETS,
            )?,
            per_token: declare.histograms(
                "time_per_output_token_seconds",
                "For complete streams, the time after the first token divided by the number of tokens after it.",
                &["model"],
                &TOKEN_BUCKETS,
            )?,
            overhead: declare.histograms(
                "overhead_seconds",
                "The gateway's own time for a request, by stage: checking the key (auth); reading the request, its \
                 model, limits and edits (route); reading and editing the whole answer (forward); holding the end back \
                 until the usage row is safe (record). No other waiting counts.",
                &["stage"],
                &OVERHEAD_BUCKETS,
            )?,
            in_flight: declare.int_gauges(
                "requests_in_flight",
                "Requests that were accepted and have not ended.",
                &["route"],
            )?,
            tokens: declare.counters(
                "tokens_total",
                "Tokens recorded in usage rows, by input and output.",
                &["model", "type"],
            )?,
            rate_limited: declare.counters(
                "rate_limited_total",
                "Requests that a limit of their user or key refused, by limit.",
                &["limit"],
            )?,
            client_retries: declare
                .counter("client_retries_total", "Requests that the client's SDK marked as a retry.")?,
        })
    }

    /// Ends every series of these models.
    pub(in crate::metrics) fn end_models(&self, models: &BTreeSet<String>) {
        for family in [&self.ended, &self.tokens] {
            end(family, ("model", models), |labels| drop(family.remove(labels)));
        }
        for family in [&self.duration, &self.first_token, &self.per_token] {
            end(family, ("model", models), |labels| drop(family.remove(labels)));
        }
    }
}

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
