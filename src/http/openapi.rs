//! The OpenAPI document: every route, both kinds of key, every error.
use std::collections::BTreeMap;

use utoipa::openapi::schema::{Schema, SchemaType, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Content, RefOr, Required};
use utoipa::{Modify, OpenApi};

use super::answers::{AnthropicErrorBody, ErrorBody, OllamaErrorBody};
use super::cookies::SESSION_COOKIE;
use super::events::{ChangeRecord, EndRecord, LiveFleet, LiveSnapshot};
use super::{admin, inference, me, models, native, ops, own_keys, sign_in, usage};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "ollama-gateway",
        description = "One fair, metered, OpenAI-compatible service over several Ollama nodes.",
        contact(),
    ),
    tags(
        (name = "inference", description = "OpenAI's API, with a user's key."),
        (name = "usage", description = "What one has used, with a user's key."),
        (name = "admin", description = "Users, limits and nodes, with an administrator's key."),
        (name = "console", description = "Signing in with a browser."),
        (name = "operations", description = "Health and metrics, without a key."),
    ),
    paths(
        inference::chat_completions,
        inference::completions,
        inference::embeddings,
        inference::responses,
        inference::messages,
        inference::count_tokens,
        inference::chat,
        inference::generate,
        inference::embed,
        inference::embed_one,
        native::tags,
        native::ps,
        native::version,
        native::status,
        native::show,
        models::list,
        models::retrieve,
        usage::own_rows,
        usage::own_summary,
        me::retrieve,
        me::requests,
        own_keys::list,
        own_keys::create,
        own_keys::revoke,
        me::stop,
        admin::users::create,
        admin::user_list::list,
        admin::users::retrieve,
        admin::users::change,
        admin::users::delete,
        admin::users::usage,
        admin::usage::report,
        admin::keys::create,
        admin::keys::list,
        admin::keys::change,
        admin::keys::revoke,
        admin::keys::rotate,
        admin::limits::retrieve,
        admin::limits::change,
        admin::groups::create,
        admin::groups::list,
        admin::groups::retrieve,
        admin::groups::change,
        admin::groups::delete,
        admin::nodes::list,
        admin::events::listen,
        admin::series::retrieve,
        admin::queue::list,
        admin::story::explain,
        admin::requests::list,
        admin::requests::stop,
        admin::nodes::add,
        admin::nodes::retrieve,
        admin::nodes::change,
        admin::nodes::remove,
        admin::drain::drain,
        admin::drain::undrain,
        admin::models::list,
        admin::models::pull,
        admin::models::load,
        admin::models::unload,
        admin::models::delete,
        admin::reload::reload,
        admin::admins::create,
        admin::admins::list,
        admin::admins::retrieve,
        admin::admins::change,
        admin::admins::delete,
        admin::admins::rotate,
        admin::audit::list,
        sign_in::begin,
        sign_in::retrieve,
        sign_in::end,
        ops::root,
        ops::health,
        ops::live,
        ops::ready,
        ops::metrics,
    ),
    components(schemas(
        ErrorBody, OllamaErrorBody, AnthropicErrorBody, LiveSnapshot, LiveFleet, ChangeRecord, EndRecord
    )),
    modifiers(&Keys, &Requests),
)]
struct Document;

/// Bodies of requests to a node, which are never read into types of our own, so that fields that the gateway does not
/// know pass through.
const REQUESTS: &str = include_str!("requests.json");

struct Requests;

impl Modify for Requests {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let schemas: BTreeMap<String, RefOr<Schema>> =
            serde_json::from_str(REQUESTS).expect("the file holds a schema for each name");
        document.components.get_or_insert_default().schemas.extend(schemas);
        let operations = document.paths.paths.values_mut().filter_map(|path| path.post.as_mut());
        for body in operations.filter_map(|operation| operation.request_body.as_mut()) {
            let RefOr::T(body) = body else { continue };
            // utoipa describes a body that may be absent as one that may be `null`.
            let may_be_absent = body.content.values_mut().filter_map(schema_of).any(unwrap_optional);
            if may_be_absent {
                body.required = Some(Required::False);
            }
            // It knows this of a type, but not of a reference.
            body.required.get_or_insert(Required::True);
        }
    }
}

fn schema_of(content: &mut RefOr<Content>) -> Option<&mut RefOr<Schema>> {
    let RefOr::T(content) = content else { return None };
    content.schema.as_mut()
}

/// Puts the schema of `T` in the place of that of `Option<T>`. Whether it was one.
fn unwrap_optional(schema: &mut RefOr<Schema>) -> bool {
    let RefOr::T(Schema::OneOf(choice)) = schema else { return false };
    let [value, RefOr::T(Schema::Object(other))] = choice.items.as_slice() else { return false };
    if other.schema_type != SchemaType::Type(Type::Null) {
        return false;
    }
    *schema = value.clone();
    true
}

struct Keys;

impl Modify for Keys {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        for key in ["user_key", "admin_key"] {
            components.add_security_scheme(key, SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
        }
        let cookie = SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(SESSION_COOKIE)));
        components.add_security_scheme("session", cookie);
    }
}

/// The whole document.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}
