//! How does Ollama word an error, in each of its three dialects?

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use serde::Serialize;

/// The message of the runner that died before its first token.
pub(crate) const RUNNER_STOPPED: &str = "model runner has unexpectedly stopped, this may be due to resource \
     limitations or an internal error, check ollama server logs for details";
/// The message of a full load queue. Two spaces, as in the original.
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
}

impl Wire {
    pub(crate) fn of(path: &str) -> Self {
        match path {
            "/v1/messages" => Wire::Anthropic,
            _ if path.starts_with("/v1/") => Wire::OpenAi,
            _ => Wire::Native,
        }
    }
}

impl ApiError {
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self { status: 400, message: message.into() }
    }

    pub(crate) fn model_not_found(name: &str) -> Self {
        Self { status: 404, message: format!("model '{name}' not found") }
    }

    pub(crate) fn busy() -> Self {
        Self { status: 503, message: SERVER_BUSY.to_owned() }
    }

    pub(crate) fn runner_stopped() -> Self {
        Self { status: 500, message: RUNNER_STOPPED.to_owned() }
    }

    /// What Ollama would say with this status about this model.
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
        Wire::Native => "application/json; charset=utf-8",
        Wire::OpenAi | Wire::Anthropic => "application/json",
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
