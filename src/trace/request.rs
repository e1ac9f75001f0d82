//! Where did a request's time go, and whose trace does it belong to?
//!
//! A [`Trace`] accompanies a request. Its spans are made from times that are measured anyway: one span for the request,
//! and within it one for the key check (`auth`), one for each wait for a slot (`queue`) and one for each attempt on a
//! node (`upstream`). A client's W3C `traceparent` makes them part of the client's trace, and each attempt sends the
//! node a `traceparent` with its own span id. The client's flag decides whether spans are recorded, or else chance
//! ([`TracingSettings::sample_ratio`]). If nothing is exported, a client's trace is still passed on.
//!
//! Spans never contain prompts, answers or keys.
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::export::{Exporter, TracingSettings};
use crate::clock::Clock;
use limits::Moment;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceState};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{BatchSpanProcessor, IdGenerator, RandomIdGenerator, SpanData, SpanProcessor};

impl TracingSettings {
    /// The setting that is invalid, and why.
    pub fn flaw(&self) -> Option<(&'static str, &'static str)> {
        let is_url = |url: &str| {
            let parsed = url.parse::<awc::http::Uri>().ok();
            parsed.is_some_and(|url| matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some())
        };
        if self.otlp_endpoint.as_deref().is_some_and(|url| !is_url(url)) {
            return Some(("otlp_endpoint", "expected http://HOST:PORT or https://HOST:PORT"));
        }
        (!(0.0..=1.0).contains(&self.sample_ratio)).then_some(("sample_ratio", "expected a number from 0 to 1"))
    }
}

/// Begins traces.
#[derive(Clone, Debug)]
pub struct Tracer {
    clock: Clock,
    sample_ratio: f64,
    sink: Option<Arc<BatchSpanProcessor>>,
}

impl Tracer {
    /// A tracer, and the exporter for its spans if a collector is configured.
    ///
    /// # Errors
    /// No exporter can be built with these settings.
    pub fn new(settings: &TracingSettings, clock: Clock) -> Result<(Self, Option<Exporter>), String> {
        let exporter = settings.otlp_endpoint.as_deref().map(Exporter::new).transpose()?;
        let sink = exporter.as_ref().map(Exporter::sink);
        Ok((Self { clock, sample_ratio: settings.sample_ratio, sink }, exporter))
    }

    /// The trace of a request with these headers; `None` if there is nothing to record and nothing to pass on.
    pub fn begin(&self, traceparent: Option<&str>, tracestate: Option<&str>, received: Moment) -> Option<Trace> {
        let parent = traceparent.and_then(|traceparent| parent(traceparent, tracestate.unwrap_or("")));
        let ids = RandomIdGenerator::default();
        let (trace_id, flags, state) = match &parent {
            Some(parent) => (parent.trace_id(), parent.trace_flags(), parent.trace_state().clone()),
            None => {
                self.sink.as_ref()?;
                let trace_id = ids.new_trace_id();
                // By the random part of the id, as W3C's level 2 has it, so that systems that sample by the same share
                // pick the same traces.
                let [.., a, b, c, d, e, f, g, h] = trace_id.to_bytes();
                let chance = u64::from_be_bytes([a, b, c, d, e, f, g, h]) as f64 / u64::MAX as f64;
                if chance >= self.sample_ratio && self.sample_ratio < 1.0 {
                    return None;
                }
                (trace_id, TraceFlags::SAMPLED, TraceState::NONE)
            }
        };
        let sink = self.sink.clone().filter(|_| flags.is_sampled());
        let context = SpanContext::new(trace_id, ids.new_span_id(), flags, false, state);
        Some(Trace { clock: self.clock, received, sink, context, parent, asking: None })
    }
}

struct Headers<'a>(&'a str, &'a str);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => Some(self.0),
            "tracestate" => Some(self.1),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

fn parent(traceparent: &str, tracestate: &str) -> Option<SpanContext> {
    let context =
        TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(traceparent, tracestate));
    let parent = context.span().span_context().clone();
    parent.is_valid().then_some(parent)
}

