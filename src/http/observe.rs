//! Gives every request its id, and reports each one that no meter reports, with its metrics and its log line.
use std::sync::Arc;

use actix_web::body::{BodySize, EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{ConnectionType, Method, StatusCode, Version};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpMessage, HttpRequest};
use uuid::Uuid;

use super::address::normalise;
use super::audited;
use super::auth::CalledBy;
use super::cors::{Allowed, preflight};
use super::error::ApiError;
use super::intake::Intake;
use super::multiplexed::name_host;
use super::newcomers::Newcomer;
use super::pace::{Answering, LINES, Pace, Who};
use super::settings::ServerSettings;
use crate::metrics::{Ended, UNKNOWN_MODEL};
use crate::relay::Meters;
use crate::trace::{Closing, Trace};
use protocol::Dialect;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Where Anthropic's SDKs look for the request's id.
const ANTHROPIC_REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-client-request-id");
const PROCESSING: HeaderName = HeaderName::from_static("openai-processing-ms");
const RETRY_COUNT: HeaderName = HeaderName::from_static("x-stainless-retry-count");
/// Longest id from a client that is echoed, bytes.
const MAX_CLIENT_ID: usize = 128;

/// The id that the gateway gives to a request; never the client's own.
#[derive(Clone, Copy, Debug)]
pub struct RequestId(pub Uuid);

/// Marks a request whose end a [`crate::relay::Meter`] reports.
#[derive(Clone, Copy, Debug)]
pub struct Accounted;

/// The middleware around every route.
///
/// # Errors
/// Only those of the service it wraps.
pub async fn observe(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    if let Some(newcomer) = request.conn_data::<Arc<Newcomer>>() {
        newcomer.arrived();
    }
    // First of all: routing, keys in paths and the log read what these two make of the request.
    name_host(&mut request);
    normalise(&mut request);
    // HEAD is answered like GET. The server goes by the method that it received, so it leaves out the body by itself.
    if request.method() == Method::HEAD {
        request.head_mut().method = Method::GET;
    }
    let id = Uuid::now_v7();
    request.extensions_mut().insert(RequestId(id));
    let meters = request.app_data::<Data<Meters>>().cloned();
    let received = meters.as_ref().map(|meters| meters.clock.uptime());
    if let Some(meters) = &meters
        && request.headers().get(RETRY_COUNT).is_some_and(|count| count != "0")
    {
        meters.metrics.client_retried();
    }
    let client_id = client_id(request.headers());
    let dialect = Dialect::of_path(request.path());
    let settings = request.app_data::<Data<ServerSettings>>();
    let origins = settings.map_or(&[][..], |settings| &settings.cors_origins);
    let private_network = settings.is_some_and(|settings| settings.cors_private_network);
    let allowed = Allowed::of(&request, origins);
    let mut response = match allowed.as_ref().and_then(|_| preflight(&request, private_network)) {
        Some(answer) => request.into_response(answer.map_body(|_, _| EitherBody::right(String::new()))),
        None => in_words_of(dialect, audited::carry(request, next, id).await?),
    };
    let spent = meters.as_ref().zip(received).map(|(meters, received)| meters.clock.uptime().saturating_sub(received));
    if let (Some(meters), Some(spent)) = (&meters, spent)
        && response.request().extensions().get::<Accounted>().is_none()
    {
        report(&response, id, meters, spent);
    }
    if let Some(meters) = &meters {
        // After the report, as the pause is no part of the time that the request took.
        hold_back(&mut response, meters).await;
    }
    end_by_closing(&mut response);
    let in_openais_words = dialect == Dialect::OpenAi && response.request().path().starts_with("/v1/");
    let headers = response.headers_mut();
    if let Some(spent) = spent.filter(|_| in_openais_words) {
        headers.insert(PROCESSING, HeaderValue::from(u64::try_from(spent.as_millis()).unwrap_or(u64::MAX)));
    }
    if let Some(allowed) = allowed {
        allowed.put(headers);
    }
    put_ids(headers, id, client_id, dialect);
    Ok(response)
}

/// Our name for the request, in Anthropic's header as well where its clients look for it, and the client's own.
fn put_ids(headers: &mut HeaderMap, id: Uuid, client_id: Option<HeaderValue>, dialect: Dialect) {
    if let Ok(value) = HeaderValue::try_from(id.to_string()) {
        if dialect == Dialect::Anthropic {
            headers.insert(ANTHROPIC_REQUEST_ID, value.clone());
        }
        headers.insert(REQUEST_ID, value);
    }
    if let Some(client_id) = client_id {
        headers.insert(CLIENT_REQUEST_ID, client_id);
    }
}

