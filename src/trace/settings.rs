//! Are requests traced, and where do the traces go?
use serde::{Deserialize, Serialize};

/// Whether requests are traced, and where to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TracingSettings {
    /// The collector's base URL for OTLP over HTTP, such as `http://collector:4318`; `/v1/traces` is added. `null` = no
    /// traces. Default `null`.
    pub otlp_endpoint: Option<String>,
    /// The share of requests that are traced where the client's `traceparent` does not decide it, 0 to 1. Default 1.
    pub sample_ratio: f64,
}

impl Default for TracingSettings {
    fn default() -> Self {
        Self { otlp_endpoint: None, sample_ratio: 1.0 }
    }
}
