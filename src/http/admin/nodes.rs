//! The nodes as the gateway sees them, and what operators do with them.
use actix_web::http::Uri;
use actix_web::http::uri::{Authority, Scheme};
use actix_web::web::{Data, Json, Path};
use actix_web::{HttpResponse, Responder};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::given::present;
use super::node_fields::{NodeSettingsRecord, body_with_node_fields};
use crate::dispatch::{Question, Sight};
use crate::fleet::{FleetContext, Listed, NodeSettings, Roster, RosterError, Source};
use crate::http::answers;
use crate::http::audited::without_secrets;
use crate::http::auth::Admin;
use crate::http::body::JsonObject;
use crate::http::error::ApiError;
use crate::http::maintenance::MaintenanceRecord;
use crate::http::names::ModelNames;
use crate::http::ops::{Lifecycle, state_name};
use crate::http::time::rfc3339;
use scheduler::{Loaded, Model, NodeView};

/// All nodes.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeList {
    /// Always `list`.
    object: &'static str,
    /// In the order in which they joined.
    data: Vec<Node>,
    /// Requests waiting for a slot on any of them.
    queued: usize,
    /// `all`: as the gateway sees them that schedules for all. `own`: as this gateway sees them, because it schedules for
    /// itself, or the other one did not answer within a second.
    scope: &'static str,
}

/// A node.
#[derive(Debug, Serialize, ToSchema)]
pub struct Node {
    /// Its configured name.
    name: String,
    /// Where it is.
    url: String,
    /// `file` (gateway.yaml), `added` (by this API) or `dns` (discovered).
    source: &'static str,
    /// `up`, `suspect` (on trial, or one failure outstanding), `down` or `draining` (finishes what runs, takes nothing new).
    state: &'static str,
    /// Since when, in RFC 3339; null before the first probe.
    since: Option<String>,
    /// Of the node's software, as it says; null where it does not.
    version: Option<String>,
    /// When it was last probed, in RFC 3339, answered or not; null before the first probe.
    last_probe: Option<String>,
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
    /// Other nodes that are the same engine under another name or address, as far as that shows: it gets the requests of
    /// all of them, more than it has slots for. Normally empty.
    same_engine_as: Vec<String>,
    /// Why it is drained and until when; null unless it is.
    maintenance: Option<MaintenanceRecord>,
    /// As they were given; null while it leaves.
    settings: Option<NodeSettingsRecord>,
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
    /// Of one stream that runs alone there, as learned; null before anything ran on the node.
    tokens_per_second: Option<f64>,
}

impl From<&Model> for DiskModel {
    fn from(model: &Model) -> Self {
        Self { name: model.name.clone(), size_bytes: model.size_bytes, digest: model.digest.clone() }
    }
}

impl LoadedModel {
    fn new(loaded: Loaded, tokens_per_second: Option<f64>, names: &ModelNames) -> Self {
        let Loaded { name, vram_bytes, context_length } = loaded;
        let expected = names.expected_context(&name);
        let context_drift = context_length.zip(expected).is_some_and(|(length, expected)| length != expected);
        Self { name, vram_bytes, context_length, context_drift, tokens_per_second }
    }
}