/// The trace of one request.
#[derive(Debug)]
pub struct Trace {
    clock: Clock,
    received: Moment,
    /// `None` if the client's flag says that nothing is recorded, or if nothing is exported.
    sink: Option<Arc<BatchSpanProcessor>>,
    /// The context of the request's own span.
    context: SpanContext,
    parent: Option<SpanContext>,
    asking: Option<Asking>,
}

/// An attempt that has not ended.
#[derive(Debug)]
struct Asking {
    span: SpanId,
    node: Arc<str>,
    attempt: u32,
    since: Duration,
}

/// How a request ended, for its span.
#[derive(Debug)]
pub struct Closing<'a> {
    /// The route's template.
    pub route: &'a str,
    /// The status that the client saw.
    pub code: u16,
    /// Whether it failed through no fault of the client.
    pub is_failure: bool,
    /// Further attributes by name.
    pub attributes: Vec<(&'static str, Attribute)>,
}

/// The value of an attribute.
#[derive(Clone, Debug)]
pub enum Attribute {
    /// Text.
    Text(String),
    /// A number.
    Number(u64),
    /// A boolean.
    Flag(bool),
}

impl Trace {
    /// The trace's id, for logs.
    pub fn id(&self) -> String {
        self.context.trace_id().to_string()
    }

    /// The key check took from one uptime to the other.
    pub fn authenticated(&self, since: Duration, until: Duration) {
        self.child("auth", SpanKind::Internal, self.new_span(), (since, until), Vec::new, Status::Unset);
    }

    /// A wait for a slot ended, with or without one.
    pub(crate) fn waited(&self, since: Duration, until: Duration, is_granted: bool) {
        let status = if is_granted { Status::Unset } else { Status::error("no slot") };
        self.child("queue", SpanKind::Internal, self.new_span(), (since, until), Vec::new, status);
    }

    /// A node is asked from now on.
    pub(crate) fn ask(&mut self, node: Arc<str>, attempt: u32, since: Duration) {
        self.asking = Some(Asking { span: self.new_span(), node, attempt, since });
    }

    /// The headers for the node that is asked: `traceparent` and, if there is one, `tracestate`.
    pub(crate) fn headers(&self) -> Option<(String, Option<String>)> {
        let span = self.asking.as_ref()?.span;
        // Only the sampled bit: the others mean nothing to whoever has not set them.
        let (trace, flags) = (self.context.trace_id(), self.context.trace_flags().to_u8() & 1);
        let state = self.context.trace_state().header();
        Some((format!("00-{trace}-{span}-{flags:02x}"), Some(state).filter(|state| !state.is_empty())))
    }

    /// The attempt ended with this outcome.
    pub(crate) fn answered(&mut self, outcome: &str, until: Duration) {
        let Some(Asking { span, node, attempt, since }) = self.asking.take() else { return };
        let status = match outcome {
            "ok" | "client_error" | "cancelled" => Status::Unset,
            failure => Status::error(failure.to_owned()),
        };
        let attributes = || {
            vec![
                KeyValue::new("gateway.node", node.to_string()),
                KeyValue::new("gateway.attempt", i64::from(attempt)),
                KeyValue::new("gateway.outcome", outcome.to_owned()),
            ]
        };
        self.child("upstream", SpanKind::Client, span, (since, until), attributes, status);
    }

    /// The request ended, which completes its own span.
    pub fn finish(self, closing: Closing<'_>) {
        let now = self.clock.uptime();
        let attributes = || {
            let code = KeyValue::new("http.response.status_code", i64::from(closing.code));
            let known = [
                KeyValue::new("http.request.method", "POST"),
                KeyValue::new("http.route", closing.route.to_owned()),
                code,
            ];
            let further = closing.attributes.into_iter().map(|(name, value)| match value {
                Attribute::Text(text) => KeyValue::new(name, text),
                Attribute::Number(number) => KeyValue::new(name, i64::try_from(number).unwrap_or(i64::MAX)),
                Attribute::Flag(flag) => KeyValue::new(name, flag),
            });
            known.into_iter().chain(further).collect()
        };
        let status = if closing.is_failure { Status::error("") } else { Status::Unset };
        let name = format!("POST {}", closing.route);
        let parent = self.parent.as_ref().map_or(SpanId::INVALID, SpanContext::span_id);
        let times = (self.received.uptime, now);
        self.record(name.into(), SpanKind::Server, self.context.span_id(), parent, times, attributes, status);
    }

