//! What does a request present to be let in: a key, a session, or nothing?
use actix_web::HttpRequest;
use actix_web::http::Method;
use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderName};
use actix_web::web::Data;

use super::cookies::{count_on, is_of_console, token_of};
use super::error::ApiError;
use super::sessions::{Session, Sessions};
use crate::relay::Meters;

/// Where a key may stand by itself, as Anthropic's and Azure's clients send it.
const PLAIN: [HeaderName; 2] = [HeaderName::from_static("x-api-key"), HeaderName::from_static("api-key")];

/// What a request presents.
#[derive(Clone, Copy, Debug)]
pub(super) enum Credential<'a> {
    /// A key, whosever it is.
    Key(&'a str),
    /// A session at the console.
    Session(Session),
    /// A session that is not known any more.
    EndedSession,
    /// Nothing.
    Nothing,
}

/// What a request presents. A key counts before a session.
pub(super) fn credential(request: &HttpRequest) -> Result<Credential<'_>, ApiError> {
    if let Some(key) = key_of(request.headers())? {
        return Ok(Credential::Key(key));
    }
    match token_of(request.headers()).filter(|_| count_on(request.path())) {
        None => Ok(Credential::Nothing),
        Some(token) => {
            check_page(request)?;
            let now = dependency::<Meters>(request)?.clock.now();
            Ok(dependency::<Sessions>(request)?.find(token, now).map_or(Credential::EndedSession, Credential::Session))
        }
    }
}

/// A browser sends its session along whoever's page asks: what changes something must come from the console's own.
pub(super) fn check_page(request: &HttpRequest) -> Result<(), ApiError> {
    // HEAD has become GET by now.
    if request.method() == Method::GET || is_of_console(request.headers()) {
        return Ok(());
    }
    Err(ApiError::forbidden("A session changes things only from the console's own page. Send an API key instead."))
}

pub(super) fn no_key() -> ApiError {
    ApiError::unauthorized("No API key. Send it as `Authorization: Bearer <key>` (or as `x-api-key`).")
}

pub(super) fn session_ended() -> ApiError {
    ApiError::unauthorized("Your session has ended. Please sign in again.")
}

pub(super) fn dependency<T: 'static>(request: &HttpRequest) -> Result<&Data<T>, ApiError> {
    request.app_data::<Data<T>>().ok_or_else(|| ApiError::internal("The service is not set up completely."))
}

/// The one key of a request, from any of the three headers that clients use; `None` where none of them holds one. Programs
/// without a key send an empty one, and a proxy in front may add a scheme of its own beside the key.
pub(super) fn key_of(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let mut found: Option<&str> = None;
    let mut has_other_scheme = false;
    let bearers = headers.get_all(AUTHORIZATION).map(|value| (value, true));
    let plain = PLAIN.into_iter().flat_map(|name| headers.get_all(name).map(|value| (value, false)));
    for (value, is_bearer) in bearers.chain(plain) {
        let text = value
            .to_str()
            .map_err(|_| ApiError::unauthorized("The API key contains characters that cannot be part of one."))?;
        let key = if is_bearer { bearer(text) } else { Some(text.trim()) };
        match (key, found) {
            (None, _) => has_other_scheme = true,
            (Some(""), _) => {}
            (Some(key), Some(other)) if other != key => {
                return Err(ApiError::invalid("The request carries two different API keys; send one."));
            }
            (Some(key), _) => found = Some(key),
        }
    }
    if found.is_none() && has_other_scheme {
        return Err(ApiError::unauthorized("The Authorization header must be `Bearer <key>`."));
    }
    Ok(found)
}

/// The key in an Authorization header, empty where there is none; `None` where the scheme is another.
fn bearer(value: &str) -> Option<&str> {
    let value = value.trim();
    let (scheme, key) = value.split_once(' ').unwrap_or((value, ""));
    (scheme.is_empty() || scheme.eq_ignore_ascii_case("bearer")).then(|| key.trim())
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn key(headers: &[(&'static str, &'static str)]) -> Result<String, u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        key_of(&map).map(|key| key.unwrap_or_default().to_owned()).map_err(|error| error.code())
    }

    #[test]
    fn a_key_is_taken_from_any_of_the_headers() {
        assert_eq!(key(&[("authorization", "Bearer k")]), Ok("k".to_owned()));
        assert_eq!(key(&[("authorization", "bEARER  k ")]), Ok("k".to_owned()));
        assert_eq!(key(&[("x-api-key", "k")]), Ok("k".to_owned()));
        assert_eq!(key(&[("api-key", "k"), ("authorization", "Bearer k")]), Ok("k".to_owned()));
    }

    #[test]
    fn two_keys_are_a_mistake() {
        assert_eq!(key(&[("x-api-key", "a"), ("authorization", "Bearer b")]), Err(400));
        assert_eq!(key(&[("authorization", "Bearer a"), ("authorization", "Bearer b")]), Err(400));
    }

    #[test]
    fn an_empty_key_is_none_and_another_scheme_counts_only_where_there_is_no_key() {
        for none in
            [("authorization", "Bearer"), ("authorization", "Bearer "), ("authorization", ""), ("x-api-key", " ")]
        {
            assert_eq!(key(&[none]), Ok(String::new()), "{none:?}");
            assert_eq!(key(&[none, ("api-key", "k")]), Ok("k".to_owned()), "{none:?}");
        }
        assert_eq!(key(&[]), Ok(String::new()));
        for other in ["Basic eA==", "k"] {
            assert_eq!(key(&[("authorization", other)]), Err(401), "{other}");
            assert_eq!(key(&[("authorization", other), ("x-api-key", "k")]), Ok("k".to_owned()), "{other}");
        }
    }
}
