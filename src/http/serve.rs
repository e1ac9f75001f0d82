//! The path of one request, from a body and a key to a node's answer; the steps are those of the crate's first page.
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use actix_web::web::Bytes;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, HttpResponseBuilder};
use serde_json::json;
use tokio::sync::Semaphore;

use super::address::Deployment;
use super::auth::Caller;
use super::body_memory::{BodyMemory, Hold};
use super::bounds;
use super::error::{ApiError, rate_limit_headers};
use super::intake::Intake;
use super::live::Live;
use super::names::{Meaning, ModelNames, Resolved};
use super::observe::{Accounted, RequestId};
use super::time::rfc3339;
use super::waiting::{Carrying, WaitingBody};
use crate::dispatch::Dispatcher;
use crate::fleet::Upstream;
use crate::metrics::UNKNOWN_MODEL;
use crate::relay::{Admission, Answer, CarryError, Content, Job, Meter, Meters, Relay, Served, prefixes};
use crate::store::{Access, Broker, NotLeased, Over, Recorder, Status};
use crate::trace::{Trace, Tracer};
use limits::{Moment, Need};
use protocol::{ClaimBounds, Dialect, Endpoint, Idle, InferenceRequest, repaired};
use scheduler::{Event, Membership, Scheduler};

/// Headers that name the version and the beta features of Anthropic's API that a client uses.
const ANTHROPIC: [&str; 2] = ["anthropic-version", "anthropic-beta"];
/// `Retry-After` for a client that asks before any node has answered.
const UNHEARD_RETRY: Duration = Duration::from_secs(5);
/// How often a request asks for a larger share of its limits before it is refused.
const LOOKS: usize = 2;
/// Bodies up to this size, bytes, are parsed on the worker; larger ones on another thread, so that they delay no stream.
const PARSED_IN_PLACE: usize = 256 * 1024;
/// Longest wait of a large body for its turn to be parsed.
const PARSE_PATIENCE: Duration = Duration::from_secs(10);

/// What the inference routes need. Each worker has its own, as the client to the nodes cannot leave its thread.
#[derive(Clone, Debug)]
pub struct Inference {
    /// Carries requests to nodes.
    pub relay: Relay,
    /// This worker's client to the nodes.
    pub upstream: Upstream,
    /// The queue and its scheduler.
    pub dispatcher: Arc<Dispatcher>,
    /// Begins the trace of a request.
    pub tracer: Tracer,
    /// Makes the meter of a request.
    pub meters: Meters,
    /// Where usage rows go.
    pub recorder: Recorder,
    /// Asks for a larger share of limits that gateways divide; `None` with SQLite.
    pub broker: Option<Broker>,
    /// Aliases and fallbacks of models.
    pub names: Live<ModelNames>,
    /// Default limits, among them the output tokens to reserve for a request that sets no maximum.
    pub limits: Live<limits::DefaultLimits>,
    /// Whether it takes requests.
    pub intake: Intake,
    /// The memory for request bodies.
    pub memory: Arc<BodyMemory>,
    /// Turns to parse a large body, which takes more memory than the body alone.
    pub parsing: Arc<Semaphore>,
}

/// Why a request was not admitted.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("over a limit")]
    Over(Over),
    #[error(transparent)]
    NotLeased(#[from] NotLeased),
}

impl From<Over> for Refused {
    fn from(over: Over) -> Self {
        Self::Over(over)
    }
}

impl Inference {
    /// Begins the trace and keeps it with the request, for whoever reports the end.
    pub(super) fn begin_trace(&self, request: &HttpRequest, began: Moment, authenticated: Duration) {
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        if let Some(trace) = self.tracer.begin(header("traceparent"), header("tracestate"), began) {
            trace.authenticated(began.uptime, authenticated);
            request.extensions_mut().insert(trace);
        }
    }