/// Closes the connection after an answer of a gateway that stops, as its client has to look for another one; and after a
/// body of unknown length on HTTP/1.0, which has no other way to mark its end.
fn end_by_closing<B: MessageBody>(response: &mut ServiceResponse<B>) {
    let is_old = response.request().version() < Version::HTTP_11;
    if is_old && response.response().body().size() == BodySize::Stream {
        let head = response.response_mut().head_mut();
        head.no_chunking(true);
        head.set_connection_type(ConnectionType::Close);
    }
    let intake = response.request().app_data::<Data<Intake>>();
    if intake.is_some_and(|intake| intake.draining.is_cancelled()) && response.request().version() <= Version::HTTP_11 {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
}

/// Delays the answer to a client that is refused again and again.
async fn hold_back<B>(response: &mut ServiceResponse<B>, meters: &Meters) {
    if response.status() != StatusCode::TOO_MANY_REQUESTS {
        return;
    }
    let request = response.request();
    let (Some(pace), Some(who)) = (request.app_data::<Data<Pace>>().cloned(), who(request)) else { return };
    match pace.refused(&who, meters.clock.uptime()) {
        Answering::AtOnce => {}
        Answering::After(pause, _place) => tokio::time::sleep(pause).await,
        Answering::AndClose => response.response_mut().head_mut().set_connection_type(ConnectionType::Close),
    }
}

fn who(request: &HttpRequest) -> Option<Who> {
    let user = request.extensions().get::<CalledBy>().map(|CalledBy(user)| Who::User(user.clone()));
    // The address of the connection itself: one in a header can be forged.
    user.or_else(|| Some(Who::at(request.peer_addr()?.ip())))
}

/// Puts an error into the dialect of its path: everywhere else errors are in OpenAI's.
fn in_words_of<B>(dialect: Dialect, response: ServiceResponse<B>) -> ServiceResponse<EitherBody<B, String>> {
    let error = response.response().error().and_then(|error| error.as_error::<ApiError>());
    match error.filter(|_| dialect != Dialect::OpenAi).map(|error| error.body(dialect)) {
        Some(body) => response.map_body(|_, _| EitherBody::right(body)),
        None => response.map_into_left_body(),
    }
}

fn client_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = headers.get(REQUEST_ID)?;
    let printable = !id.is_empty() && id.len() <= MAX_CLIENT_ID && id.as_bytes().iter().all(u8::is_ascii_graphic);
    printable.then(|| id.clone())
}

fn report<B>(response: &ServiceResponse<B>, id: Uuid, meters: &Meters, duration: std::time::Duration) {
    // Never the raw path: it is the client's own text, which may hold anything.
    let pattern = response.request().match_pattern();
    let route = pattern.as_deref().unwrap_or("_unmatched");
    let code = response.status().as_u16();
    let outcome = match code {
        429 => "rate_limited",
        400..=499 => "client_error",
        503 => "overloaded",
        500.. => "upstream_error",
        _ => "ok",
    };
    meters.metrics.ended(Ended { route, model: UNKNOWN_MODEL, stream: false, code, outcome, duration });
    if let Some(trace) = response.request().extensions_mut().remove::<Trace>() {
        trace.finish(Closing { route, code, is_failure: code >= 500, attributes: Vec::new() });
    }
    // Never the message: it may quote the client.
    let error = response.response().error().and_then(|error| error.as_error::<ApiError>()).and_then(ApiError::word);
    let method = response.request().method().as_str();
    if code < 400 && (route.starts_with("/health") || route == "/metrics") {
        tracing::debug!(request_id = %id, method, route, code, "request ended");
        return;
    }
    let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let request = response.request();
    let kind = (who(request), code, error);
    let pace = request.app_data::<Data<Pace>>().filter(|_| code >= 400);
    match pace.map_or(Some(1), |pace| pace.tells(kind, meters.clock.uptime())) {
        Some(count) if count > LINES => {
            tracing::info!(request_id = %id, method, route, code, error, count, "many such requests ended in a minute");
        }
        Some(_) => tracing::info!(request_id = %id, method, route, code, error, duration_ms, "request ended"),
        None => {}
    }
}
