//! What is counted of the work that nodes are given?
use std::collections::BTreeSet;

use prometheus::{Error, HistogramVec, IntCounterVec};

use crate::metrics::declare::{DURATION_BUCKETS, Declare, end};

const LOAD_BUCKETS: [f64; 11] = [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// Attempts on nodes, loads included.
#[derive(Debug)]
pub(in crate::metrics) struct AttemptFamilies {
    pub(in crate::metrics) routing: IntCounterVec,
    pub(in crate::metrics) ended: IntCounterVec,
    pub(in crate::metrics) retries: IntCounterVec,
    pub(in crate::metrics) duration: HistogramVec,
    pub(in crate::metrics) prompt_tokens: IntCounterVec,
    pub(in crate::metrics) claims_corrected: IntCounterVec,
    pub(in crate::metrics) model_load: HistogramVec,
}

impl AttemptFamilies {
    /// # Errors
    /// Two families have the same name.
    pub(in crate::metrics) fn declare(declare: &Declare<'_>) -> Result<Self, Error> {
        Ok(Self {
            routing: declare.counters(
                "routing_decisions_total",
                "Requests sent to the node, by reason: the model was in memory or being loaded (warm), it was not \
                 (cold), or another attempt had failed (fallback).",
                &["node", "reason"],
            )?,
            ended: declare.counters(
                "node_requests_total",
                "Attempts on the node that ended, by outcome.",
                &["node", "outcome"],
            )?,
            retries: declare.counters(
                "retries_total",
                "Further attempts after one that failed before its first byte, by how it failed.",
                &["reason"],
            )?,
            duration: declare.histograms(
                "node_request_duration_seconds",
                "Time of attempts, from taking the slot to the end of the node's answer.",
                &["node"],
                &DURATION_BUCKETS,
            )?,
            prompt_tokens: declare.counters(
                "node_prompt_tokens_total",
                "Prompt tokens that the node was sent, by model: all of them (sent); those expected to be in its prompt \
                 cache (expected_cached); those of prompts that were timed (timed), and how many of these must have \
                 been in the cache, as they were read so fast (measured_cached).",
                &["node", "model", "part"],
            )?,
            claims_corrected: declare.counters(
                "usage_claims_corrected_total",
                "Answers whose node reported more or fewer tokens than are possible.",
                &["node"],
            )?,
            model_load: declare.histograms(
                "model_load_seconds",
                "Time to load a model into the node's memory, for loads that the gateway ordered.",
                &["node"],
                &LOAD_BUCKETS,
            )?,
        })
    }

    /// Ends every series of these models.
    pub(in crate::metrics) fn end_models(&self, models: &BTreeSet<String>) {
        end(&self.prompt_tokens, ("model", models), |labels| drop(self.prompt_tokens.remove(labels)));
    }

    /// Ends every series of these nodes.
    pub(in crate::metrics) fn end_nodes(&self, nodes: &BTreeSet<String>) {
        for family in [&self.ended, &self.routing, &self.claims_corrected, &self.prompt_tokens] {
            end(family, ("node", nodes), |labels| drop(family.remove(labels)));
        }
        for family in [&self.duration, &self.model_load] {
            end(family, ("node", nodes), |labels| drop(family.remove(labels)));
        }
    }
}
