//! What is exported of the version, the configuration and the certificate?
use prometheus::{Error, Gauge, GaugeVec};

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
