//! What does a client see when something goes wrong? The one place that knows every error and its status.
//!
//! Statuses are chosen for what SDKs do with them. They retry 408, 409, 429 and 5xx; `Retry-After` (whole seconds) and
//! `retry-after-ms` say when, and `x-should-retry: false` stops a retry that cannot help.
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};

use super::body_memory::Full;
use super::error_kind::{self, ErrorKind};
use super::maintenance::in_words;
use super::over::{Worded, seconds, worded};
use crate::fleet::RosterError;
use crate::relay::WhyNot;
use crate::store::{Maintenance, Over, Reason, Role, Status, StorageFull, StoreError};
use limits::{Headroom, Remaining};
use protocol::{BadRequest, Dialect, ErrorObject};
use scheduler::{Failure, Refusal, RefusalReason};

/// `Retry-After` while the store cannot be read or written.
const STORAGE_RETRY: Duration = Duration::from_secs(5);

/// An error answer, worded in OpenAI's dialect. Boxed to keep every `Result` small.
#[derive(Clone, Debug)]
pub struct ApiError(Box<Words>);

#[derive(Clone, Debug)]
struct Words {
    kind: &'static ErrorKind,
    message: String,
    param: Option<Cow<'static, str>>,
    retry_after: Option<Duration>,
    /// Whether no retry of the same request can help.
    hopeless: bool,
    headroom: Option<Headroom>,
    allow: Option<&'static str>,
    /// The limit that refuses the request, by its name in the configuration.
    limit: Option<&'static str>,
}

