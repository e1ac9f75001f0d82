//! The nodes as the gateway sees them.
use actix_web::web::{Data, Json};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::auth::Admin;
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
    /// `up`, `suspect` (on trial, or one failure outstanding) or `down`.
    state: &'static str,
    /// Requests that one loaded model takes at a time.
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
}

impl From<Model> for DiskModel {
    fn from(model: Model) -> Self {
        Self { name: model.name, size_bytes: model.size_bytes, digest: model.digest }
    }
}

impl From<Loaded> for LoadedModel {
    fn from(loaded: Loaded) -> Self {
        Self { name: loaded.name, vram_bytes: loaded.vram_bytes }
    }
}

impl From<NodeView> for Node {
    fn from(view: NodeView) -> Self {
        Self {
            name: view.name,
            state: state_name(view.state),
            slots: view.slots,
            in_flight: view.in_flight,
            queue: view.waiting,
            completed: view.completed,
            failed: view.failed,
            models: view.models.into_iter().map(DiskModel::from).collect(),
            loaded: view.loaded.into_iter().map(LoadedModel::from).collect(),
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
        let data = scheduler.nodes().into_iter().map(Node::from).collect();
        NodeList { object: "list", data, queued: scheduler.queued() }
    }))
}