    fn new_span(&self) -> SpanId {
        RandomIdGenerator::default().new_span_id()
    }

    fn child(
        &self,
        name: &'static str,
        kind: SpanKind,
        span: SpanId,
        times: (Duration, Duration),
        attributes: impl FnOnce() -> Vec<KeyValue>,
        status: Status,
    ) {
        self.record(name.into(), kind, span, self.context.span_id(), times, attributes, status);
    }

    #[expect(clippy::too_many_arguments, reason = "a span has so many parts, and two callers")]
    fn record(
        &self,
        name: Cow<'static, str>,
        kind: SpanKind,
        span: SpanId,
        parent: SpanId,
        (since, until): (Duration, Duration),
        attributes: impl FnOnce() -> Vec<KeyValue>,
        status: Status,
    ) {
        let Some(sink) = &self.sink else { return };
        let context = &self.context;
        let state = context.trace_state().clone();
        let is_own = span == context.span_id();
        sink.on_end(SpanData {
            span_context: SpanContext::new(context.trace_id(), span, context.trace_flags(), false, state),
            parent_span_id: parent,
            parent_span_is_remote: is_own && self.parent.is_some(),
            span_kind: kind,
            name,
            start_time: self.at(since),
            end_time: self.at(until),
            attributes: attributes(),
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status,
            instrumentation_scope: InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
        });
    }

    /// An uptime as wall-clock time.
    fn at(&self, uptime: Duration) -> SystemTime {
        let received = UNIX_EPOCH + Duration::from_millis(u64::try_from(self.received.unix_ms).unwrap_or(0));
        match uptime.checked_sub(self.received.uptime) {
            Some(after) => received + after,
            None => received - (self.received.uptime - uptime),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn begin(traceparent: Option<&str>, tracestate: Option<&str>) -> Option<Trace> {
        let clock = Clock::start();
        let (tracer, exporter) = Tracer::new(&TracingSettings::default(), clock).unwrap();
        assert!(exporter.is_none());
        tracer.begin(traceparent, tracestate, clock.now())
    }

    #[test]
    fn a_clients_trace_is_passed_on_with_a_span_for_each_attempt() {
        let mut trace = begin(Some(PARENT), Some("vendor=1")).unwrap();
        assert_eq!(trace.id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(trace.headers(), None);
        let mut said = Vec::new();
        for attempt in [1, 2] {
            trace.ask("a".into(), attempt, Duration::ZERO);
            let (traceparent, tracestate) = trace.headers().unwrap();
            assert!(traceparent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && traceparent.ends_with("-01"));
            assert_eq!((traceparent.len(), tracestate.as_deref()), (PARENT.len(), Some("vendor=1")));
            said.push(traceparent);
        }
        assert!(said[0] != said[1] && !said.contains(&PARENT.to_owned()));
    }

    #[test]
    fn what_is_no_traceparent_is_no_trace() {
        let bad = ["", "00", "00-0-0-01", &PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32))];
        for bad in bad {
            assert!(begin(Some(bad), None).is_none(), "{bad}");
        }
        assert!(begin(None, None).is_none() && begin(None, Some("vendor=1")).is_none());
        assert!(begin(Some(PARENT), Some("no state, \u{e9}")).is_some_and(|trace| trace.parent.is_some()));
    }

    #[test]
    fn settings_are_checked() {
        let flaw = |endpoint: Option<&str>, sample_ratio| {
            TracingSettings { otlp_endpoint: endpoint.map(str::to_owned), sample_ratio }.flaw().map(|(key, _)| key)
        };
        assert_eq!(flaw(None, 1.0), None);
        assert_eq!(flaw(Some("https://collector:4318"), 0.0), None);
        assert_eq!(flaw(Some("collector:4318"), 1.0), Some("otlp_endpoint"));
        assert_eq!(flaw(None, 1.5), Some("sample_ratio"));
        assert_eq!(flaw(None, f64::NAN), Some("sample_ratio"));
    }
}
