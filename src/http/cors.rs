//! May a page of another origin call the API? Any may by default: there are no cookies, only keys that the page must have.
//! Never under `/admin`.
use actix_web::HttpResponse;
use actix_web::dev::ServiceRequest;
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};

const METHODS: &str = "GET, HEAD, POST, OPTIONS";
/// What Ollama allows, and what the SDKs of OpenAI and Anthropic send besides.
const REQUEST_HEADERS: &str = "authorization, content-type, user-agent, accept, x-requested-with, openai-beta, \
    x-api-key, api-key, anthropic-version, anthropic-beta, anthropic-dangerous-direct-browser-access, x-request-id, \
    x-stainless-arch, x-stainless-async, x-stainless-custom-poll-interval, x-stainless-helper-method, x-stainless-lang, \
    x-stainless-os, x-stainless-package-version, x-stainless-poll-helper, x-stainless-retry-count, x-stainless-runtime, \
    x-stainless-runtime-version, x-stainless-timeout";
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
        if request.path() == "/admin" || request.path().starts_with("/admin/") {
            return None;
        }
        if origins.iter().any(|allowed| allowed == "*") {
            return Some(Self(HeaderValue::from_static("*")));
        }
        origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()).then(|| Self(origin.clone()))
    }

    /// Puts the headers on any answer, an error too: without them a page cannot even read why.
    pub(super) fn put(self, headers: &mut HeaderMap) {
        if self.0 != "*" {
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, self.0);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(RESPONSE_HEADERS));
    }
}

/// The answer to a browser that asks before it sends; without a key, as browsers send none then.
pub(super) fn preflight(request: &ServiceRequest) -> Option<HttpResponse> {
    let asks =
        request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let header = |name: HeaderName, value: &'static str| (name, HeaderValue::from_static(value));
    asks.then(|| {
        HttpResponse::NoContent()
            .insert_header(header(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS))
            .insert_header(header(header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS))
            .insert_header(header(header::ACCESS_CONTROL_MAX_AGE, "86400"))
            .finish()
    })
}