impl Node {
    fn new(view: NodeView, listed: Option<&Listed>, fleet: &FleetContext, names: &ModelNames) -> Self {
        let facts = listed.map(|listed| fleet.catalog.facts(listed.id)).unwrap_or_default();
        let twins = listed.map(|listed| fleet.catalog.twins(listed.id)).unwrap_or_default();
        let name_of = |twin| fleet.nodes.get(twin).map(|endpoint| endpoint.name.to_string());
        let loaded = |loaded: Loaded| {
            let speed = view.speeds.get(&loaded.name).copied();
            LoadedModel::new(loaded, speed, names)
        };
        Self {
            url: listed.map(|listed| listed.settings.url.clone()).unwrap_or_default(),
            source: listed.map_or(Source::File, |listed| listed.source).as_str(),
            name: view.name,
            state: state_name(view.state),
            since: facts.since_ms.map(rfc3339),
            version: facts.version,
            last_probe: facts.probed_at_ms.map(rfc3339),
            slots: view.slots,
            in_flight: view.in_flight,
            queue: view.waiting,
            completed: view.completed,
            failed: view.failed,
            models: view.models.iter().map(DiskModel::from).collect(),
            loaded: view.loaded.into_iter().map(loaded).collect(),
            loading: view.loading,
            loads: view.loads,
            tokens_per_second: view.tokens_per_second,
            last_error: view.last_error,
            same_engine_as: twins.into_iter().filter_map(name_of).collect(),
            maintenance: listed.and_then(|listed| listed.maintenance.clone()).map(MaintenanceRecord::from),
            settings: listed.map(|listed| listed.settings.clone().into()),
        }
    }
}

body_with_node_fields! {
    /// A node to be added. Files cannot be named here: a secret that is in one belongs to gateway.yaml.
    pub struct AddNode {
        /// `[A-Za-z0-9._-]{1,64}`, unique.
        #[schema(example = "gpu-3", pattern = "^[A-Za-z0-9._-]{1,64}$")]
        name: String,
        /// `http://HOST:PORT` or `https://HOST:PORT`; a path before the node's own may follow.
        #[schema(example = "http://10.0.0.7:11434")]
        url: String,
    }
}

body_with_node_fields! {
    /// What is to change of a node; what is absent stays, and null is the default.
    pub struct ChangeNode {
        /// Another address makes it another machine: what runs may end, and nothing is known of it. Its key, password and
        /// headers are forgotten unless they are given anew.
        url: Option<String>,
    }
}

/// A node that an operator did something with.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeDone {
    /// Its name.
    name: String,
    /// `added`, `changed`, `removed`, `draining` or `undrained`.
    done: &'static str,
}

pub(super) fn done(name: String, done: &'static str) -> NodeDone {
    tracing::info!(node = name, done, "an operator changed the nodes");
    NodeDone { name, done }
}

/// A node as it is now, for the audit log.
pub(super) fn shown(roster: &Roster, name: &str) -> Option<Value> {
    let listed = roster.list().remove(name)?;
    let maintenance = listed.maintenance.map(MaintenanceRecord::from);
    let (url, source) = (listed.settings.url, listed.source.as_str());
    Some(without_secrets(json!({"url": url, "source": source, "maintenance": maintenance})))
}

/// List nodes
///
/// State, load, models on disk and in memory, and the last error of each.
#[utoipa::path(
    get, path = "/admin/nodes", tag = "admin", security(("admin_key" = [])),
    responses((status = 200, body = NodeList), answers::AdminResponses),
)]
pub async fn list(
    _: Admin,
    lifecycle: Data<Lifecycle>,
    roster: Data<Roster>,
    fleet: Data<FleetContext>,
) -> Json<NodeList> {
    let listed = roster.list();
    let Sight { nodes, queued, scope, .. } = lifecycle.dispatcher.look(of_nodes()).await;
    let node = |view: NodeView| {
        let listed = listed.get(&view.name);
        Node::new(view, listed, &fleet, &lifecycle.names.get())
    };
    Json(NodeList { object: "list", data: nodes.into_iter().map(node).collect(), queued, scope: scope.label() })
}

fn of_nodes() -> Question {
    Question { nodes: true, ..Question::default() }
}

