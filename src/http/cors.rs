//! May a page of another origin call the API? By default any may, but it needs a key: the session of the console works
//! for the console alone. `/admin` and `/console` are closed to other origins.
use actix_web::HttpResponse;
use actix_web::dev::ServiceRequest;
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};

const METHODS: &str = "GET, HEAD, POST, OPTIONS";
/// Sent by a browser when a public page wants to reach a private network.
const REQUEST_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
const PREFLIGHT_VARY: &str = "origin, access-control-request-headers";
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");
const RESPONSE_HEADERS: &str = "x-request-id, request-id, x-client-request-id, openai-processing-ms, retry-after, retry-after-ms, x-should-retry, \
    x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, \
    x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, \
    x-gateway-node, x-gateway-queue-ms, x-gateway-queue-position, x-gateway-expected-ms, x-gateway-attempts";

/// The origin to allow: `*`, or the one that asked.
#[derive(Clone, Debug)]
pub(super) struct Allowed(HeaderValue);

impl Allowed {
    /// `None` if the request names no origin, or one that may not read the answer.
    pub(super) fn of(request: &ServiceRequest, origins: &[String]) -> Option<Self> {
        let origin = request.headers().get(header::ORIGIN)?;
        let is_under =
            |root: &str| request.path().strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if is_under("/admin") || is_under("/console") {
            return None;
        }
        if origins.iter().any(|allowed| allowed == "*") {
            return Some(Self(HeaderValue::from_static("*")));
        }
        origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()).then(|| Self(origin.clone()))
    }

    /// Adds the headers to any answer, errors included: without them a page cannot read what went wrong.
    pub(super) fn put(self, headers: &mut HeaderMap) {
        // The answer to a preflight also varies with the headers that were asked for.
        if self.0 != "*" {
            let varies = if headers.contains_key(header::VARY) { PREFLIGHT_VARY } else { "origin" };
            headers.insert(header::VARY, HeaderValue::from_static(varies));
        }
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, self.0);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(RESPONSE_HEADERS));
    }
}

/// Answers a preflight, which needs no key, as browsers send none with it; `None` for any other request.
///
/// The page may send any header that it asks for: cookies are not among them, and nodes get only headers that the
/// gateway knows.
pub(super) fn preflight(request: &ServiceRequest, private_network: bool) -> Option<HttpResponse> {
    let headers = request.headers();
    if request.method() != Method::OPTIONS || !headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    let mut answer = HttpResponse::NoContent();
    answer.insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS)));
    answer.insert_header((header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400")));
    if let Some(asked) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        answer.insert_header((header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone()));
        answer.insert_header((header::VARY, HeaderValue::from_static("access-control-request-headers")));
    }
    if private_network && headers.get(REQUEST_PRIVATE_NETWORK).is_some_and(|asked| asked == "true") {
        answer.insert_header((ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true")));
    }
    Some(answer.finish())
}
