//! Is the gateway alive and ready, and what is it doing? For visitors, load balancers and Prometheus.
use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_ENCODING, ContentEncoding, VARY};
use actix_web::web::{self, Data};
use actix_web::{HttpRequest, HttpResponse, Responder};
use flate2::Compression;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::error::ApiError;
use super::live::Live;
use super::names::ModelNames;
use super::packed::{gzip, takes_gzip};
use crate::dispatch::{Dispatcher, Sharing};
use crate::metrics::{ClusterGauges, Metrics, NodeGauges, OutboxGauges, Snapshot, UNKNOWN_MODEL};
use crate::store::Recorder;
use scheduler::{NodeState, NodeView, PromptTokens, Scheduler};

/// What the routes of this file and those of `/admin/nodes` read.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    /// Cancelled once the gateway drains.
    pub draining: CancellationToken,
    /// The nodes and the queue.
    pub dispatcher: Arc<Dispatcher>,
    /// Whether usage can be stored, and how many rows wait.
    pub recorder: Recorder,
    /// The metrics to export.
    pub metrics: Arc<Metrics>,
    /// The context that each model should be loaded with.
    pub names: Live<ModelNames>,
}

/// Name, version and where to go next.
#[derive(Debug, Serialize, ToSchema)]
pub struct Welcome {
    /// `ollama-gateway`
    name: &'static str,
    /// The version of this program.
    version: &'static str,
    /// The text that clients of Ollama look for.
    status: &'static str,
    /// Where to go next.
    links: Links,
}

/// Paths of this service.
#[derive(Debug, Serialize, ToSchema)]
pub struct Links {
    /// Documentation, with forms to try the API.
    docs: &'static str,
    /// The OpenAPI document.
    openapi: &'static str,
    /// The base URL for OpenAI's SDKs.
    api: &'static str,
    /// Whether nodes are up.
    health: &'static str,
    /// Metrics for Prometheus.
    metrics: &'static str,
}

/// Whether requests can be served.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok` or `unavailable`.
    status: &'static str,
    /// How many nodes there are.
    nodes: NodeCount,
}

/// Nodes by health.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeCount {
    /// Nodes that can be given requests.
    healthy: usize,
    /// All configured nodes.
    total: usize,
}

/// Whether this instance should be given requests.
#[derive(Debug, Serialize, ToSchema)]
pub struct Readiness {
    /// `ready`, `draining` or `storage_unavailable`; always `live` from `/health/live`.
    status: &'static str,
}

/// Welcome
#[utoipa::path(get, path = "/", tag = "operations", responses((status = 200, body = Welcome)))]
pub async fn root() -> impl Responder {
    web::Json(Welcome {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        status: "Ollama is running (behind ollama-gateway)",
        links: Links { docs: "/docs", openapi: "/openapi.json", api: "/v1", health: "/health", metrics: "/metrics" },
    })
}

/// Health
///
/// 200 while at least one node can serve.
#[utoipa::path(
    get, path = "/health", tag = "operations",
    responses((status = 200, body = Health), (status = 503, description = "No node can serve.", body = Health)),
)]
pub async fn health(lifecycle: Data<Lifecycle>) -> HttpResponse {
    let nodes = lifecycle
        .dispatcher
        .read(|scheduler| NodeCount { healthy: scheduler.serving_nodes(), total: scheduler.present_nodes() });
    let (code, status) =
        if nodes.healthy > 0 { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "unavailable") };
    HttpResponse::build(code).json(Health { status, nodes })
}

/// Liveness
///
/// 200 as long as the process answers.
#[utoipa::path(get, path = "/health/live", tag = "operations", responses((status = 200, body = Readiness)))]
pub async fn live() -> impl Responder {
    web::Json(Readiness { status: "live" })
}

/// Readiness
///
/// 503 while the gateway drains, or while usage cannot be stored.
#[utoipa::path(
    get, path = "/health/ready", tag = "operations",
    responses((status = 200, body = Readiness), (status = 503, description = "Send requests elsewhere.", body = Readiness)),
)]
pub async fn ready(lifecycle: Data<Lifecycle>) -> HttpResponse {
    let (code, status) = if lifecycle.draining.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else if !lifecycle.recorder.is_ready() {
        (StatusCode::SERVICE_UNAVAILABLE, "storage_unavailable")
    } else {
        (StatusCode::OK, "ready")
    };
    HttpResponse::build(code).json(Readiness { status })
}