    /// Sends a body to a node and brings back the answer.
    pub(super) async fn serve(
        &self,
        endpoint: Endpoint,
        id: RequestId,
        Caller(access): Caller,
        http: &HttpRequest,
        (body, hold): (Bytes, Hold),
    ) -> Result<HttpResponse, ApiError> {
        let received = self.meters.clock.now();
        let deployment = http.extensions().get::<Deployment>().map(|Deployment(model)| model.clone());
        let (mut request, body) = self.parse(endpoint, body, deployment).await?;
        if let Some(idle) = request.idle {
            return self.answer_idle(&request, idle, &access);
        }
        let model = self.resolve(&request.model, &access)?;
        request.ask_for(&model.name);
        // From here on whatever ends the request settles what it has used, and leaves its row: the meter does so on
        // drop.
        let mut meter = self.begin(&request, &model, id, &access, received, http)?;
        http.extensions_mut().insert(Accounted);
        let need = Need {
            prompt: request.prompt_bound,
            // Vectors are no tokens, so an embedding reserves its prompt alone.
            output: if endpoint.embeds() { Some(0) } else { request.max_output },
            default_output: self.limits.get().default_max_output,
        };
        let output_cap = match self.admit(&mut meter, need, &access).await {
            Ok(output_cap) => output_cap,
            Err(refused) => return Err(self.refuse(refused, meter, &access, received)),
        };
        let job = Job {
            meter,
            user: access.user().shared(),
            weight: access.weight(),
            membership: access
                .group()
                .map(|group| Membership { group: group.usage_id().clone(), weight: group.weight() }),
            model: model.name,
            endpoint,
            stream: request.stream,
            prompt_tokens: request.prompt_estimate(),
            max_output: request.max_output.or(output_cap),
            prefixes: prefixes(&request, &body),
            hide_usage: !request.include_usage,
            request_id: id.0.to_string(),
            id: id.0,
            headers: forwarded(endpoint, http),
            body: hold.keep(request.rewrite(body, output_cap)),
        };
        self.meters.metrics.overhead("route", self.meters.clock.uptime().saturating_sub(received.uptime));
        self.carry(job, request.model, &access).await
    }

    /// Reads what the gateway needs to know from a body. Returns the body too, repaired to UTF-8.
    async fn parse(
        &self,
        endpoint: Endpoint,
        body: Bytes,
        deployment: Option<String>,
    ) -> Result<(InferenceRequest, Bytes), ApiError> {
        let read = move |body: Bytes| {
            bounds::check(&body).map_err(|why| ApiError::invalid(format!("{why}; no request needs so many.")))?;
            let body = repaired(body)?;
            let request = InferenceRequest::parse_for(endpoint, &body, deployment.as_deref())?;
            Ok::<_, ApiError>((request, body))
        };
        if body.len() <= PARSED_IN_PLACE {
            return read(body);
        }
        let turn = tokio::time::timeout(PARSE_PATIENCE, self.parsing.clone().acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(ApiError::no_room(None)) };
        let parsed = actix_web::web::block(move || {
            // Kept until parsing ends, even if the client has left.
            let _turn = turn;
            read(body)
        });
        parsed.await.map_err(|error| ApiError::internal(error.to_string()))?
    }

    /// Admits the request under its limits. If this gateway's share of them is too small, it asks for more and tries again,
    /// more than once, as other requests may take what it gets.
    async fn admit(&self, meter: &mut Meter, need: Need, access: &Access) -> Result<Option<u64>, Refused> {
        let mut admitted = meter.admit(need);
        // A request that is admitted at once does not wait for the database.
        let is_short = admitted.is_err() && access.is_shared();
        let Some(broker) = self.broker.as_ref().filter(|_| is_short) else {
            return Ok(admitted?);
        };
        for _ in 0..LOOKS {
            if admitted.is_ok() {
                break;
            }
            broker.ask(access, &need).await?;
            admitted = meter.admit(need);
        }
        Ok(admitted?)
    }

    /// Words the refusal by a limit and finishes the meter.
    fn refuse(&self, refused: Refused, mut meter: Meter, access: &Access, received: Moment) -> ApiError {
        let headroom = access.headroom(received);
        let error = match refused {
            Refused::Over(over) => {
                self.meters.metrics.rate_limited(over.exceeded.limit_name());
                ApiError::over(&over, headroom)
            }
            Refused::NotLeased(why) => {
                tracing::debug!(%why, "the shares of a limit could not be changed");
                ApiError::limits_away().for_user(headroom)
            }
        };
        meter.because(error.reason());
        meter.finish(Status::Refused, error.code());
        error
    }

