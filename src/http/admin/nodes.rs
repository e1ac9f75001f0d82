//! The nodes as the gateway sees them.
use actix_web::web::{Data, Json};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::auth::Admin;
use crate::http::models::ModelNames;
use crate::http::openapi;
use crate::http::ops::{Lifecycle, state_name};
use crate::scheduler::{Loaded, Model, NodeView};

/// All nodes.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeList {
    /// Always `list`.
    object: &'static str,
    /// In the order of the configuration.
    data: Vec<Node>,
    /// Requests waiting for a slot on any of them.
    queued: usize,
}

/// A node.
#[derive(Debug, Serialize, ToSchema)]
pub struct Node {
    /// Its configured name.
    name: String,
    /// `up`, `suspect` (on trial, or one failure outstanding), `down` or `draining` (finishes what runs, takes nothing new).
    state: &'static str,
    /// Requests that one loaded model takes at a time, configured or as learned so far.
    slots: u32,
    /// Requests running there.
    in_flight: u32,
    /// Waiting requests for models that it has.
    queue: usize,
    /// Requests completed there since the start.
    completed: u64,
    /// Attempts that failed there since the start.
    failed: u64,
    /// On disk.
    models: Vec<DiskModel>,
    /// In memory.
    loaded: Vec<LoadedModel>,
    /// The model on its way into memory, if there is one.
    loading: Option<String>,
    /// Models that the gateway had loaded there since the start.
    loads: u64,
    /// Of one stream of a 5 GB model that runs alone, as learned; null before anything ran there.
    tokens_per_second: Option<f64>,
    /// What went wrong last; null while nothing is wrong.
    last_error: Option<String>,
}

/// A model on a node's disk.
#[derive(Debug, Serialize, ToSchema)]
pub struct DiskModel {
    /// As the node gives it.
    name: String,
    /// Bytes on disk.
    size_bytes: u64,
    /// Of its manifest.
    digest: String,
}

/// A model in a node's memory.
#[derive(Debug, Serialize, ToSchema)]
pub struct LoadedModel {
    /// As the node gives it.
    name: String,
    /// Bytes of video memory.
    vram_bytes: u64,
    /// Tokens of context it was loaded with; null where the node does not say.
    context_length: Option<u64>,
    /// Whether that is not what `models.context_length` expects.
    context_drift: bool,
}

impl From<Model> for DiskModel {
    fn from(model: Model) -> Self {
        Self { name: model.name, size_bytes: model.size_bytes, digest: model.digest }
    }
}

impl LoadedModel {
    fn new(loaded: Loaded, names: &ModelNames) -> Self {
        let Loaded { name, vram_bytes, context_length } = loaded;
        let expected = names.expected_context(&name);
        let context_drift = context_length.zip(expected).is_some_and(|(length, expected)| length != expected);
        Self { name, vram_bytes, context_length, context_drift }
    }
}

impl Node {
    fn new(view: NodeView, names: &ModelNames) -> Self {
        Self {
            name: view.name,
            state: state_name(view.state),
            slots: view.slots,
            in_flight: view.in_flight,
            queue: view.waiting,
            completed: view.completed,
            failed: view.failed,
            models: view.models.into_iter().map(DiskModel::from).collect(),
            loaded: view.loaded.into_iter().map(|loaded| LoadedModel::new(loaded, names)).collect(),
            loading: view.loading,
            loads: view.loads,
            tokens_per_second: view.tokens_per_second,
            last_error: view.last_error,
        }
    }
}

/// List nodes
///
/// State, load, models on disk and in memory, and the last error of each.
#[utoipa::path(
    get, path = "/admin/nodes", tag = "admin", security(("admin_key" = [])),
    responses((status = 200, body = NodeList), openapi::AdminResponses),
)]
pub async fn list(_: Admin, lifecycle: Data<Lifecycle>) -> Json<NodeList> {
    Json(lifecycle.dispatcher.read(|scheduler| {
        let data = scheduler.nodes().into_iter().map(|node| Node::new(node, &lifecycle.names)).collect();
        NodeList { object: "list", data, queued: scheduler.queued() }
    }))
}
