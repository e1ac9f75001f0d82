//! Are requests traced, and where do the traces go?
use serde::{Deserialize, Serialize};

/// Traces of requests: a span for the key check, each wait for a slot and each attempt on a node. A client's
/// `traceparent` is passed on to the node either way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TracingSettings {
    /// Base URL of a collector that speaks OTLP over HTTP, such as `http://collector:4318` (`/v1/traces` is
    /// appended). `null` = no traces. Credentials go into the environment:
    /// `OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20..."`. Default `null`.
    pub otlp_endpoint: Option<String>,
    /// Share of requests to trace, 0 to 1, unless the client's `traceparent` decides. Default `1.0`.
    pub sample_ratio: f64,
}

impl Default for TracingSettings {
    fn default() -> Self {
        Self { otlp_endpoint: None, sample_ratio: 1.0 }
    }
}
