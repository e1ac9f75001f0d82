//! How do spans reach the collector without anybody waiting for it?
//!
//! OpenTelemetry's batch processor keeps at most [`QUEUE`] spans and drops further ones. Its own thread encodes batches
//! (OTLP, protobuf) and passes each to [`Exporter::run`], which sends it with a deadline. `OTEL_EXPORTER_OTLP_HEADERS`,
//! `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` are read as OpenTelemetry specifies.
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::KeyValue;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SpanProcessor};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// The most spans that may wait; a request has about four.
const QUEUE: usize = 8192;
/// Spans are sent in batches of at most this many, every [`DELAY`] at the latest.
const BATCH: usize = 512;
const DELAY: Duration = Duration::from_secs(2);
/// The longest wait for the collector.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest wait for the last spans when the gateway stops.
const LAST_PATIENCE: Duration = Duration::from_secs(3);
/// How much of the collector's answer is read.
const MAX_ANSWER: usize = 64 * 1024;

type Delivery = (Request<Bytes>, oneshot::Sender<Result<Response<Bytes>, HttpError>>);

/// Sends spans to the collector.
#[derive(Debug)]
pub struct Exporter {
    processor: Arc<BatchSpanProcessor>,
    deliveries: mpsc::Receiver<Delivery>,
    is_failing: bool,
}

impl Exporter {
    pub(super) fn new(endpoint: &str) -> Result<Self, String> {
        let (sender, deliveries) = mpsc::channel(1);
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Courier(sender))
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_timeout(PATIENCE)
            .build()
            .map_err(|error| format!("tracing.otlp_endpoint: {error}"))?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(DELAY)
            .build();
        let mut processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let mut resource =
            Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name(env!("CARGO_PKG_NAME"));
        }
        processor.set_resource(&resource.build());
        Ok(Self { processor: Arc::new(processor), deliveries, is_failing: false })
    }

    pub(super) fn sink(&self) -> Arc<BatchSpanProcessor> {
        self.processor.clone()
    }

    /// Sends batches until `stopped`, then the remaining spans.
    pub async fn run(mut self, stopped: impl Future<Output = ()>) {
        let client = awc::Client::builder().disable_redirects().timeout(PATIENCE).finish();
        let processor = self.processor.clone();
        let last = async {
            stopped.await;
            // On a thread of its own: it waits for its worker, which waits for us to send.
            let _ = tokio::task::spawn_blocking(move || processor.shutdown_with_timeout(LAST_PATIENCE)).await;
        };
        tokio::pin!(last);
        loop {
            tokio::select! {
                () = &mut last => return,
                () = self.deliver_next(&client) => {}
            }
        }
    }

    async fn deliver_next(&mut self, client: &awc::Client) {
        // The sender lives as long as the processor, which we own.
        let Some((request, answer)) = self.deliveries.recv().await else { return std::future::pending().await };
        let delivered = tokio::time::timeout(PATIENCE, deliver(client, request)).await;
        let delivered = delivered.unwrap_or_else(|_| Err("no answer in time".into()));
        self.note(&delivered);
        let _ = answer.send(delivered);
    }

    /// Logs one line when sending begins to fail and one when it works again, not one for each batch.
    fn note(&mut self, delivered: &Result<Response<Bytes>, HttpError>) {
        let failure = match delivered {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("status {}", response.status().as_u16())),
            Err(error) => Some(error.to_string()),
        };
        match failure {
            Some(error) if !self.is_failing => {
                tracing::warn!(error, "traces cannot be sent to the collector and are dropped");
                self.is_failing = true;
            }
            None if self.is_failing => {
                tracing::info!("traces reach the collector again");
                self.is_failing = false;
            }
            _ => {}
        }
    }
}

async fn deliver(client: &awc::Client, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let mut sending = client.post(request.uri().to_string());
    for (name, value) in request.headers() {
        sending = sending.insert_header((name.as_str(), value.as_bytes()));
    }
    let mut said = sending.send_body(request.into_body()).await.map_err(|error| error.to_string())?;
    let status = said.status().as_u16();
    let body = said.body().limit(MAX_ANSWER).await.map_err(|error| error.to_string())?;
    Ok(Response::builder().status(status).body(body)?)
}

/// Passes a batch from the processor's thread to [`Exporter::run`].
#[derive(Debug)]
struct Courier(mpsc::Sender<Delivery>);

#[async_trait]
impl HttpClient for Courier {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (answer, answered) = oneshot::channel();
        self.0.send((request, answer)).await.map_err(|_| "nobody sends traces any more")?;
        answered.await?
    }
}

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
