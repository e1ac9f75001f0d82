//! Models over the fleet: which node has which, and what operators do about it.
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::web::{Bytes, Data, Json, Path, Query};
use actix_web::{HttpResponse, Responder};
use futures_util::future::join_all;
use futures_util::stream::{self, LocalBoxStream, SelectAll, Stream, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use crate::fleet::{FleetContext, NodeEndpoint, Progress, Roster, RosterError, Upstream};
use crate::http::answers;
use crate::http::auth::Admin;
use crate::http::body::JsonObject;
use crate::http::error::ApiError;
use crate::relay::RelaySettings;
use scheduler::{NodeId, NodeView};

/// Between two signs of life of a pull that says nothing.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const MAX_NAME: usize = 256;

/// Every model of the fleet.
#[derive(Debug, Serialize, ToSchema)]
pub struct FleetModels {
    /// Always `list`.
    object: &'static str,
    /// By name.
    data: Vec<FleetModel>,
}

/// A model and the nodes that have it.
#[derive(Debug, Serialize, ToSchema)]
pub struct FleetModel {
    /// As the nodes list it.
    name: String,
    /// Whether nodes have different content under this name.
    drift: bool,
    /// Those that have it on disk, in the order in which they joined.
    nodes: Vec<ModelOnNode>,
}

/// A model on one node.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelOnNode {
    /// Which node.
    node: String,
    /// Of the manifest; drift is a difference here.
    digest: String,
    /// Bytes on disk.
    size_bytes: u64,
    /// Whether it is in memory.
    loaded: bool,
}

/// A model, and on which nodes to do it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelOrder {
    /// The model's name.
    #[schema(example = "llama3.2")]
    model: String,
    /// Names of nodes; absent = all nodes for a pull, else those that have the model.
    nodes: Option<Vec<String>>,
}

/// On which nodes to do it.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct NodesQuery {
    /// Names of nodes, by commas; absent = those that have the model.
    nodes: Option<String>,
}

/// What became of it on each node.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelDone {
    /// The model's name.
    model: String,
    /// Each node that was asked.
    nodes: Vec<DoneOnNode>,
}

/// What became of it on one node.
#[derive(Debug, Serialize, ToSchema)]
pub struct DoneOnNode {
    /// Which node.
    node: String,
    /// Whether it is done.
    done: bool,
    /// Why not.
    error: Option<String>,
}

/// A node that is asked.
struct Target {
    name: String,
    id: NodeId,
    endpoint: Arc<NodeEndpoint>,
}

/// List models by node
///
/// Which node has which model, with its digest; `drift` where they differ.
#[utoipa::path(
    get, path = "/admin/models", tag = "admin", security(("admin_key" = [])),
    responses((status = 200, body = FleetModels), answers::AdminResponses),
)]
pub async fn list(_: Admin, fleet: Data<FleetContext>) -> Json<FleetModels> {
    Json(FleetModels { object: "list", data: table(fleet.dispatcher.nodes()) })
}

fn table(nodes: Vec<NodeView>) -> Vec<FleetModel> {
    let mut models: BTreeMap<String, Vec<ModelOnNode>> = BTreeMap::new();
    for node in nodes {
        for model in node.models.iter() {
            let loaded = node.loaded.iter().any(|loaded| loaded.name == model.name);
            let on_node = ModelOnNode {
                node: node.name.clone(),
                digest: model.digest.clone(),
                size_bytes: model.size_bytes,
                loaded,
            };
            models.entry(model.name.clone()).or_default().push(on_node);
        }
    }
    let row = |(name, nodes): (String, Vec<ModelOnNode>)| {
        let digests: BTreeSet<&str> = nodes.iter().map(|node| node.digest.as_str()).collect();
        FleetModel { name, drift: digests.len() > 1, nodes }
    };
    models.into_iter().map(row).collect()
}

