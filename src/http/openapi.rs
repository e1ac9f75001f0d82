//! The OpenAPI document: every route, both kinds of key, every error.
use serde::Serialize;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{IntoResponses, Modify, OpenApi, ToSchema};

use super::{admin, inference, models, native, ops, usage};

/// An error, in OpenAI's words.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// For people; says what to do next.
    #[schema(example = "Incorrect API key. Ask the operator of this service for a key.")]
    message: String,
    /// The family.
    #[schema(example = "authentication_error")]
    r#type: String,
    /// The field of the request that is wrong, if it is one.
    param: Option<String>,
    /// For programs.
    #[schema(example = "invalid_api_key")]
    code: Option<String>,
}

/// An error, in Ollama's words.
#[derive(Debug, Serialize, ToSchema)]
pub struct OllamaErrorBody {
    /// For people; says what to do next.
    error: String,
}

/// An error, in Anthropic's words.
#[derive(Debug, Serialize, ToSchema)]
pub struct AnthropicErrorBody {
    /// Always `error`.
    r#type: String,
    /// The error.
    error: AnthropicErrorDetail,
}

/// What went wrong, in Anthropic's words.
#[derive(Debug, Serialize, ToSchema)]
pub struct AnthropicErrorDetail {
    /// The family.
    #[schema(example = "overloaded_error")]
    r#type: String,
    /// For people; says what to do next.
    message: String,
}

/// What a route of Ollama's own API may answer where no node has to work.
#[derive(Debug, IntoResponses)]
pub enum OllamaAuthResponses {
    /// Bad input, such as two different keys.
    #[response(status = 400)]
    Invalid(OllamaErrorBody),
    /// No key, or an unknown one.
    #[response(status = 401)]
    Unauthorized(OllamaErrorBody),
    /// Too many wrong keys came from the caller's network.
    #[response(status = 429)]
    Guessed(OllamaErrorBody),
}

/// What every route with a user's key may answer.
#[derive(Debug, IntoResponses)]
pub enum AuthResponses {
    /// Bad input, such as two different keys.
    #[response(status = 400)]
    Invalid(ErrorBody),
    /// No key, or an unknown one.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// Too many wrong keys came from the caller's network.
    #[response(status = 429)]
    Guessed(ErrorBody),
}

/// What every admin route may answer.
#[derive(Debug, IntoResponses)]
pub enum AdminResponses {
    /// Bad input.
    #[response(status = 400)]
    Invalid(ErrorBody),
    /// No key, or an unknown one.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// A user's key.
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// Too many wrong keys came from the caller's network.
    #[response(status = 429)]
    Guessed(ErrorBody),
}

/// What is named in the path is not there.
#[derive(Debug, IntoResponses)]
#[response(status = 404, description = "It does not exist.")]
#[expect(dead_code, reason = "only described, never made")]
pub struct NotFoundResponse(ErrorBody);

/// The database is away.
#[derive(Debug, IntoResponses)]
#[response(status = 503, description = "The database is not available; `Retry-After` says when to try again.")]
#[expect(dead_code, reason = "only described, never made")]
pub struct StorageResponse(ErrorBody);

/// The errors of a route that makes a node work, in one dialect's words.
macro_rules! inference_errors {
    ($name:ident, $body:ty, $dialect:literal) => {
        #[doc = concat!("What a route that makes a node work may answer instead of an answer, in ", $dialect, " words.")]
        #[derive(Debug, IntoResponses)]
        pub enum $name {
            /// Not a request that a node could answer, or one that the node refused.
            #[response(status = 400)]
            Invalid($body),
            /// No key, or an unknown one.
            #[response(status = 401)]
            Unauthorized($body),
            /// No node has the model.
            #[response(status = 404)]
            UnknownModel($body),
            /// The body did not arrive in time.
            #[response(status = 408)]
            TooSlow($body),
            /// The body is too large.
            #[response(status = 413)]
            TooLarge($body),
            /// The body is compressed.
            #[response(status = 415)]
            Encoded($body),
            /// A limit of the user, or the user's share of the queue. `Retry-After` says when to come back.
            #[response(status = 429)]
            Limited($body),
            /// No node gave a whole answer.
            #[response(status = 502)]
            Upstream($body),
            /// Overloaded, no node up, or shutting down. `Retry-After` says when to come back.
            #[response(status = 503)]
            Unavailable($body),
            /// No first byte in time.
            #[response(status = 504)]
            Timeout($body),
        }
    };
}

inference_errors!(OpenAiErrors, ErrorBody, "OpenAI's");
inference_errors!(OllamaErrors, OllamaErrorBody, "Ollama's");
inference_errors!(AnthropicErrors, AnthropicErrorBody, "Anthropic's");

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
        (name = "admin", description = "Users, limits and nodes, with the admin key."),
        (name = "operations", description = "Health and metrics, without a key."),
    ),
    paths(
        inference::chat_completions,
        inference::completions,
        inference::embeddings,
        inference::responses,
        inference::messages,
        inference::chat,
        inference::generate,
        inference::embed,
        inference::embed_one,
        native::tags,
        native::ps,
        native::version,
        native::show,
        models::list,
        models::retrieve,
        usage::own_rows,
        usage::own_summary,
        admin::users::create,
        admin::users::list,
        admin::users::retrieve,
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
        admin::nodes::list,
        admin::queue::list,
        admin::queue::explain,
        admin::nodes::add,
        admin::nodes::retrieve,
        admin::nodes::change,
        admin::nodes::remove,
        admin::nodes::drain,
        admin::nodes::undrain,
        admin::models::list,
        admin::models::pull,
        admin::models::load,
        admin::models::unload,
        admin::models::delete,
        admin::reload::reload,
        ops::root,
        ops::health,
        ops::live,
        ops::ready,
        ops::metrics,
    ),
    components(schemas(ErrorBody, OllamaErrorBody, AnthropicErrorBody)),
    modifiers(&Keys),
)]
struct Document;

struct Keys;

impl Modify for Keys {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        for key in ["user_key", "admin_key"] {
            components.add_security_scheme(key, SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
        }
    }
}

/// The whole document.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}