    /// Records the refusal of a request whose body was not read, and whose model is therefore unknown.
    pub(super) fn refuse_unread(
        &self,
        error: ApiError,
        endpoint: Endpoint,
        id: RequestId,
        access: &Access,
        http: &HttpRequest,
    ) -> ApiError {
        let Ok(permit) = self.recorder.permit() else { return ApiError::not_stored() };
        let mut meter = self.meters.start(Admission {
            request_id: id.0,
            access: access.clone(),
            permit,
            endpoint: endpoint.path(),
            model: String::new(),
            listed_model: UNKNOWN_MODEL.into(),
            stream: false,
            received: self.meters.clock.now(),
            claim_bounds: ClaimBounds { prompt_bound: 0, prompt_estimate: 0, max_output: None, embeds: false },
            trace: http.extensions_mut().remove::<Trace>(),
        });
        http.extensions_mut().insert(Accounted);
        if let Some(limit) = error.limit() {
            self.meters.metrics.rate_limited(limit);
        }
        meter.because(error.reason());
        meter.finish(Status::Refused, error.code());
        error
    }

    /// Returns the answer, or the error that says why there is none. `asked` is the model as the client named it.
    async fn carry(&self, job: Job, asked: String, access: &Access) -> Result<HttpResponse, ApiError> {
        let endpoint = job.endpoint;
        let result = if job.stream {
            let (id, waiting) = (job.request_id.clone(), self.relay.settings().commit());
            let (relay, upstream) = (self.relay.clone(), self.upstream.clone());
            // Boxed and owned, so that it can go on inside the body once the status has been sent.
            let mut carrying: Carrying = Box::pin(async move { relay.carry(&upstream, job).await });
            match tokio::time::timeout(waiting, &mut carrying).await {
                Ok(result) => result,
                Err(_) => {
                    let interval = self.relay.settings().heartbeat();
                    return Ok(
                        stream_head(endpoint).streaming(WaitingBody::new(endpoint, id, asked, carrying, interval))
                    );
                }
            }
        } else {
            // Boxed as well, so that a stream's handler has no room for it.
            Box::pin(self.relay.carry(&self.upstream, job)).await
        };
        match result {
            Ok(answer) => Ok(respond(endpoint, answer, access, self.meters.clock.now())),
            Err(CarryError { mut meter, why }) => {
                let (error, status) = ApiError::not_carried(&why, &asked);
                meter.because(error.reason());
                meter.finish(status, error.code());
                Err(error.for_user(access.headroom(self.meters.clock.now())))
            }
        }
    }

    /// Acknowledges a request without a prompt, with which Ollama's clients load or unload a model. The gateway decides
    /// by itself which models are loaded.
    fn answer_idle(&self, request: &InferenceRequest, idle: Idle, access: &Access) -> Result<HttpResponse, ApiError> {
        let model = self.resolve(&request.model, access)?;
        let now = rfc3339(self.meters.clock.now().unix_ms);
        let reason = match idle {
            Idle::Load => {
                // A hint: the model is loaded now if that costs nobody anything.
                self.dispatcher.report(Event::Wanted { model: model.name });
                "load"
            }
            Idle::Unload => "unload",
        };
        let mut answer = json!({"model": request.model, "created_at": now, "done": true, "done_reason": reason});
        match request.endpoint {
            Endpoint::Generate => answer["response"] = "".into(),
            _ => answer["message"] = json!({"role": "assistant", "content": ""}),
        }
        Ok(HttpResponse::Ok().json(answer))
    }