/// Read a node
#[utoipa::path(
    get, path = "/admin/nodes/{name}", tag = "admin", security(("admin_key" = [])),
    params(("name" = String, Path, description = "The node.")),
    responses((status = 200, body = Node), answers::AdminResponses, answers::NotFoundResponse),
)]
pub async fn retrieve(
    _: Admin,
    lifecycle: Data<Lifecycle>,
    roster: Data<Roster>,
    fleet: Data<FleetContext>,
    name: Path<String>,
) -> Result<Json<Node>, ApiError> {
    let listed = roster.list();
    let views = lifecycle.dispatcher.look(of_nodes()).await.nodes;
    let view = views.into_iter().find(|view| view.name == *name);
    let view = view.ok_or_else(|| ApiError::from(RosterError::Unknown(name.into_inner())))?;
    let listed = listed.get(&view.name);
    Ok(Json(Node::new(view, listed, &fleet, &lifecycle.names.get())))
}

/// Add a node
///
/// It is probed at once and gets requests as soon as it answers. It is kept in the database, for every gateway on it.
#[utoipa::path(
    post, path = "/admin/nodes", tag = "admin", security(("admin_key" = [])), request_body = AddNode,
    responses(
        (status = 201, body = NodeDone),
        (status = 409, description = "The name is taken.", body = answers::ErrorBody),
        answers::AdminResponses, answers::StorageResponse,
    ),
)]
pub async fn add(
    admin: Admin,
    roster: Data<Roster>,
    JsonObject(body): JsonObject<AddNode>,
) -> Result<impl Responder, ApiError> {
    let mut settings = NodeSettings::new(body.name.clone(), body.url.clone());
    body.apply(&mut settings);
    let name = settings.name.clone();
    admin.changes_from(&name, None);
    roster.add(settings).await?;
    Ok(HttpResponse::Created().json(done(name, "added")))
}

/// Change a node
///
/// One that was added by this API; those of gateway.yaml are changed there.
#[utoipa::path(
    patch, path = "/admin/nodes/{name}", tag = "admin", security(("admin_key" = [])), request_body = ChangeNode,
    params(("name" = String, Path, description = "The node.")),
    responses(
        (status = 200, body = NodeDone),
        (status = 409, description = "It is one of gateway.yaml, or was discovered.", body = answers::ErrorBody),
        answers::AdminResponses, answers::NotFoundResponse, answers::StorageResponse,
    ),
)]
pub async fn change(
    admin: Admin,
    roster: Data<Roster>,
    name: Path<String>,
    JsonObject(body): JsonObject<ChangeNode>,
) -> Result<Json<NodeDone>, ApiError> {
    let change = |settings: &mut NodeSettings| {
        if let Some(url) = body.url.clone() {
            if origin(&url) != origin(&settings.url) {
                // What is secret was given to the machine before; another one must not be sent it unasked.
                (settings.api_key, settings.username, settings.password) = (None, None, None);
                settings.headers.clear();
            }
            settings.url = url;
        }
        body.apply(settings);
    };
    admin.changes_from(&name, shown(&roster, &name));
    roster.change(&name, change).await?;
    Ok(Json(done(name.into_inner(), "changed")))
}

/// Scheme, host and port.
fn origin(url: &str) -> Option<(Scheme, Authority)> {
    let parts = url.parse::<Uri>().ok()?.into_parts();
    Some((parts.scheme?, parts.authority?))
}

/// Remove a node
///
/// One that was added by this API. It gets no further requests; what runs there may end.
#[utoipa::path(
    delete, path = "/admin/nodes/{name}", tag = "admin", security(("admin_key" = [])),
    params(("name" = String, Path, description = "The node.")),
    responses(
        (status = 200, body = NodeDone),
        (status = 409, description = "It is one of gateway.yaml, or was discovered.", body = answers::ErrorBody),
        answers::AdminResponses, answers::NotFoundResponse, answers::StorageResponse,
    ),
)]
pub async fn remove(admin: Admin, roster: Data<Roster>, name: Path<String>) -> Result<Json<NodeDone>, ApiError> {
    admin.changes(&name, shown(&roster, &name), None);
    roster.remove(&name).await?;
    Ok(Json(done(name.into_inner(), "removed")))
}
