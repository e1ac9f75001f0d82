//! Which models are there? The union over the nodes, from what they last said; no node is asked.
use actix_web::web::{Data, Json, Path};
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::Caller;
use super::error::ApiError;
use super::inference::Inference;
use crate::scheduler::Model;

/// A model in OpenAI's words.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelObject {
    /// The name, as the nodes give it.
    #[schema(example = "llama3.2:latest")]
    id: String,
    /// Always `model`.
    object: &'static str,
    /// When it was last changed, seconds since 1970.
    created: i64,
    /// Always `library`.
    owned_by: &'static str,
}

/// A list of models, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// Always `list`.
    object: &'static str,
    /// Never null.
    data: Vec<ModelObject>,
}

impl From<&Model> for ModelObject {
    fn from(model: &Model) -> Self {
        Self { id: model.name.clone(), object: "model", created: model.modified_unix, owned_by: "library" }
    }
}

/// List models
///
/// The models of all nodes.
#[utoipa::path(
    get, path = "/v1/models", tag = "inference", security(("user_key" = [])),
    responses((status = 200, body = ModelList), super::openapi::AuthResponses),
)]
pub async fn list(inference: Data<Inference>, _: Caller) -> Json<ModelList> {
    let data =
        inference.relay.dispatcher.read(|scheduler| scheduler.models().into_iter().map(ModelObject::from).collect());
    Json(ModelList { object: "list", data })
}

/// Retrieve a model
///
/// A name without a tag means `:latest`.
#[utoipa::path(
    get, path = "/v1/models/{id}", tag = "inference", security(("user_key" = [])),
    params(("id" = String, Path, description = "A model's name; it may hold `:` and `/`.", example = "llama3.2")),
    responses((status = 200, body = ModelObject), super::openapi::AuthResponses, super::openapi::NotFoundResponse),
)]
pub async fn retrieve(inference: Data<Inference>, _: Caller, id: Path<String>) -> Result<Json<ModelObject>, ApiError> {
    let found = inference.relay.dispatcher.read(|scheduler| scheduler.find_model(&id).map(ModelObject::from));
    found.map(Json).ok_or_else(|| ApiError::unknown_model(&id))
}