/// Pull a model
///
/// To the nodes that are named, or all. The answer is a stream of server-sent events: each node's progress in Ollama's words
/// with `node` beside it, its `error` if it fails, and at the end `done` with the names of those that succeeded and failed.
/// A client that hangs up ends the pull; what has come stays, and another pull goes on from there.
#[utoipa::path(
    post, path = "/admin/models/pull", tag = "admin", security(("admin_key" = [])), request_body = ModelOrder,
    responses(
        (status = 200, description = "Events, as they come.",
            content((serde_json::Value = "text/event-stream"))),
        answers::AdminResponses, answers::NotFoundResponse,
    ),
)]
pub async fn pull(
    admin: Admin,
    fleet: Data<FleetContext>,
    upstream: Data<Upstream>,
    roster: Data<Roster>,
    JsonObject(order): JsonObject<ModelOrder>,
) -> Result<impl Responder, ApiError> {
    let targets = targets(&fleet, &roster, &order.model, order.nodes.as_deref(), false)?;
    // Into the audit log before anything happens: the process may die on the way.
    admin.begins(&order.model, None).await?;
    tracing::info!(model = order.model, nodes = targets.len(), "an operator pulls a model");
    let mut pulls: SelectAll<LocalBoxStream<'static, Event>> = SelectAll::new();
    for target in targets {
        let pulling = upstream.pull(target.endpoint, &order.model);
        let (catalog, name, id) = (fleet.catalog.clone(), target.name, target.id);
        let event = move |progress: Result<Progress, String>| {
            if progress.as_ref().is_ok_and(Progress::is_success) {
                // So that the new model is usable soon, not only after the next interval.
                catalog.expect_change(id);
            }
            (name.clone(), progress)
        };
        pulls.push(pulling.map(event).boxed_local());
    }
    let mut response = HttpResponse::Ok();
    response.insert_header((CONTENT_TYPE, "text/event-stream; charset=utf-8"));
    response.insert_header((CACHE_CONTROL, "no-cache")).insert_header(("x-accel-buffering", "no"));
    Ok(response.streaming(events(pulls)))
}

type Event = (String, Result<Progress, String>);

/// The events of all nodes as they come, keep-alives, and the sum.
fn events(pulls: SelectAll<LocalBoxStream<'static, Event>>) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let start = Some((pulls, Vec::new(), Vec::new()));
    stream::unfold(start, |state| async move {
        let (mut pulls, mut succeeded, mut failed) = state?;
        let text = match tokio::time::timeout(KEEP_ALIVE, pulls.next()).await {
            Err(_) => ": keep-alive\n\n".to_owned(),
            Ok(None) => {
                let sum = json!({"done": true, "succeeded": succeeded, "failed": failed});
                return Some((Ok(Bytes::from(format!("data: {sum}\n\n"))), None));
            }
            Ok(Some((node, Ok(progress)))) => {
                if progress.is_success() {
                    succeeded.push(node.clone());
                }
                event(&node, &progress)
            }
            Ok(Some((node, Err(error)))) => {
                failed.push(node.clone());
                event(&node, &json!({ "error": error }))
            }
        };
        Some((Ok(Bytes::from(text)), Some((pulls, succeeded, failed))))
    })
}

fn event(node: &str, said: &impl Serialize) -> String {
    let mut said = json!(said);
    said["node"] = node.into();
    format!("data: {said}\n\n")
}

/// Delete a model
///
/// From the disks of the nodes that are named, or of all that have it. 502 where not all of them did.
#[utoipa::path(
    delete, path = "/admin/models/{model}", tag = "admin", security(("admin_key" = [])),
    params(("model" = String, Path, description = "The model's name; it may hold `:` and `/`."), NodesQuery),
    responses(
        (status = 200, body = ModelDone),
        (status = 502, description = "At least one node failed.", body = ModelDone),
        answers::AdminResponses, answers::NotFoundResponse,
    ),
)]
pub async fn delete(
    admin: Admin,
    fleet: Data<FleetContext>,
    upstream: Data<Upstream>,
    roster: Data<Roster>,
    model: Path<String>,
    query: Query<NodesQuery>,
) -> Result<HttpResponse, ApiError> {
    let nodes: Option<Vec<String>> =
        query.nodes.as_ref().map(|nodes| nodes.split(',').map(|node| node.trim().to_owned()).collect());
    let targets = targets(&fleet, &roster, &model, nodes.as_deref(), true)?;
    admin.begins(&model, Some(json!({ "nodes": nodes }))).await?;
    let act = async |target: &Target| upstream.delete_model(&target.endpoint, &model).await;
    Ok(answer(&fleet, &model, "deleted", targets, act).await)
}

/// Load a model
///
/// Into the memory of the nodes that are named, or of all that have it; as the node's own keep-alive says, or until a
/// request for another model needs the room. 502 where not all of them did.
#[utoipa::path(
    post, path = "/admin/models/load", tag = "admin", security(("admin_key" = [])), request_body = ModelOrder,
    responses(
        (status = 200, body = ModelDone),
        (status = 502, description = "At least one node failed.", body = ModelDone),
        answers::AdminResponses, answers::NotFoundResponse,
    ),
)]
pub async fn load(
    admin: Admin,
    fleet: Data<FleetContext>,
    upstream: Data<Upstream>,
    roster: Data<Roster>,
    relay: Data<RelaySettings>,
    JsonObject(order): JsonObject<ModelOrder>,
) -> Result<HttpResponse, ApiError> {
    set_loaded(&admin, &fleet, &upstream, &roster, relay.first_byte(), order, true).await
}

