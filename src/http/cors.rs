//! May a page of another origin call the API? Any may by default, with a key that it must have: the console's session stays
//! with the console. Never under `/admin` and `/console`.
use actix_web::HttpResponse;
use actix_web::dev::ServiceRequest;
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};

const METHODS: &str = "GET, HEAD, POST, OPTIONS";
/// Named by a browser that is on a public page and wants to reach a private network.
const REQUEST_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
const PREFLIGHT_VARY: &str = "origin, access-control-request-headers";
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");
const RESPONSE_HEADERS: &str = "x-request-id, request-id, x-client-request-id, openai-processing-ms, retry-after, retry-after-ms, x-should-retry, \
    x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, \
    x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, \
    x-gateway-node, x-gateway-queue-ms, x-gateway-queue-position, x-gateway-expected-ms, x-gateway-attempts";

/// What to tell the browser: `*`, or the one origin that asked.
#[derive(Clone, Debug)]
pub(super) struct Allowed(HeaderValue);

impl Allowed {
    /// Whether this request's origin may read the answer.
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

    /// Puts the headers on any answer, an error too: without them a page cannot even read why.
    pub(super) fn put(self, headers: &mut HeaderMap) {
        // A preflight's answer varies with the headers that were asked for, whatever the origin.
        if self.0 != "*" {
            let varies = if headers.contains_key(header::VARY) { PREFLIGHT_VARY } else { "origin" };
            headers.insert(header::VARY, HeaderValue::from_static(varies));
        }
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, self.0);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(RESPONSE_HEADERS));
    }
}

/// The answer to a browser that asks before it sends; without a key, as browsers send none then.
/// Any header that the page asks for may be sent: no cookie is among them, and nodes receive none that is not known.
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