impl ApiError {
    fn new(kind: &'static ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Words {
            kind,
            message: message.into(),
            param: None,
            retry_after: None,
            hopeless: false,
            headroom: None,
            allow: None,
            limit: None,
        }))
    }

    fn with(mut self, change: impl FnOnce(&mut Words)) -> Self {
        change(&mut self.0);
        self
    }

    /// 400: the request itself is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(&error_kind::INVALID, message)
    }

    /// 400, naming the field.
    pub fn invalid_field(param: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::invalid(message).with(|words| words.param = Some(param.into()))
    }

    /// 401: no key, or an unknown one.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(&error_kind::UNAUTHORIZED, message)
    }

    /// 403: a known key in the wrong place.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(&error_kind::FORBIDDEN, message)
    }

    /// 403: an administrator whose role does not suffice.
    pub(super) fn role_too_low(role: Role, needed: Role) -> Self {
        let (role, needed) = (role.as_str(), needed.as_str());
        Self::forbidden(format!(
            "Your role is `{role}`, and this takes the role `{needed}`. Ask an administrator with it."
        ))
    }

    /// 403: the operator lets nothing in for this user.
    pub fn suspended() -> Self {
        let message = "Your account is suspended. Ask the operator of this service.";
        Self::new(&error_kind::SUSPENDED, message).with(|words| words.hopeless = true)
    }

    /// 403: the key is not for this model.
    pub fn model_not_allowed(model: &str) -> Self {
        let message = format!(
            "Your API key may not be used for the model `{}`. GET /v1/models lists those that it may be used for.",
            printable(model)
        );
        let error = Self::new(&error_kind::MODEL_NOT_ALLOWED, message);
        error.with(|words| words.param = Some("model".into()))
    }

    /// 429: too many wrong keys came from the caller's network.
    pub fn guessed_too_often(retry_after: Duration) -> Self {
        let message = format!(
            "Incorrect API key, and too many wrong keys came from your network. Please try again in {}.",
            seconds(retry_after)
        );
        let error = Self::new(&error_kind::RATE_LIMITED, message);
        error.with(|words| {
            words.retry_after = Some(retry_after);
            words.hopeless = true;
        })
    }

    /// 404: the thing that the path names does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(&error_kind::NOT_FOUND, message)
    }

    /// 404: OpenAI's API has this path, but the gateway or the node does not.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(&error_kind::UNSUPPORTED_ENDPOINT, message)
    }

    /// 404: no node lists this model.
    pub fn unknown_model(model: &str) -> Self {
        let message =
            format!("The model `{}` does not exist here. GET /v1/models lists those that do.", printable(model));
        let error = Self::new(&error_kind::MODEL_NOT_FOUND, message);
        error.with(|words| words.param = Some("model".into()))
    }

    /// 503: no node that has, or could have, this model is up.
    pub fn no_node(model: &str, retry_after: Duration) -> Self {
        let again = seconds(retry_after);
        let message =
            format!("No node that has `{}` is up at the moment. Please try again in {again}.", printable(model));
        Self::unavailable(&error_kind::NO_NODE, message, retry_after)
    }

    /// 503: every node that has this model is drained.
    fn maintained(model: &str, maintenance: &Maintenance, retry_after: Duration) -> Self {
        let (state, again) = (in_words(maintenance), seconds(retry_after));
        let message = format!("Every node that has `{}` is {state}. Please try again in {again}.", printable(model));
        Self::unavailable(&error_kind::MAINTENANCE, message, retry_after)
    }

    /// 404: the nodes that have this model do not have the route.
    pub fn no_route(model: &str) -> Self {
        let message =
            format!("No node that has `{}` offers this route. Another model or route may work.", printable(model));
        Self::unsupported(message)
    }

    /// 405, with the methods that work.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let message = format!("This path takes only {allow}.");
        let error = Self::new(&error_kind::METHOD_NOT_ALLOWED, message);
        error.with(|words| words.allow = Some(allow))
    }

    /// 408: the body did not come in time.
    pub fn body_too_slow() -> Self {
        let message = "The request's body did not arrive in time.";
        Self::new(&error_kind::BODY_TOO_SLOW, message)
    }

    /// 413, with the limit.
    pub fn body_too_large(limit: usize) -> Self {
        let message = format!("The request's body is larger than the limit of {limit} bytes.");
        Self::new(&error_kind::BODY_TOO_LARGE, message)
    }

    /// 415: the body's coding is not supported.
    pub fn unknown_coding() -> Self {
        let message = "The request's body is in a coding that is not supported. Send it as it is, or in gzip or zstd.";
        Self::new(&error_kind::UNKNOWN_CODING, message)
    }

    /// 409: the request conflicts with what exists.
    pub fn conflict(message: impl Into<String>) -> Self {
        let error = Self::new(&error_kind::CONFLICT, message);
        error.with(|words| words.hopeless = true)
    }

    /// 503: limits are shared with other gateways that cannot be asked, and this gateway's share is used up.
    pub fn limits_away() -> Self {
        let message = format!(
            "Your limits are shared with other gateways, which cannot be asked at the moment, and this gateway's share of \
             them is used up. Please try again in {}.",
            seconds(STORAGE_RETRY)
        );
        Self::unavailable(&error_kind::LIMITS_UNAVAILABLE, message, STORAGE_RETRY)
    }

    /// 503, worth another try after `retry_after`.
    pub fn unavailable(kind: &'static ErrorKind, message: impl Into<String>, retry_after: Duration) -> Self {
        let error = Self::new(kind, message);
        error.with(|words| words.retry_after = Some(retry_after))
    }

    /// 503: as many listen to events as may.
    pub(super) fn too_many_listeners() -> Self {
        let message = "As many listen to events already as may. Please try again in 5s.";
        Self::unavailable(&error_kind::OVERLOADED, message, Duration::from_secs(5))
    }

    /// 500: a fault of the gateway itself.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(&error_kind::INTERNAL, message)
    }

    /// 503 while the gateway stops.
    pub fn stopping() -> Self {
        Self::unavailable(&error_kind::STOPPING, "The service is shutting down.", Duration::from_secs(5))
    }

    /// 429 by a limit, with where the user stands.
    pub fn over(over: &Over, headroom: Headroom) -> Self {
        let Worded { kind, message, retry_after, is_hopeless, limit } = worded(over);
        Self::new(kind, message).with(|words| {
            words.retry_after = Some(retry_after);
            words.hopeless = is_hopeless;
            words.headroom = Some(headroom);
            words.limit = Some(limit);
        })
    }

    /// 429: the client has too many requests open on one connection.
    pub(super) fn too_many_streams(most: u32) -> Self {
        let message = format!("{most} requests are open on this connection. Open another one, or try again in 1s.");
        Self::new(&error_kind::RATE_LIMITED, message).with(|words| words.retry_after = Some(Duration::from_secs(1)))
    }

    /// 429 or 503: there is no memory for the body, or (`None`) its turn to be parsed did not come in time.
    pub(super) fn no_room(full: Option<Full>) -> Self {
        let (kind, message) = match full {
            Some(Full::ForUser) => (
                &error_kind::RATE_LIMITED,
                "Your requests' bodies take up as much memory as one user's may. Please try again in 1s.",
            ),
            Some(Full::ForAll) => (
                &error_kind::OVERLOADED,
                "The service is overloaded: it holds as many request bodies as it may. Please try again in 1s.",
            ),
            None => (
                &error_kind::OVERLOADED,
                "The service is overloaded: it is reading other large requests. Please try again in 1s.",
            ),
        };
        let error = Self::new(kind, message).of_limit("server.body_memory_bytes");
        error.with(|words| words.retry_after = Some(Duration::from_secs(1)))
    }

    /// 429: too many lists and sums of usage are being read.
    pub(super) fn reads_too_much() -> Self {
        let message = "Too many usage reports are being read at the moment. Please try again in 1s.";
        let error = Self::new(&error_kind::RATE_LIMITED, message);
        error.with(|words| words.retry_after = Some(Duration::from_secs(1)))
    }

    fn of_limit(self, limit: &'static str) -> Self {
        self.with(|words| words.limit = Some(limit))
    }

    /// The limit that refuses the request, if one does.
    pub(super) fn limit(&self) -> Option<&'static str> {
        self.0.limit
    }

    /// 503: usage cannot be stored, so no request is admitted.
    pub fn not_stored() -> Self {
        let message = format!("{StorageFull}. Please try again in {}.", seconds(STORAGE_RETRY));
        Self::unavailable(&error_kind::STORAGE_UNAVAILABLE, message, STORAGE_RETRY)
    }

    /// 503: the key cannot be checked while the database is away.
    pub fn users_away() -> Self {
        let message = format!(
            "This API key cannot be checked at the moment, as the database is away. Please try again in {}.",
            seconds(STORAGE_RETRY)
        );
        Self::unavailable(&error_kind::STORAGE_UNAVAILABLE, message, STORAGE_RETRY)
    }

    /// The error for a request that got no answer, and the status of its usage row.
    pub fn not_carried(why: &WhyNot, model: &str) -> (Self, Status) {
        match why {
            WhyNot::Stopping => (Self::stopping(), Status::Interrupted),
            WhyNot::Unrecorded => (Self::not_stored(), Status::Refused),
            WhyNot::Revoked => (Self::unauthorized("This API key was revoked."), Status::Cancelled),
            WhyNot::Stopped(stopped) => {
                let error = Self::new(&error_kind::STOPPED, stopped.message());
                (error.with(|words| words.hopeless = true), Status::Cancelled)
            }
            WhyNot::Indicted(left) => (Self::indicted(*left), Status::Refused),
            WhyNot::TooLong => {
                let message = "The request took longer than this service allows.";
                (Self::new(&error_kind::TIMEOUT, message), Status::Deadline)
            }
            WhyNot::Maintenance { maintenance, retry_after } => {
                (Self::maintained(model, maintenance, *retry_after), Status::Refused)
            }
            WhyNot::Refused { refusal, detail } => Self::refused(*refusal, detail.as_deref(), model),
        }
    }

    /// 422: the request makes nodes fail that answer other requests.
    fn indicted(left: Duration) -> Self {
        let message = format!(
            "This request made nodes fail, again and again, while they answered other requests. It is not tried again for \
             {}: change it before you send it again.",
            seconds(left)
        );
        Self::new(&error_kind::MAKES_NODES_FAIL, message).with(|words| words.hopeless = true)
    }

    fn refused(refusal: Refusal, detail: Option<&str>, model: &str) -> (Self, Status) {
        let after = refusal.retry_after;
        let again = format!("Please try again in {}.", seconds(after));
        match refusal.reason {
            RefusalReason::UserQueueFull => {
                let message = format!("You have as many requests waiting as one user may have. {again}");
                let error = Self::new(&error_kind::RATE_LIMITED, message).of_limit("queue.max_queued_per_user");
                (error.with(|words| words.retry_after = Some(after)), Status::Refused)
            }
            RefusalReason::QueueFull => {
                let message = format!("The service is overloaded: its queue is full. {again}");
                let error = Self::unavailable(&error_kind::OVERLOADED, message, after);
                (error.of_limit("queue.max_queued"), Status::Refused)
            }
            RefusalReason::DeadlinePassed => {
                let message = format!("The service is overloaded: no slot became free in time. {again}");
                (Self::unavailable(&error_kind::OVERLOADED, message, after), Status::Deadline)
            }
            // No node can be at fault, as none was there.
            RefusalReason::NoNode => (Self::no_node(model, after), Status::Refused),
            RefusalReason::NoRoute => (Self::no_route(model), Status::Refused),
            RefusalReason::NotLoaded { last } => {
                let message = format!("No node could load the model `{model}`; the last one {last}. {again}");
                let error = Self::exhausted(last, message, model, after);
                (error.with(|words| words.retry_after = Some(after)), Status::UpstreamError)
            }
            RefusalReason::Exhausted { last: Failure::Unsupported } => (Self::no_route(model), Status::Refused),
            RefusalReason::Exhausted { last } => {
                let message =
                    format!("No node could answer; the last one {last} ({}).", detail.unwrap_or("no details"));
                (Self::exhausted(last, message, model, after), Status::UpstreamError)
            }
        }
    }

    fn exhausted(last: Failure, message: String, model: &str, after: Duration) -> Self {
        match last {
            Failure::Missing => Self::unknown_model(model),
            Failure::Busy | Failure::Starved => Self::unavailable(&error_kind::OVERLOADED, message, after),
            Failure::TimedOut | Failure::Stuck => Self::new(&error_kind::TIMEOUT, message),
            _ => Self::new(&error_kind::UPSTREAM, message),
        }
    }

    /// Adds to a 429 how much of each limit is left, whichever limit refused the request.
    pub fn for_user(self, headroom: Headroom) -> Self {
        let is_limit = self.0.kind.status == 429;
        self.with(|words| words.headroom = words.headroom.take().or(is_limit.then_some(headroom)))
    }

    /// What every dialect's body is made from.
    pub fn object(&self) -> ErrorObject<'_> {
        let Words { message, kind, param, .. } = &*self.0;
        ErrorObject { message, kind: kind.kind, param: param.as_deref(), code: kind.code }
    }

    /// The body in the format of a dialect.
    pub fn body(&self, dialect: Dialect) -> String {
        self.object().body(dialect)
    }

    /// The `code` for programs.
    pub fn word(&self) -> Option<&'static str> {
        self.0.kind.code
    }

    /// What the request's usage row says about it.
    pub fn reason(&self) -> Reason {
        Reason::new(self.word(), self.0.limit)
    }

    /// The HTTP status.
    pub fn code(&self) -> u16 {
        self.0.kind.status
    }
}

