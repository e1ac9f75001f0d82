//! The routes of Ollama's own API that run no model: lists over the whole fleet, and a refusal of what only the operator
//! may do.
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::web::{Bytes, Data, Json};
use serde_json::{Map, Value, json};

use super::answers;
use super::auth::{Anybody, Caller};
use super::body::FullBody;
use super::error::ApiError;
use super::error_kind;
use super::live::Live;
use super::names::ModelNames;
use super::serve::Inference;
use crate::fleet::FleetContext;
use crate::store::Access;
use protocol::repaired;

/// The fields of `/api/show` that users see: not the operator's system prompt, template, parameters or licence.
const SHOWN: [&str; 5] = ["details", "model_info", "projector_info", "capabilities", "modified_at"];
/// The version to report until a node has reported one: that of the Ollama whose API the gateway follows.
const ASSUMED_VERSION: &str = "0.33.0";
const SHOW_PATIENCE: Duration = Duration::from_secs(10);

/// List models (Ollama)
///
/// The models of all nodes, as the nodes list them, and their aliases, as far as the key may use them.
#[utoipa::path(
    get, path = "/api/tags", tag = "inference", security(("user_key" = [])),
    responses((status = 200, body = serde_json::Value), answers::OllamaAuthResponses),
)]
pub async fn tags(fleet: Data<FleetContext>, names: Data<Live<ModelNames>>, Caller(access): Caller) -> Json<Value> {
    let all = fleet.catalog.tags();
    let mut models: Vec<Value> = all.iter().filter(|model| may_see(&access, model)).cloned().collect();
    let allowed = access.allowed_models();
    let names = names.get();
    let aliases = fleet.dispatcher.read(|scheduler| names.listed_aliases(&allowed, scheduler));
    for (alias, listed) in aliases {
        models.extend(all.iter().find(|model| model["name"] == *listed).map(|model| with_name(model, &alias)));
    }
    Json(json!({ "models": models }))
}

fn may_see(access: &Access, model: &Value) -> bool {
    access.allowed_models().iter().all(|allowed| model["name"].as_str().is_some_and(|name| allowed.allow(name)))
}

fn with_name(model: &Value, name: &str) -> Value {
    let mut model = model.clone();
    for key in ["name", "model"] {
        if model.get(key).is_some() {
            model[key] = name.into();
        }
    }
    model
}

/// List loaded models (Ollama)
///
/// The models in the memory of any node, as far as the key may use them.
#[utoipa::path(
    get, path = "/api/ps", tag = "inference", security(("user_key" = [])),
    responses((status = 200, body = serde_json::Value), answers::OllamaAuthResponses),
)]
pub async fn ps(fleet: Data<FleetContext>, Caller(access): Caller) -> Json<Value> {
    let mut models = fleet.catalog.loaded();
    models.retain(|model| may_see(&access, model));
    Json(json!({ "models": models }))
}

/// Version (Ollama)
///
/// The oldest version among the nodes. It needs no key, because clients ask for it first. A wrong key is refused,
/// because some applications check their connection with this path alone.
#[utoipa::path(
    get, path = "/api/version", tag = "inference",
    responses((status = 200, body = serde_json::Value), answers::OllamaAuthResponses),
)]
pub async fn version(fleet: Data<FleetContext>, _: Anybody) -> Json<Value> {
    Json(json!({ "version": fleet.catalog.version().unwrap_or_else(|| ASSUMED_VERSION.to_owned()) }))
}

/// Status (Ollama)
///
/// Ollama's cloud is not used.
#[utoipa::path(
    get, path = "/api/status", tag = "inference",
    responses((status = 200, body = serde_json::Value), answers::OllamaAuthResponses),
)]
pub async fn status(_: Anybody) -> Json<Value> {
    Json(json!({ "cloud": { "disabled": true, "source": "config" } }))
}

/// Show a model (Ollama)
///
/// Details and capabilities; the operator's prompt, template and parameters are left out.
#[utoipa::path(
    post, path = "/api/show", tag = "inference", security(("user_key" = [])),
    request_body(content = ref("#/components/schemas/Show"), example = json!({"model": "llama3.2"})),
    responses((status = 200, body = serde_json::Value), answers::OllamaErrors),
)]
pub async fn show(
    inference: Data<Inference>,
    fleet: Data<FleetContext>,
    Caller(access): Caller,
    body: FullBody,
) -> Result<HttpResponse, ApiError> {
    let asked: Map<String, Value> =
        serde_json::from_slice(&repaired(body.0)?).map_err(|_| ApiError::invalid("the body is not a JSON object"))?;
    // Older clients send `name`, and some send an empty string in the field that they do not use.
    let said = |key: &&str| asked.get(*key).and_then(Value::as_str).filter(|model| !model.is_empty());
    let model = ["model", "name"].iter().find_map(said);
    let model = model.ok_or_else(|| ApiError::invalid_field("model", "`model` is missing"))?;
    let model = inference.resolve(model, &access)?.name;
    let request = Bytes::from(json!({ "model": &*model }).to_string());
    for node in fleet.dispatcher.read(|scheduler| scheduler.live_with(&model)) {
        let Some(node) = fleet.nodes.get(node) else { continue };
        let asking = inference.upstream.show(&node, request.clone());
        match tokio::time::timeout(SHOW_PATIENCE, asking).await {
            Ok(Ok(said)) => return Ok(HttpResponse::Ok().json(filtered(&said)?)),
            Ok(Err(error)) => tracing::warn!(node = &*node.name, error, "the node could not show a model"),
            Err(_) => tracing::warn!(node = &*node.name, "the node did not show a model in time"),
        }
    }
    let message = "No node that has the model is up at the moment. Please try again in 5s.";
    Err(ApiError::unavailable(&error_kind::NO_NODE, message, Duration::from_secs(5)))
}

fn filtered(said: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let said: Map<String, Value> =
        serde_json::from_slice(said).map_err(|_| ApiError::internal("The node's answer is not a JSON object."))?;
    Ok(said.into_iter().filter(|(key, _)| SHOWN.contains(&key.as_str())).collect())
}

/// Refuses the routes that would change models for everybody.
pub async fn managed(_: Caller) -> Result<HttpResponse, ApiError> {
    Err(ApiError::forbidden("Models are managed by the operator of this service; ask them for what you need."))
}
