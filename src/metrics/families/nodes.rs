//! What is exported of the state of nodes, and what is counted of the work that they are given?
use std::collections::BTreeSet;

use prometheus::{Error, GaugeVec, HistogramVec, IntCounterVec, IntGaugeVec};

use crate::metrics::declare::{DURATION_BUCKETS, Declare, end};

const PROBE_BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

/// The state of nodes, and how it was found out.
#[derive(Debug)]
pub(in crate::metrics) struct NodeFamilies {
    pub(in crate::metrics) up: IntGaugeVec,
    pub(in crate::metrics) state: IntGaugeVec,
    pub(in crate::metrics) slots: IntGaugeVec,
    pub(in crate::metrics) in_use: IntGaugeVec,
    pub(in crate::metrics) loaded: IntGaugeVec,
    pub(in crate::metrics) vram: GaugeVec,
    pub(in crate::metrics) probe_duration: HistogramVec,
    pub(in crate::metrics) probed_at: GaugeVec,
    pub(in crate::metrics) transitions: IntCounterVec,
    pub(in crate::metrics) listing_skipped: IntCounterVec,
    pub(in crate::metrics) canaries: IntCounterVec,
}

impl NodeFamilies {
    /// # Errors
    /// Two families have the same name.
    pub(in crate::metrics) fn declare(declare: &Declare<'_>) -> Result<Self, Error> {
        Ok(Self {
            up: declare.int_gauges("node_up", "Whether the node can be given requests: 1 or 0.", &["node"])?,
            state: declare.int_gauges(
                "node_state",
                "The node's state: 1 for the current one, 0 for the others.",
                &["node", "state"],
            )?,
            slots: declare.int_gauges(
                "node_slots",
                "Requests that one loaded model serves at a time on the node.",
                &["node"],
            )?,
            in_use: declare.int_gauges(
                "node_slots_in_use",
                "Requests running on the node, all models together.",
                &["node"],
            )?,
            loaded: declare.int_gauges(
                "node_model_loaded",
                "Whether the model is in the node's memory: 1 or 0, for each model on its disk.",
                &["node", "model"],
            )?,
            vram: declare.gauges("node_vram_bytes", "Memory used by loaded models.", &["node"])?,
            probe_duration: declare.histograms(
                "node_probe_duration_seconds",
                "Time until the node answered a probe, or the probe timed out.",
                &["node"],
                &PROBE_BUCKETS,
            )?,
            probed_at: declare.gauges(
                "node_last_probe_timestamp_seconds",
                "Unix time of the node's last probe; 0 before the first.",
                &["node"],
            )?,
            transitions: declare.counters(
                "circuit_transitions_total",
                "Changes of the node's circuit breaker, by new state: down (open), on trial (half_open), up (closed).",
                &["node", "to"],
            )?,
            listing_skipped: declare.counters(
                "node_listing_entries_skipped_total",
                "Entries of the node's lists of models that could not be used.",
                &["node"],
            )?,
            canaries: declare.counters(
                "node_canaries_total",
                "Requests of the gateway's own to a node that had produced nothing: it answered (answered), it did not \
                 (failed), or it could not be asked (inconclusive).",
                &["node", "outcome"],
            )?,
        })
    }

    /// Ends every series of these nodes.
    pub(in crate::metrics) fn end_nodes(&self, nodes: &BTreeSet<String>) {
        for family in [&self.transitions, &self.listing_skipped, &self.canaries] {
            end(family, ("node", nodes), |labels| drop(family.remove(labels)));
        }
        for family in [&self.up, &self.state, &self.slots, &self.in_use, &self.loaded] {
            end(family, ("node", nodes), |labels| drop(family.remove(labels)));
        }
        end(&self.probe_duration, ("node", nodes), |labels| drop(self.probe_duration.remove(labels)));
        for family in [&self.vram, &self.probed_at] {
            end(family, ("node", nodes), |labels| drop(family.remove(labels)));
        }
    }
}

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
