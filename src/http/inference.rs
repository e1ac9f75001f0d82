//! The routes that make a node work: from a body and a key to a node's answer.
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::web::{Bytes, Data, ReqData};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, HttpResponseBuilder};
use tokio_util::sync::CancellationToken;

use super::auth::Caller;
use super::body::FullBody;
use super::error::{ApiError, rate_limit_headers};
use super::observe::{Accounted, RequestId};
use crate::limits::{Moment, Need};
use crate::protocol::{Endpoint, InferenceRequest};
use crate::relay::{Admission, Answer, CarryError, Content, Job, Meter, Meters, Relay, Upstream};
use crate::store::{Account, Recorder, Status};

/// What the inference routes need, one for each worker: the client to the nodes stays on its thread.
#[derive(Clone, Debug)]
pub struct Inference {
    /// The way to a node.
    pub relay: Relay,
    /// This worker's client.
    pub upstream: Upstream,
    /// Makes the account of a request.
    pub meters: Meters,
    /// Where usage rows go.
    pub recorder: Recorder,
    /// Output tokens reserved for a request that names no limit of its own.
    pub default_max_output: u64,
    /// Set when no new request is taken.
    pub draining: CancellationToken,
}

/// Chat completions
///
/// Passed to a node unchanged but for documented edits; any field that Ollama knows may be given. With `"stream": true`
/// the answer is a stream of server-sent events that ends with `data: [DONE]`.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "inference", security(("user_key" = [])),
    request_body(content = serde_json::Value, description = "As OpenAI's API takes it; `model` and `messages` are needed.",
        example = json!({"model": "llama3.2", "messages": [{"role": "user", "content": "Why is the sky blue?"}]})),
    responses(
        (status = 200, description = "The node's answer. `x-request-id`, `x-gateway-node`, `x-gateway-queue-ms`, \
            `x-gateway-attempts` and, for users with limits, `x-ratelimit-*` go along.",
            content((serde_json::Value = "application/json"), (String = "text/event-stream"))),
        super::openapi::InferenceErrors,
    ),
)]
pub async fn chat_completions(
    inference: Data<Inference>,
    id: ReqData<RequestId>,
    caller: Caller,
    request: HttpRequest,
    body: FullBody,
) -> Result<HttpResponse, ApiError> {
    inference.serve(Endpoint::ChatCompletions, *id, caller, &request, body.0).await
}

/// Completions
///
/// As OpenAI's older API takes it, for a `prompt` that is one string.
#[utoipa::path(
    post, path = "/v1/completions", tag = "inference", security(("user_key" = [])),
    request_body(content = serde_json::Value, description = "As OpenAI's API takes it; `model` and `prompt` are needed.",
        example = json!({"model": "llama3.2", "prompt": "Why is the sky blue?", "max_tokens": 50})),
    responses(
        (status = 200, description = "The node's answer. `x-request-id`, `x-gateway-node`, `x-gateway-queue-ms`, \
            `x-gateway-attempts` and, for users with limits, `x-ratelimit-*` go along.",
            content((serde_json::Value = "application/json"), (String = "text/event-stream"))),
        super::openapi::InferenceErrors,
    ),
)]
pub async fn completions(
    inference: Data<Inference>,
    id: ReqData<RequestId>,
    caller: Caller,
    request: HttpRequest,
    body: FullBody,
) -> Result<HttpResponse, ApiError> {
    inference.serve(Endpoint::Completions, *id, caller, &request, body.0).await
}

/// Embeddings
///
/// For an `input` that is a string or a list of strings.
#[utoipa::path(
    post, path = "/v1/embeddings", tag = "inference", security(("user_key" = [])),
    request_body(content = serde_json::Value, description = "As OpenAI's API takes it; `model` and `input` are needed.",
        example = json!({"model": "all-minilm", "input": ["one", "two"]})),
    responses((status = 200, description = "The node's answer.", body = serde_json::Value), super::openapi::InferenceErrors),
)]
pub async fn embeddings(
    inference: Data<Inference>,
    id: ReqData<RequestId>,
    caller: Caller,
    request: HttpRequest,
    body: FullBody,
) -> Result<HttpResponse, ApiError> {
    inference.serve(Endpoint::Embeddings, *id, caller, &request, body.0).await
}

