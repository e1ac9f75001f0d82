//! The errors that many routes share, in each dialect, as the OpenAPI document describes them.
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

/// An error, in OpenAI's words.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// For people: what went wrong, and what to do next.
    #[schema(example = "Incorrect API key. Ask the operator of this service for a key.")]
    message: String,
    /// The class of errors that it belongs to.
    #[schema(example = "authentication_error")]
    r#type: String,
    /// The field of the request that is wrong; null if no single field is.
    param: Option<String>,
    /// For programs: what exactly went wrong. Null if `param` or the status says it all.
    #[schema(example = "invalid_api_key")]
    code: Option<String>,
}

/// An error, in Ollama's words.
#[derive(Debug, Serialize, ToSchema)]
pub struct OllamaErrorBody {
    /// For people: what went wrong, and what to do next.
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
    /// The class of errors that it belongs to.
    #[schema(example = "overloaded_error")]
    r#type: String,
    /// For people: what went wrong, and what to do next.
    message: String,
}

/// The errors of a route of Ollama's own API that runs no model.
#[derive(Debug, IntoResponses)]
pub enum OllamaAuthResponses {
    /// Bad input, such as two different keys.
    #[response(status = 400)]
    Invalid(OllamaErrorBody),
    /// No key, or an unknown one.
    #[response(status = 401)]
    Unauthorized(OllamaErrorBody),
    /// The user is suspended.
    #[response(status = 403)]
    Suspended(OllamaErrorBody),
    /// Too many wrong keys came from the caller's network.
    #[response(status = 429)]
    Guessed(OllamaErrorBody),
}

/// The errors of every route that takes a user's key.
#[derive(Debug, IntoResponses)]
pub enum AuthResponses {
    /// Bad input, such as two different keys.
    #[response(status = 400)]
    Invalid(ErrorBody),
    /// No key, or an unknown one.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// The user is suspended.
    #[response(status = 403)]
    Suspended(ErrorBody),
    /// Too many wrong keys came from the caller's network.
    #[response(status = 429)]
    Guessed(ErrorBody),
}

/// The errors of every admin route.
#[derive(Debug, IntoResponses)]
pub enum AdminResponses {
    /// Bad input.
    #[response(status = 400)]
    Invalid(ErrorBody),
    /// No key, or an unknown one.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// A user's key, or a role that does not suffice.
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// Too many wrong keys came from the caller's network.
    #[response(status = 429)]
    Guessed(ErrorBody),
}

/// The thing that the path names does not exist.
#[derive(Debug, IntoResponses)]
#[response(status = 404, description = "It does not exist.")]
#[expect(dead_code, reason = "only described, never made")]
pub struct NotFoundResponse(ErrorBody);

/// The database is away.
#[derive(Debug, IntoResponses)]
#[response(status = 503, description = "The database is not available; `Retry-After` says when to try again.")]
#[expect(dead_code, reason = "only described, never made")]
pub struct StorageResponse(ErrorBody);

/// Declares the errors of a route that makes a node work, in the format of one dialect.
macro_rules! inference_errors {
    ($name:ident, $body:ty, $dialect:literal) => {
        #[doc = concat!("The errors of a route that makes a node work, in ", $dialect, " format.")]
        #[derive(Debug, IntoResponses)]
        pub enum $name {
            /// Not a request that a node could answer, or one that the node refused.
            #[response(status = 400)]
            Invalid($body),
            /// No key, or an unknown one.
            #[response(status = 401)]
            Unauthorized($body),
            /// The key is not for this model, the user is suspended, or the request was stopped.
            #[response(status = 403)]
            Forbidden($body),
            /// No node has the model.
            #[response(status = 404)]
            UnknownModel($body),
            /// The body did not arrive in time.
            #[response(status = 408)]
            TooSlow($body),
            /// The body is too large.
            #[response(status = 413)]
            TooLarge($body),
            /// The body is in a coding other than gzip or zstd.
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
