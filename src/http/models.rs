//! Which models are there? The union over all nodes, as they last reported; no node is asked.
use actix_web::web::{Data, Json, Path};
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::Caller;
use super::error::ApiError;
use super::live::Live;
use super::names::{Meaning, ModelNames, find_listed};
use crate::fleet::FleetContext;
use scheduler::Model;

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
/// The models of all nodes and their aliases, as far as the key may use them.
#[utoipa::path(
    get, path = "/v1/models", tag = "inference", security(("user_key" = [])),
    responses((status = 200, body = ModelList), super::answers::AuthResponses),
)]
pub async fn list(fleet: Data<FleetContext>, names: Data<Live<ModelNames>>, Caller(access): Caller) -> Json<ModelList> {
    let (names, allowed) = (names.get(), access.allowed_models());
    let data = fleet.dispatcher.read(|scheduler| {
        let may = |model: &&Model| allowed.iter().all(|allowed| allowed.allow(&model.name));
        let listed = scheduler.models().into_iter().filter(may).map(ModelObject::from);
        let aliases = names.listed_aliases(&allowed, scheduler).into_iter();
        let renamed = aliases.filter_map(|(alias, listed)| {
            let model = scheduler.find_model(&listed)?;
            Some(ModelObject { id: alias, ..model.into() })
        });
        listed.chain(renamed).collect()
    });
    Json(ModelList { object: "list", data })
}

/// Retrieve a model
///
/// A name without a tag means `:latest`.
#[utoipa::path(
    get, path = "/v1/models/{id}", tag = "inference", security(("user_key" = [])),
    params(("id" = String, Path, description = "A model's name; it may hold `:` and `/`.", example = "llama3.2")),
    responses(
        (status = 200, body = ModelObject),
        (status = 403, description = "The key is not for this model.", body = super::answers::ErrorBody),
        super::answers::AuthResponses, super::answers::NotFoundResponse,
    ),
)]
pub async fn retrieve(
    fleet: Data<FleetContext>,
    names: Data<Live<ModelNames>>,
    Caller(access): Caller,
    id: Path<String>,
) -> Result<Json<ModelObject>, ApiError> {
    let (names, allowed) = (names.get(), access.allowed_models());
    let is_alias = names.alias_of(&id).is_some();
    fleet.dispatcher.read(|scheduler| {
        let unknown = || ApiError::unknown_model(&id);
        // A fallback does not describe the model that it is used for.
        if !is_alias && find_listed(&id, scheduler).is_none() {
            return Err(unknown());
        }
        match names.resolve(&id, &allowed, scheduler) {
            Meaning::Model(found) => {
                let model: ModelObject = scheduler.find_model(&found.listed).ok_or_else(unknown)?.into();
                Ok(Json(if is_alias { ModelObject { id: id.to_string(), ..model } } else { model }))
            }
            Meaning::Forbidden => Err(ApiError::model_not_allowed(&id)),
            Meaning::Unknown => Err(unknown()),
        }
    })
}