impl Inference {
    /// The path of one request; the steps are those of the crate's first page.
    async fn serve(
        &self,
        endpoint: Endpoint,
        id: RequestId,
        Caller(account): Caller,
        http: &HttpRequest,
        body: Bytes,
    ) -> Result<HttpResponse, ApiError> {
        if self.draining.is_cancelled() {
            return Err(ApiError::stopping());
        }
        let received = self.meters.clock.now();
        let mut request = InferenceRequest::parse(endpoint, &body)?;
        let mut meter = self.begin(&request, id, &account, received)?;
        http.extensions_mut().insert(Accounted);
        let need = Need {
            prompt: request.prompt_bound,
            output: if endpoint == Endpoint::Embeddings { Some(0) } else { request.max_output },
            default_output: self.default_max_output,
        };
        let output_cap = match meter.admit(need) {
            Ok(output_cap) => output_cap,
            Err(exceeded) => {
                self.meters.metrics.rate_limited(exceeded.limit_name());
                let error = ApiError::exceeded(exceeded, account.standing(received));
                meter.finish(Status::Refused, error.code());
                return Err(error);
            }
        };
        let job = Job {
            meter,
            user: account.user().shared(),
            model: request.model.as_str().into(),
            endpoint,
            stream: request.stream,
            hide_usage: !request.include_usage,
            request_id: id.0.to_string(),
            body: request.rewrite(body, output_cap),
        };
        match self.relay.carry(&self.upstream, job).await {
            Ok(answer) => Ok(respond(answer, &account, self.meters.clock.now())),
            Err(CarryError { meter, why }) => {
                let (error, status) = ApiError::not_carried(&why, &request.model);
                self.meters.metrics.queue_rejected(why.label());
                meter.finish(status, error.code());
                Err(error)
            }
        }
    }

    /// Opens the request's account, which writes its row whatever happens from now on.
    fn begin(
        &self,
        request: &InferenceRequest,
        id: RequestId,
        account: &Arc<Account>,
        received: Moment,
    ) -> Result<Meter, ApiError> {
        let listed = self
            .relay
            .dispatcher
            .read(|scheduler| scheduler.find_model(&request.model).map(|model| model.name.as_str().into()));
        let listed_model: Arc<str> = listed.ok_or_else(|| ApiError::unknown_model(&request.model))?;
        let permit = self.recorder.permit().map_err(|full| {
            ApiError::unavailable(
                "storage_unavailable",
                format!("{full}. Please try again in 5s."),
                Duration::from_secs(5),
            )
        })?;
        Ok(self.meters.start(Admission {
            request_id: id.0,
            account: account.clone(),
            permit,
            endpoint: request.endpoint.path(),
            model: request.model.clone(),
            listed_model,
            stream: request.stream,
            received,
            prompt_estimate: request.prompt_bound / 4,
        }))
    }
}

fn respond(answer: Answer, account: &Account, now: Moment) -> HttpResponse {
    match answer.content {
        Content::Plain { status, body } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
            let mut response = HttpResponse::build(status);
            response.insert_header((CONTENT_TYPE, "application/json"));
            if status.is_client_error() {
                // The node's verdict on the request: no node would say otherwise.
                response.insert_header(("x-should-retry", "false"));
            }
            node_headers(&mut response, &answer.node, answer.queued, answer.attempts);
            rate_limit_headers(&mut response, &account.standing(now));
            response.body(body)
        }
        Content::Stream(stream) => {
            let mut response = HttpResponse::Ok();
            response.insert_header((CONTENT_TYPE, "text/event-stream; charset=utf-8"));
            response.insert_header((CACHE_CONTROL, "no-cache"));
            // Tells nginx in front of us to pass each event on at once.
            response.insert_header(("x-accel-buffering", "no"));
            node_headers(&mut response, &answer.node, answer.queued, answer.attempts);
            rate_limit_headers(&mut response, &account.standing(now));
            response.streaming(stream)
        }
    }
}

fn node_headers(response: &mut HttpResponseBuilder, node: &str, queued: Duration, attempts: u32) {
    response.insert_header(("x-gateway-node", node));
    response.insert_header(("x-gateway-queue-ms", queued.as_millis().to_string()));
    response.insert_header(("x-gateway-attempts", attempts.to_string()));
}
