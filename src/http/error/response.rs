//! How does an error become an HTTP response? Its status, its headers, and when a client may try again.
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};

use super::ApiError;
use limits::{Headroom, Remaining};
use protocol::Dialect;

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

/// The names of what a limit is, what is left of it, and when more becomes available.
const OF_REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const OF_TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// Adds `x-ratelimit-*` for those limits that the user has.
pub fn rate_limit_headers(response: &mut HttpResponseBuilder, headroom: &Headroom) {
    for (names, room) in [(OF_REQUESTS, headroom.requests), (OF_TOKENS, headroom.tokens)] {
        let Some(Remaining { limit, left, reset }) = room else { continue };
        let [limits, remains, resets] = names;
        response.insert_header((limits, HeaderValue::from(limit)));
        response.insert_header((remains, HeaderValue::from(left)));
        response.insert_header((resets, go_duration(reset)));
    }
}

/// A duration as Go writes it, without fractions: `250ms`, `59s`, `6m0s`, `2h5m0s`.
fn go_duration(duration: Duration) -> String {
    let mut text = String::new();
    let mut put = |number: u128, unit: &str| {
        text.push_str(itoa::Buffer::new().format(number));
        text.push_str(unit);
    };
    if duration < Duration::from_secs(1) {
        put(duration.as_millis(), "ms");
        return text;
    }
    let seconds = duration.as_millis().div_ceil(1000);
    if seconds >= 3600 {
        put(seconds / 3600, "h");
    }
    if seconds >= 60 {
        put(seconds / 60 % 60, "m");
    }
    put(seconds % 60, "s");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::error_kind;

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