impl From<BadRequest> for ApiError {
    fn from(bad: BadRequest) -> Self {
        Self::invalid(bad.message).with(|words| words.param = bad.param.map(Cow::Borrowed))
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Exists(_)
            | StoreError::KeyExists(_)
            | StoreError::NodeExists(_)
            | StoreError::AdminExists(_)
            | StoreError::GroupExists(_)
            | StoreError::GroupHasUsers { .. } => Self::conflict(error.to_string()),
            StoreError::NotFound(_)
            | StoreError::NoKey(_)
            | StoreError::NoNode(_)
            | StoreError::NoAdmin(_)
            | StoreError::NoGroup(_) => Self::not_found(error.to_string()),
            StoreError::TooManyKeys(_) | StoreError::TooManyAdmins(_) | StoreError::TooManyGroups(_) => {
                Self::invalid(error.to_string())
            }
            StoreError::TimedOut(_)
            | StoreError::NoAnswer(_)
            | StoreError::Database(_)
            | StoreError::Damaged { .. }
            | StoreError::File { .. }
            | StoreError::InUse { .. }
            | StoreError::Newer
            | StoreError::NotGranted(_)
            | StoreError::SharedSessions
            | StoreError::Backup { .. }
            | StoreError::Randomness(_)
            | StoreError::PepperFile { .. }
            | StoreError::PasswordFile { .. } => {
                // A database's message may quote the statement, so only the operator sees it.
                tracing::error!(%error, "the database failed, and a request with it");
                let message = "The database is not available. Please try again in 5s.";
                Self::unavailable(&error_kind::STORAGE_UNAVAILABLE, message, STORAGE_RETRY)
            }
        }
    }
}