/// Metrics
///
/// In Prometheus' text format.
#[utoipa::path(
    get, path = "/metrics", tag = "operations",
    responses((status = 200, content_type = "text/plain", body = String)),
)]
pub async fn metrics(request: HttpRequest, lifecycle: Data<Lifecycle>) -> Result<HttpResponse, ApiError> {
    let is_packed = takes_gzip(request.headers());
    // Encoding thousands of series takes a while, and this worker has streams to serve.
    let body = web::block(move || {
        let (nodes, queued) = (lifecycle.dispatcher.nodes(), lifecycle.dispatcher.read(queued));
        let sharing = lifecycle.dispatcher.sharing();
        let text = lifecycle.metrics.scrape(&Snapshot {
            nodes: nodes.into_iter().map(gauges).collect(),
            queued,
            usage_backlog: lifecycle.recorder.backlog(),
            usage_ready: lifecycle.recorder.is_ready(),
            cluster: ClusterGauges {
                role: (sharing.role, &Sharing::ROLES),
                gateways: sharing.gateways,
                is_settled: sharing.is_settled,
                epoch: sharing.epoch.unwrap_or_default(),
                handovers: lifecycle.dispatcher.handovers(),
                link_delay: lifecycle.dispatcher.link_delay(),
            },
            outbox: lifecycle.recorder.copied().map(|copied| OutboxGauges {
                waiting: copied.waiting,
                parked: copied.parked,
                database_up: copied.is_up,
            }),
        });
        let text = text.map_err(|error| error.to_string())?;
        if !is_packed {
            return Ok(text);
        }
        // Series are alike, so that the fastest level already leaves a tenth of them.
        gzip(&text, Compression::fast()).map_err(|error| error.to_string())
    });
    let body: Result<Vec<u8>, String> = body.await.map_err(|error| ApiError::internal(error.to_string()))?;
    let mut response = HttpResponse::Ok();
    response.content_type("text/plain; version=0.0.4; charset=utf-8").insert_header((VARY, "accept-encoding"));
    if is_packed {
        response.insert_header((CONTENT_ENCODING, ContentEncoding::Gzip));
    }
    Ok(response.body(body.map_err(ApiError::internal)?))
}

/// Queued requests by listed model, the name that the other metrics use, rather than by the names that clients gave.
fn queued(scheduler: &Scheduler) -> Vec<(String, usize)> {
    let listed =
        |model: &str| scheduler.find_model(model).map_or(UNKNOWN_MODEL, |model| model.name.as_str()).to_owned();
    scheduler.queued_by_model().into_iter().map(|(model, depth)| (listed(&model), depth)).collect()
}

fn gauges(node: NodeView) -> NodeGauges {
    let (routed, transitions) = (node.routed, node.transitions);
    NodeGauges {
        name: node.name,
        state: state_name(node.state),
        slots: node.slots,
        in_flight: node.in_flight as usize,
        models: node.models.iter().map(|model| model.name.clone()).collect(),
        loaded: node.loaded.into_iter().map(|loaded| (loaded.name, loaded.vram_bytes)).collect(),
        routed: [routed.warm, routed.cold, routed.fallback],
        transitions: [transitions.closed, transitions.open, transitions.half_open],
        prompts: node.prompts.into_iter().map(|(model, tokens)| (model, counts(tokens))).collect(),
    }
}

fn counts(tokens: PromptTokens) -> [u64; 4] {
    let PromptTokens { sent, expected_cached, timed, measured_cached } = tokens;
    [sent, expected_cached, timed, measured_cached]
}

/// The word for a node's state in metrics and under `/admin/nodes`.
pub(super) fn state_name(state: NodeState) -> &'static str {
    match state {
        NodeState::Up => "up",
        NodeState::Suspect => "suspect",
        NodeState::Down => "down",
        NodeState::Draining => "draining",
    }
}
