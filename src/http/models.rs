//! Which models are there? The union over the nodes, from what they last said; no node is asked.
use std::collections::BTreeMap;
use std::sync::Arc;

use actix_web::web::{Data, Json, Path};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::auth::Caller;
use super::error::ApiError;
use super::inference::Inference;
use crate::scheduler::{Model, Scheduler};

/// Other names for models.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelNames {
    /// Names that clients ask for, and the model that each means. Default none.
    pub aliases: BTreeMap<String, String>,
    /// Models to use instead, in order, where no node has the one that is asked for. Default none.
    pub fallbacks: BTreeMap<String, Vec<String>>,
    /// Tokens of context that models should be loaded with (`OLLAMA_CONTEXT_LENGTH` of the nodes). It is compared with what
    /// the nodes say and never sent: a difference is shown in `GET /admin/nodes` as `context_drift`. Default none.
    pub context_length: BTreeMap<String, u64>,
}

impl ModelNames {
    /// The model to use for `asked`, and the name under which a node lists it.
    pub fn resolve(&self, asked: &str, scheduler: &Scheduler) -> Option<Resolved> {
        let meant = self.aliases.get(asked).map_or(asked, String::as_str);
        let instead = self.fallbacks.get(meant).into_iter().flatten().map(String::as_str);
        let find = |name: &str| {
            let listed = scheduler.find_model(name)?.name.as_str().into();
            Some(Resolved { name: name.into(), listed })
        };
        std::iter::once(meant).chain(instead).find_map(find)
    }

    /// Tokens of context a model, as a node lists it, should be loaded with; with or without its tag.
    pub fn expected_context(&self, listed: &str) -> Option<u64> {
        let bare = listed.strip_suffix(":latest");
        self.context_length.get(listed).or_else(|| self.context_length.get(bare?)).copied()
    }

    /// The other names that mean a model some node lists, each with that model's own.
    pub fn listed_aliases(&self, scheduler: &Scheduler) -> Vec<(String, Arc<str>)> {
        let listed = |alias: &String| Some((alias.clone(), self.resolve(alias, scheduler)?.listed));
        self.aliases.keys().filter_map(listed).collect()
    }
}

/// A model that some node lists.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The name to ask a node for.
    pub name: Arc<str>,
    /// The name as a node lists it.
    pub listed: Arc<str>,
}

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
/// The models of all nodes, and the other names that the operator gave them.
#[utoipa::path(
    get, path = "/v1/models", tag = "inference", security(("user_key" = [])),
    responses((status = 200, body = ModelList), super::openapi::AuthResponses),
)]
pub async fn list(inference: Data<Inference>, _: Caller) -> Json<ModelList> {
    let names = &inference.names;
    let data = inference.relay.dispatcher.read(|scheduler| {
        let listed = scheduler.models().into_iter().map(ModelObject::from);
        let aliases = names.aliases.keys().filter_map(|alias| renamed(names, alias, scheduler));
        listed.chain(aliases).collect()
    });
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
    let names = &inference.names;
    let found = inference.relay.dispatcher.read(|scheduler| match names.aliases.contains_key(id.as_str()) {
        true => renamed(names, &id, scheduler),
        false => scheduler.find_model(&id).map(ModelObject::from),
    });
    found.map(Json).ok_or_else(|| ApiError::unknown_model(&id))
}

/// A model under another name that the operator gave it.
fn renamed(names: &ModelNames, alias: &str, scheduler: &Scheduler) -> Option<ModelObject> {
    let model = scheduler.find_model(&names.resolve(alias, scheduler)?.listed)?;
    Some(ModelObject { id: alias.to_owned(), ..model.into() })
}