impl From<RosterError> for ApiError {
    fn from(error: RosterError) -> Self {
        match error {
            RosterError::Unknown(_) => Self::not_found(error.to_string()),
            RosterError::Exists(_) => Self::conflict(error.to_string()),
            RosterError::InFile(_) | RosterError::Discovered(_) => {
                Self::conflict(error.to_string()).with(|words| words.kind = &error_kind::NOT_CHANGEABLE)
            }
            RosterError::Flawed(flaw) => Self::invalid_field(flaw.key, flaw.to_string()),
            RosterError::Store(error) => error.into(),
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.message)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        // Every status of the table is valid.
        StatusCode::from_u16(self.0.kind.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        if let Some(retry_after) = self.0.retry_after {
            let whole = retry_after.as_millis().div_ceil(1000).max(1);
            response.insert_header((header::RETRY_AFTER, whole.to_string()));
            response.insert_header(("retry-after-ms", retry_after.as_millis().max(1).to_string()));
        }
        if self.0.hopeless || self.0.kind.is_final() {
            response.insert_header(("x-should-retry", "false"));
        }
        if self.0.kind.status == 401 {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        if let Some(allow) = self.0.allow {
            response.insert_header((header::ALLOW, allow));
        }
        if let Some(headroom) = &self.0.headroom {
            rate_limit_headers(&mut response, headroom);
        }
        response.content_type("application/json").body(self.body(Dialect::OpenAi))
    }
}

/// Adds `x-ratelimit-*` for those limits that the user has.
pub fn rate_limit_headers(response: &mut HttpResponseBuilder, headroom: &Headroom) {
    for (what, room) in [("requests", headroom.requests), ("tokens", headroom.tokens)] {
        let Some(Remaining { limit, left, reset }) = room else { continue };
        for (name, value) in
            [("limit", limit.to_string()), ("remaining", left.to_string()), ("reset", go_duration(reset))]
        {
            let name = HeaderName::try_from(format!("x-ratelimit-{name}-{what}"));
            if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
                response.insert_header((name, value));
            }
        }
    }
}

/// A duration as Go writes it, without fractions: `250ms`, `59s`, `6m0s`, `2h5m0s`.
fn go_duration(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        return format!("{}ms", duration.as_millis());
    }
    let seconds = duration.as_millis().div_ceil(1000);
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// A client's own text, cut to 128 characters and without control characters.
fn printable(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_scripts_parse_them() {
        for (millis, text) in [(0, "0ms"), (250, "250ms"), (1000, "1s"), (59_001, "1m0s"), (7_500_000, "2h5m0s")] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn a_retry_is_promised_in_whole_seconds_and_never_at_once() {
        let response =
            ApiError::unavailable(&error_kind::OVERLOADED, "y", Duration::from_millis(1200)).error_response();
        assert_eq!(response.headers().get("retry-after").unwrap(), "2");
        assert_eq!(response.headers().get("retry-after-ms").unwrap(), "1200");
        let response = ApiError::unavailable(&error_kind::OVERLOADED, "y", Duration::ZERO).error_response();
        assert_eq!(response.headers().get("retry-after").unwrap(), "1");
    }
}
