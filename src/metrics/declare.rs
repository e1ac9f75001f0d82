//! How is a family declared in the registry, and how do its series end?
use std::collections::{BTreeSet, HashMap};

use prometheus::core::Collector;
use prometheus::{
    Counter, Error, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};

/// For requests of clients, and for the attempts that they are made of.
pub(super) const DURATION_BUCKETS: [f64; 14] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// Declares families in one registry, adding the common prefix.
pub(super) struct Declare<'a>(pub(super) &'a Registry);

/// Removes a family's series whose label has one of the values.
pub(super) fn end(
    family: &impl Collector,
    (name, values): (&str, &BTreeSet<String>),
    remove: impl Fn(&HashMap<&str, &str>),
) {
    for series in family.collect().iter().flat_map(|family| family.get_metric()) {
        let labels: HashMap<&str, &str> =
            series.get_label().iter().map(|label| (label.name(), label.value())).collect();
        if labels.get(name).is_some_and(|value| values.contains(*value)) {
            remove(&labels);
        }
    }
}

fn ours(name: &str, help: &str) -> Opts {
    Opts::new(format!("gateway_{name}"), help)
}

impl Declare<'_> {
    fn register<T: Collector + Clone + 'static>(&self, family: T) -> Result<T, Error> {
        self.0.register(Box::new(family.clone()))?;
        Ok(family)
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> Result<IntCounter, Error> {
        self.register(IntCounter::with_opts(ours(name, help))?)
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Error> {
        self.register(IntCounterVec::new(ours(name, help), labels)?)
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> Result<Gauge, Error> {
        self.register(Gauge::with_opts(ours(name, help))?)
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, Error> {
        self.register(GaugeVec::new(ours(name, help), labels)?)
    }

    pub(super) fn int_gauge(&self, name: &str, help: &str) -> Result<IntGauge, Error> {
        self.register(IntGauge::with_opts(ours(name, help))?)
    }

    pub(super) fn int_gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, Error> {
        self.register(IntGaugeVec::new(ours(name, help), labels)?)
    }

    pub(super) fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, Error> {
        let options = HistogramOpts::from(ours(name, help)).buckets(buckets.to_vec());
        self.register(HistogramVec::new(options, labels)?)
    }

    /// A gauge of the process, under the name that Prometheus' own libraries use.
    pub(super) fn process_gauge(&self, name: &str, help: &str) -> Result<Gauge, Error> {
        self.register(Gauge::with_opts(Opts::new(format!("process_{name}"), help))?)
    }

    /// The same for a counter.
    pub(super) fn process_counter(&self, name: &str, help: &str) -> Result<Counter, Error> {
        self.register(Counter::with_opts(Opts::new(format!("process_{name}"), help))?)
    }
}
