//! How do Ollama, in each of its three dialects, and the other servers word an error?

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use serde::Serialize;

use crate::config::SimKind;

/// What Ollama says when the runner dies before its first token.
pub(crate) const RUNNER_STOPPED: &str = "model runner has unexpectedly stopped, this may be due to resource \
     limitations or an internal error, check ollama server logs for details";
/// What Ollama says when the queue for loads is full. The two spaces are the original's.
pub(crate) const SERVER_BUSY: &str = "server busy, please try again.  maximum pending requests exceeded";

/// An answer that is an error.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    pub(crate) message: String,
}

/// The shape of errors on a route.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wire {
    Native,
    OpenAi,
    Anthropic,
    LlamaServer,
    Vllm,
}

impl Wire {
    pub(crate) fn of(kind: SimKind, path: &str) -> Self {
        match (kind, path) {
            (SimKind::LlamaServer, _) => Wire::LlamaServer,
            (SimKind::Vllm, _) => Wire::Vllm,
            (SimKind::Ollama, "/v1/messages") => Wire::Anthropic,
            (SimKind::Ollama, path) if path.starts_with("/v1/") => Wire::OpenAi,
            (SimKind::Ollama, _) => Wire::Native,
        }
    }
}

impl ApiError {
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self { status: 400, message: message.into() }
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self { status: 500, message: message.into() }
    }

    pub(crate) fn model_not_found(name: &str) -> Self {
        Self { status: 404, message: format!("model '{name}' not found") }
    }

    pub(crate) fn busy() -> Self {
        Self { status: 503, message: SERVER_BUSY.to_owned() }
    }

    /// Ollama's words for a prompt that does not fit and may not be shortened.
    pub(crate) fn too_long() -> Self {
        Self::bad_request(
            "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust \
             the context length in settings, or use a model with a longer context length",
        )
    }

    /// The runner's message for it. Ollama passes its JSON on as a string.
    pub(crate) fn exceeds_context(tokens: u64, limit: u64) -> Self {
        let message =
            format!("request ({tokens} tokens) exceeds the available context size ({limit} tokens), try increasing it");
        Self::bad_request(Self::bad_request(message).body(Wire::LlamaServer))
    }

    pub(crate) fn runner_stopped() -> Self {
        Self::internal(RUNNER_STOPPED)
    }

    /// Ollama's message with this status for this model.
    pub(crate) fn of_status(status: u16, model: &str) -> Self {
        let message = match status {
            400 => "invalid model name".to_owned(),
            401 => "unauthorized".to_owned(),
            403 => "ollama cloud is disabled: remote model is unavailable".to_owned(),
            404 => format!("model '{model}' not found"),
            499 => "request canceled".to_owned(),
            500 => RUNNER_STOPPED.to_owned(),
            503 => SERVER_BUSY.to_owned(),
            _ => StatusCode::from_u16(status)
                .ok()
                .and_then(|status| status.canonical_reason())
                .unwrap_or("unknown error")
                .to_lowercase(),
        };
        Self { status, message }
    }

    /// The body of the error, without the status.
    pub(crate) fn body(&self, wire: Wire) -> String {
        match wire {
            Wire::Native => json(&NativeError { error: &self.message }),
            Wire::OpenAi => json(&OpenAiEnvelope {
                error: OpenAiError { message: &self.message, kind: self.openai_type(), param: None, code: None },
            }),
            Wire::Anthropic => json(&AnthropicEnvelope {
                kind: "error",
                error: AnthropicError { kind: self.anthropic_type(), message: &self.message },
                request_id: "req_0123456789abcdef01234567",
            }),
            Wire::LlamaServer => json(&serde_json::json!({
                "error": {"code": self.status, "message": self.message, "type": self.llama_server_type()},
            })),
            // The key check is in front of the routes and does not speak their dialect.
            Wire::Vllm if self.status == 401 => json(&NativeError { error: "Unauthorized" }),
            Wire::Vllm => json(&serde_json::json!({
                "error": {"message": self.message, "type": self.vllm_type(), "param": null, "code": self.status},
            })),
        }
    }

    pub(crate) fn response(&self, wire: Wire) -> HttpResponse {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        HttpResponse::build(status).content_type(json_type(wire)).body(self.body(wire))
    }

    fn openai_type(&self) -> &'static str {
        match self.status {
            400 => "invalid_request_error",
            404 => "not_found_error",
            _ => "api_error",
        }
    }

    fn llama_server_type(&self) -> &'static str {
        match self.status {
            400 => "invalid_request_error",
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            501 => "not_supported_error",
            503 => "unavailable_error",
            _ => "server_error",
        }
    }

    fn vllm_type(&self) -> &'static str {
        match self.status {
            404 => "NotFoundError",
            400..500 => "BadRequestError",
            _ => "InternalServerError",
        }
    }

    fn anthropic_type(&self) -> &'static str {
        match self.status {
            400 => "invalid_request_error",
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            503 | 529 => "overloaded_error",
            _ => "api_error",
        }
    }
}

/// The content type of a JSON body on a route of this dialect.
pub(crate) fn json_type(wire: Wire) -> &'static str {
    match wire {
        Wire::Native | Wire::LlamaServer => "application/json; charset=utf-8",
        Wire::OpenAi | Wire::Anthropic | Wire::Vllm => "application/json",
    }
}

/// Any of the simulator's own shapes as JSON.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("the simulator's own types have string keys and serialise")
}

#[derive(Serialize)]
struct NativeError<'a> {
    error: &'a str,
}

#[derive(Serialize)]
struct OpenAiEnvelope<'a> {
    error: OpenAiError<'a>,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<()>,
    code: Option<()>,
}

#[derive(Serialize)]
struct AnthropicEnvelope<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    error: AnthropicError<'a>,
    request_id: &'static str,
}

#[derive(Serialize)]
struct AnthropicError<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    message: &'a str,
}
