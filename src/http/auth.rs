//! Whose key is this? User keys open user routes, the admin key admin routes, and neither the other's.
use std::future::{Ready, ready};
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use actix_web::web::Data;
use actix_web::{FromRequest, HttpMessage, HttpRequest};

use super::error::ApiError;
use super::guesses::Guesses;
use super::settings::ServerSettings;
use crate::relay::Meters;
use crate::store::{Access, Accounts, Found, KeyDigest};

/// The digest of the admin key.
#[derive(Clone, Copy, Debug)]
pub struct AdminKey(pub KeyDigest);

/// The user who calls.
#[derive(Clone, Debug)]
pub struct Caller(pub Access);

/// Proof that whoever calls has sent no key, or the key of a user.
#[derive(Clone, Copy, Debug)]
pub struct Anybody;

/// Proof that the admin calls.
#[derive(Clone, Copy, Debug)]
pub struct Admin;

impl FromRequest for Caller {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(caller(request))
    }
}

impl FromRequest for Anybody {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(match key_of(request.headers()) {
            Ok(None) => Ok(Self),
            _ => caller(request).map(|_| Self),
        })
    }
}

impl FromRequest for Admin {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(admin(request))
    }
}

/// The name of the user who calls, for whoever looks at the request afterwards.
#[derive(Clone, Debug)]
pub(super) struct CalledBy(pub(super) Arc<str>);

/// The owner of the request's key; without a key, the user whom its network stands for.
pub(super) fn caller(request: &HttpRequest) -> Result<Caller, ApiError> {
    let caller = find_caller(request)?;
    request.extensions_mut().insert(CalledBy(caller.0.user().shared()));
    Ok(caller)
}

fn find_caller(request: &HttpRequest) -> Result<Caller, ApiError> {
    let accounts = dependency::<Accounts>(request)?;
    let Some(key) = key_of(request.headers())? else {
        return trusted(request, accounts).ok_or_else(no_key).and_then(let_in);
    };
    match accounts.find(key, dependency::<Meters>(request)?.clock.now()) {
        Found::Access(access) => let_in(access),
        Found::Expired => Err(ApiError::unauthorized("This API key has expired. Ask the operator for a new one.")),
        Found::Unknown if dependency::<AdminKey>(request)?.0.matches(&KeyDigest::of(key)) => Err(
            ApiError::unauthorized("The admin key is no user key. Make a user with POST /admin/users and use its key."),
        ),
        Found::Unknown if !accounts.is_current() => Err(ApiError::users_away()),
        Found::Unknown => Err(wrong(request, "Incorrect API key. Ask the operator of this service for a key.")?),
    }
}

/// What a key that is none hears: 401 some times, and then 429.
fn wrong(request: &HttpRequest, message: &str) -> Result<ApiError, ApiError> {
    let now = dependency::<Meters>(request)?.clock.uptime();
    // Of the connection itself: what headers say of an address can be forged.
    let guessed = match request.peer_addr() {
        Some(address) => dependency::<Guesses>(request)?.wrong(address.ip(), now),
        None => Ok(()),
    };
    Ok(match guessed {
        Ok(()) => ApiError::unauthorized(message),
        Err(retry_after) => ApiError::guessed_too_often(retry_after),
    })
}

/// A key may be good, and its user suspended all the same.
fn let_in(access: Access) -> Result<Caller, ApiError> {
    if access.account().is_suspended() { Err(ApiError::suspended()) } else { Ok(Caller(access)) }
}

fn trusted(request: &HttpRequest, accounts: &Accounts) -> Option<Access> {
    let networks = &request.app_data::<Data<ServerSettings>>()?.trusted_networks;
    // Of the connection itself: what headers say of an address can be forged.
    let address = request.peer_addr()?.ip().to_canonical();
    let network = networks.iter().find(|network| network.cidr.contains(&address))?;
    let now = dependency::<Meters>(request).ok()?.clock.now();
    accounts.by_network(&network.user, now)
}

fn admin(request: &HttpRequest) -> Result<Admin, ApiError> {
    let key = key_of(request.headers())?.ok_or_else(no_key)?;
    if dependency::<AdminKey>(request)?.0.matches(&KeyDigest::of(key)) {
        return Ok(Admin);
    }
    Err(match dependency::<Accounts>(request)?.find(key, dependency::<Meters>(request)?.clock.now()) {
        Found::Access(_) | Found::Expired => {
            ApiError::forbidden("A user's key does not open this path; it takes the admin key.")
        }
        Found::Unknown => wrong(request, "Incorrect admin key.")?,
    })
}

fn no_key() -> ApiError {
    ApiError::unauthorized("No API key. Send it as `Authorization: Bearer <key>` (or as `x-api-key`).")
}

fn dependency<T: 'static>(request: &HttpRequest) -> Result<&Data<T>, ApiError> {
    request.app_data::<Data<T>>().ok_or_else(|| ApiError::internal("The service is not set up completely."))
}

/// The one key of a request, from any of the three headers that clients use; `None` where none of them is there.
fn key_of(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let mut found: Option<&str> = None;
    let bearers = headers.get_all(AUTHORIZATION).map(|value| (value, true));
    let plain = ["x-api-key", "api-key"].into_iter().flat_map(|name| headers.get_all(name).map(|value| (value, false)));
    for (value, is_bearer) in bearers.chain(plain) {
        let text = value.to_str().map_err(|_| ApiError::unauthorized("The API key has characters that no key has."))?;
        let key = if is_bearer { bearer(text)? } else { text.trim() };
        match found {
            Some(other) if other != key => {
                return Err(ApiError::invalid("The request carries two different API keys; send one."));
            }
            _ => found = Some(key),
        }
    }
    if found.is_some_and(str::is_empty) { Err(no_key()) } else { Ok(found) }
}

fn bearer(value: &str) -> Result<&str, ApiError> {
    match value.trim().split_once(' ') {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => Ok(key.trim()),
        _ if value.trim().eq_ignore_ascii_case("bearer") => Ok(""),
        _ => Err(ApiError::unauthorized("The Authorization header must be `Bearer <key>`.")),
    }
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
    fn two_keys_are_a_mistake_and_none_is_not_allowed() {
        assert_eq!(key(&[("x-api-key", "a"), ("authorization", "Bearer b")]), Err(400));
        assert_eq!(key(&[]), Ok(String::new()));
        assert_eq!(key(&[("authorization", "Bearer a"), ("authorization", "Bearer b")]), Err(400));
        for headers in [&[("authorization", "Bearer")][..], &[("authorization", "Basic eA==")], &[("x-api-key", " ")]] {
            assert_eq!(key(headers), Err(401), "{headers:?}");
        }
    }
}