/// Unload a model
///
/// From the memory of the nodes that are named, or of all that have it. Requests that run may end. 502 where not all did.
#[utoipa::path(
    post, path = "/admin/models/unload", tag = "admin", security(("admin_key" = [])), request_body = ModelOrder,
    responses(
        (status = 200, body = ModelDone),
        (status = 502, description = "At least one node failed.", body = ModelDone),
        answers::AdminResponses, answers::NotFoundResponse,
    ),
)]
pub async fn unload(
    admin: Admin,
    fleet: Data<FleetContext>,
    upstream: Data<Upstream>,
    roster: Data<Roster>,
    relay: Data<RelaySettings>,
    JsonObject(order): JsonObject<ModelOrder>,
) -> Result<HttpResponse, ApiError> {
    set_loaded(&admin, &fleet, &upstream, &roster, relay.first_byte(), order, false).await
}

async fn set_loaded(
    admin: &Admin,
    fleet: &FleetContext,
    upstream: &Upstream,
    roster: &Roster,
    deadline: Duration,
    order: ModelOrder,
    is_wanted: bool,
) -> Result<HttpResponse, ApiError> {
    let targets = targets(fleet, roster, &order.model, order.nodes.as_deref(), true)?;
    let model = order.model.as_str();
    admin.begins(model, None).await?;
    let act = async |target: &Target| upstream.set_loaded(&target.endpoint, model, is_wanted, deadline).await;
    let done = if is_wanted { "loaded" } else { "unloaded" };
    Ok(answer(fleet, model, done, targets, act).await)
}

/// Does it on every node at once.
async fn answer(
    fleet: &FleetContext,
    model: &str,
    what: &'static str,
    targets: Vec<Target>,
    act: impl AsyncFn(&Target) -> Result<(), String>,
) -> HttpResponse {
    let act = &act;
    let results = join_all(targets.iter().map(async |target| act(target).await)).await;
    let nodes: Vec<DoneOnNode> = targets
        .into_iter()
        .zip(results)
        .map(|(target, result)| {
            // So that the node is listed again soon, not only at the next interval.
            fleet.catalog.expect_change(target.id);
            tracing::info!(
                node = target.name,
                model,
                what,
                error = result.as_ref().err(),
                "an operator changed a model"
            );
            DoneOnNode { node: target.name, done: result.is_ok(), error: result.err() }
        })
        .collect();
    let status = if nodes.iter().all(|node| node.done) { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
    HttpResponse::build(status).json(ModelDone { model: model.to_owned(), nodes })
}

/// The nodes that are named; else all, or those that have the model.
fn targets(
    fleet: &FleetContext,
    roster: &Roster,
    model: &str,
    names: Option<&[String]>,
    must_have: bool,
) -> Result<Vec<Target>, ApiError> {
    if model.is_empty() || model.len() > MAX_NAME || model.chars().any(char::is_control) {
        return Err(ApiError::invalid_field("model", format!("`model` must be 1 to {MAX_NAME} characters.")));
    }
    let listed = roster.list();
    let names: Vec<String> = match names {
        Some([]) => return Err(ApiError::invalid_field("nodes", "`nodes` names no node.")),
        Some(names) => names.to_vec(),
        None if must_have => {
            let having = fleet.dispatcher.read(|scheduler| scheduler.live_with(model));
            listed.iter().filter(|(_, node)| having.contains(&node.id)).map(|(name, _)| name.clone()).collect()
        }
        None => listed.keys().cloned().collect(),
    };
    if names.is_empty() && must_have {
        return Err(ApiError::unknown_model(model));
    }
    let target = |name: String| {
        let id = listed.get(&name).map(|node| node.id);
        let endpoint = id.and_then(|id| Some((id, fleet.nodes.get(id)?)));
        let (id, endpoint) = endpoint.ok_or_else(|| ApiError::from(RosterError::Unknown(name.clone())))?;
        Ok(Target { name, id, endpoint })
    };
    // A node that is named twice is asked once.
    let unique: BTreeSet<String> = names.into_iter().collect();
    unique.into_iter().map(target).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn the_sum_names_who_succeeded_and_who_failed() {
        let progress =
            |status: &str| Ok(Progress { status: status.to_owned(), digest: None, total: None, completed: None });
        let mut pulls: SelectAll<LocalBoxStream<'static, Event>> = SelectAll::new();
        let a = vec![("a".to_owned(), progress("pulling manifest")), ("a".to_owned(), progress("success"))];
        pulls.push(stream::iter(a).boxed_local());
        pulls.push(stream::iter(vec![("b".to_owned(), Err("no".to_owned()))]).boxed_local());
        let said: Vec<String> =
            events(pulls).map(|event| String::from_utf8(event.unwrap().to_vec()).unwrap()).collect().await;
        assert_eq!(said.len(), 4);
        assert_eq!(said[3], "data: {\"done\":true,\"failed\":[\"b\"],\"succeeded\":[\"a\"]}\n\n");
        assert!(said.contains(&"data: {\"error\":\"no\",\"node\":\"b\"}\n\n".to_owned()), "{said:?}");
    }
}
