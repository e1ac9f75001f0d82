//! The routes that make a node work, as clients and the OpenAPI document see them.
use actix_web::HttpResponse;
use actix_web::web::Json;
use serde::Serialize;
use utoipa::ToSchema;

use super::answers;
use super::auth::Caller;
use super::call::Call;
use super::error::ApiError;
use protocol::Endpoint;

/// Chat completions
///
/// Passed to a node unchanged but for documented edits; any field that Ollama knows may be given. With `"stream": true`
/// the answer is a stream of server-sent events that ends with `data: [DONE]`.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "inference", security(("user_key" = [])),
    request_body(content = ref("#/components/schemas/Chat"), description = "As OpenAI's API takes it; `model` and `messages` are needed.",
        example = json!({"model": "llama3.2", "messages": [{"role": "user", "content": "Why is the sky blue?"}]})),
    responses(
        (status = 200, description = "The node's answer. `x-request-id`, `x-gateway-node`, `x-gateway-queue-ms`, \
            `x-gateway-attempts` and, for users with limits, `x-ratelimit-*` go along.",
            content((serde_json::Value = "application/json"), (serde_json::Value = "text/event-stream"))),
        answers::OpenAiErrors,
    ),
)]
pub async fn chat_completions(call: Call) -> Result<HttpResponse, ApiError> {
    call.serve(Endpoint::ChatCompletions).await
}

/// Completions
///
/// As OpenAI's older API takes it, for a `prompt` that is one string.
#[utoipa::path(
    post, path = "/v1/completions", tag = "inference", security(("user_key" = [])),
    request_body(content = ref("#/components/schemas/Completion"), description = "As OpenAI's API takes it; `model` and `prompt` are needed.",
        example = json!({"model": "llama3.2", "prompt": "Why is the sky blue?", "max_tokens": 50})),
    responses(
        (status = 200, description = "The node's answer. `x-request-id`, `x-gateway-node`, `x-gateway-queue-ms`, \
            `x-gateway-attempts` and, for users with limits, `x-ratelimit-*` go along.",
            content((serde_json::Value = "application/json"), (serde_json::Value = "text/event-stream"))),
        answers::OpenAiErrors,
    ),
)]
pub async fn completions(call: Call) -> Result<HttpResponse, ApiError> {
    call.serve(Endpoint::Completions).await
}

/// Embeddings
///
/// For an `input` that is a string or a list of strings.
#[utoipa::path(
    post, path = "/v1/embeddings", tag = "inference", security(("user_key" = [])),
    request_body(content = ref("#/components/schemas/Embedding"), description = "As OpenAI's API takes it; `model` and `input` are needed.",
        example = json!({"model": "all-minilm", "input": ["one", "two"]})),
    responses(
        (status = 200, description = "The node's answer.", body = serde_json::Value),
        answers::OpenAiErrors,
    ),
)]
pub async fn embeddings(call: Call) -> Result<HttpResponse, ApiError> {
    call.serve(Endpoint::Embeddings).await
}

/// Responses
///
/// OpenAI's newer API, as far as Ollama has it: without state.
#[utoipa::path(
    post, path = "/v1/responses", tag = "inference", security(("user_key" = [])),
    request_body(content = ref("#/components/schemas/Response"), description = "As OpenAI's API takes it; `model` and `input` are needed.",
        example = json!({"model": "llama3.2", "input": "Why is the sky blue?"})),
    responses(
        (status = 200, description = "The node's answer. `x-request-id`, `x-gateway-node`, `x-gateway-queue-ms`, \
            `x-gateway-attempts` and, for users with limits, `x-ratelimit-*` go along.",
            content((serde_json::Value = "application/json"), (serde_json::Value = "text/event-stream"))),
        answers::OpenAiErrors,
    ),
)]
pub async fn responses(call: Call) -> Result<HttpResponse, ApiError> {
    call.serve(Endpoint::Responses).await
}

/// Messages
///
/// Anthropic's API, with its own errors.
#[utoipa::path(
    post, path = "/v1/messages", tag = "inference", security(("user_key" = [])),
    request_body(content = ref("#/components/schemas/Message"), description = "As Anthropic's API takes it; `model`, `max_tokens` and `messages` are needed.",
        example = json!({"model": "llama3.2", "max_tokens": 50, "messages": [{"role": "user", "content": "Why is the sky blue?"}]})),
    responses(
        (status = 200, description = "The node's answer. `x-request-id`, `x-gateway-node`, `x-gateway-queue-ms`, \
            `x-gateway-attempts` and, for users with limits, `x-ratelimit-*` go along.",
            content((serde_json::Value = "application/json"), (serde_json::Value = "text/event-stream"))),
        answers::AnthropicErrors,
    ),
)]
pub async fn messages(call: Call) -> Result<HttpResponse, ApiError> {
    call.serve(Endpoint::Messages).await
}