    /// The model to use for the name that a client gives, if its key may be used for it.
    pub(super) fn resolve(&self, model: &str, access: &Access) -> Result<Resolved, ApiError> {
        let (names, allowed) = (self.names.get(), access.allowed_models());
        let look = |scheduler: &Scheduler| (names.resolve(model, &allowed, scheduler), scheduler.serving_nodes());
        match self.dispatcher.read(look) {
            (Meaning::Model(found), _) => Ok(found),
            (Meaning::Forbidden, _) => Err(ApiError::model_not_allowed(model)),
            // A node that has not answered yet may have it.
            (Meaning::Unknown, 0) => Err(match self.relay.maintenance_of(None, UNHEARD_RETRY) {
                Some(why) => ApiError::not_carried(&why, model).0,
                None => ApiError::no_node(model, UNHEARD_RETRY),
            }),
            (Meaning::Unknown, _) => Err(ApiError::unknown_model(model)),
        }
    }

    /// Starts the request's meter, which writes a usage row whatever happens from now on.
    fn begin(
        &self,
        request: &InferenceRequest,
        model: &Resolved,
        id: RequestId,
        access: &Access,
        received: Moment,
        http: &HttpRequest,
    ) -> Result<Meter, ApiError> {
        let permit = self.recorder.permit().map_err(|_| ApiError::not_stored())?;
        Ok(self.meters.start(Admission {
            request_id: id.0,
            access: access.clone(),
            permit,
            endpoint: request.endpoint.path(),
            model: request.model.clone(),
            listed_model: model.listed.clone(),
            stream: request.stream,
            received,
            claim_bounds: request.claim_bounds(),
            trace: http.extensions_mut().remove::<Trace>(),
        }))
    }
}

/// The client's headers that go to the node.
fn forwarded(endpoint: Endpoint, http: &HttpRequest) -> Vec<(&'static str, String)> {
    if endpoint.dialect() != Dialect::Anthropic {
        return Vec::new();
    }
    let values = |name| http.headers().get_all(name).filter_map(|value| value.to_str().ok());
    ANTHROPIC.into_iter().flat_map(|name| values(name).map(move |value| (name, value.to_owned()))).collect()
}

fn respond(endpoint: Endpoint, answer: Answer, access: &Access, now: Moment) -> HttpResponse {
    let Answer { served: said, content } = answer;
    match content {
        Content::Plain { status, body } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
            let mut response = HttpResponse::build(status);
            response.insert_header((CONTENT_TYPE, HeaderValue::from_static("application/json")));
            if status.is_client_error() {
                // The node refused the request itself, and so would any other.
                response.insert_header(("x-should-retry", "false"));
            }
            node_headers(&mut response, &said);
            rate_limit_headers(&mut response, &access.headroom(now));
            response.body(body)
        }
        Content::Stream(stream) => {
            let mut response = stream_head(endpoint);
            node_headers(&mut response, &said);
            rate_limit_headers(&mut response, &access.headroom(now));
            response.streaming(stream)
        }
    }
}

fn stream_head(endpoint: Endpoint) -> HttpResponseBuilder {
    let lines = endpoint.dialect() == Dialect::Ollama;
    let content_type = if lines { "application/x-ndjson" } else { "text/event-stream; charset=utf-8" };
    let mut response = HttpResponse::Ok();
    response.insert_header((CONTENT_TYPE, HeaderValue::from_static(content_type)));
    response.insert_header((CACHE_CONTROL, HeaderValue::from_static("no-cache")));
    // Tells an nginx in front of the gateway to pass on each frame at once.
    response.insert_header((HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")));
    response
}

fn node_headers(response: &mut HttpResponseBuilder, served: &Served) {
    let millis = |duration: Duration| HeaderValue::from(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    let name = HeaderName::from_static;
    response.insert_header((name("x-gateway-node"), &*served.node));
    response.insert_header((name("x-gateway-queue-ms"), millis(served.queued)));
    if let Some(ahead) = served.ahead {
        response.insert_header((name("x-gateway-queue-position"), HeaderValue::from(ahead)));
    }
    response.insert_header((name("x-gateway-attempts"), HeaderValue::from(served.attempts)));
    if let Some(expected) = served.expected {
        response.insert_header((name("x-gateway-expected-ms"), millis(expected)));
    }
}