/// Token counts (Anthropic)
///
/// Estimates the tokens of a message's prompt. No node is asked, and nothing is charged.
#[utoipa::path(
    post, path = "/v1/messages/count_tokens", tag = "inference", security(("user_key" = [])),
    request_body(content = ref("#/components/schemas/MessagePrompt"), description = "As for `/v1/messages`; `model` and `messages` are needed.",
        example = json!({"model": "llama3.2", "messages": [{"role": "user", "content": "Why is the sky blue?"}]})),
    responses((status = 200, description = "The estimate.", body = InputTokens), answers::AnthropicErrors),
)]
pub async fn count_tokens(call: Call) -> Result<Json<InputTokens>, ApiError> {
    let count = call.count_tokens().await?;
    Ok(Json(InputTokens { input_tokens: count.input_tokens }))
}

/// How long a prompt is.
#[derive(Debug, Serialize, ToSchema)]
pub struct InputTokens {
    /// Tokens, estimated from the length of the text.
    input_tokens: u64,
}

/// Chat (Ollama)
///
/// Ollama's own API. Streams unless `"stream": false`. `keep_alive`, `shift`, `template` and the options that reload a
/// model have no effect.
#[utoipa::path(
    post, path = "/api/chat", tag = "inference", security(("user_key" = [])),
    request_body(content = ref("#/components/schemas/OllamaChat"), description = "As Ollama's API takes it; `model` is needed.",
        example = json!({"model": "llama3.2", "messages": [{"role": "user", "content": "Why is the sky blue?"}]})),
    responses(
        (status = 200, description = "The node's answer. `x-request-id`, `x-gateway-node`, `x-gateway-queue-ms`, \
            `x-gateway-attempts` and, for users with limits, `x-ratelimit-*` go along.",
            content((serde_json::Value = "application/json"), (serde_json::Value = "application/x-ndjson"))),
        answers::OllamaErrors,
    ),
)]
pub async fn chat(call: Call) -> Result<HttpResponse, ApiError> {
    call.serve(Endpoint::Chat).await
}

/// Generate (Ollama)
///
/// Ollama's own API. Streams unless `"stream": false`.
#[utoipa::path(
    post, path = "/api/generate", tag = "inference", security(("user_key" = [])),
    request_body(content = ref("#/components/schemas/OllamaGenerate"), description = "As Ollama's API takes it; `model` is needed.",
        example = json!({"model": "llama3.2", "prompt": "Why is the sky blue?"})),
    responses(
        (status = 200, description = "The node's answer. `x-request-id`, `x-gateway-node`, `x-gateway-queue-ms`, \
            `x-gateway-attempts` and, for users with limits, `x-ratelimit-*` go along.",
            content((serde_json::Value = "application/json"), (serde_json::Value = "application/x-ndjson"))),
        answers::OllamaErrors,
    ),
)]
pub async fn generate(call: Call) -> Result<HttpResponse, ApiError> {
    call.serve(Endpoint::Generate).await
}

/// Embed (Ollama)
///
/// For an `input` that is a string or a list of strings.
#[utoipa::path(
    post, path = "/api/embed", tag = "inference", security(("user_key" = [])),
    request_body(content = ref("#/components/schemas/OllamaEmbed"), description = "As Ollama's API takes it; `model` and `input` are needed.",
        example = json!({"model": "all-minilm", "input": ["one", "two"]})),
    responses(
        (status = 200, description = "The node's answer.", body = serde_json::Value),
        answers::OllamaErrors,
    ),
)]
pub async fn embed(call: Call) -> Result<HttpResponse, ApiError> {
    call.serve(Endpoint::Embed).await
}

/// Embeddings (Ollama, older)
///
/// For one `prompt`.
#[utoipa::path(
    post, path = "/api/embeddings", tag = "inference", security(("user_key" = [])),
    request_body(content = ref("#/components/schemas/OllamaEmbedOne"), description = "As Ollama's API takes it; `model` and `prompt` are needed.",
        example = json!({"model": "all-minilm", "prompt": "one"})),
    responses(
        (status = 200, description = "The node's answer.", body = serde_json::Value),
        answers::OllamaErrors,
    ),
)]
pub async fn embed_one(call: Call) -> Result<HttpResponse, ApiError> {
    call.serve(Endpoint::EmbedOne).await
}

/// Refuses the audio API: nodes report no tokens for it.
pub(super) async fn unmetered_audio(_: Caller) -> Result<HttpResponse, ApiError> {
    Err(ApiError::unsupported(
        "The audio API is not offered here: nodes report no tokens for it, so it cannot be metered. To give a model \
         sound, send it as an `input_audio` part of a message to POST /v1/chat/completions.",
    ))
}
