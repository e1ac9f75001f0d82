//! Normalises a request's path before anything else reads it, so that a key in a path never reaches a log.
use actix_web::HttpMessage;
use actix_web::dev::ServiceRequest;
use actix_web::http::Uri;
use actix_web::http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use actix_web::http::uri::PathAndQuery;

use protocol::{Meant, meant};

/// The model that an Azure-style path names.
#[derive(Clone, Debug)]
pub(super) struct Deployment(pub(super) String);

/// Rewrites the path to the route that it means. A key in the path becomes a header, and a model a [`Deployment`].
/// Needless escapes such as `%61` are decoded first, as the router would do.
pub(super) fn normalise(request: &mut ServiceRequest) {
    if let Some(path) = plain(request.path()) {
        set_path(request, path);
    }
    let Some(Meant { path, key, deployment }) = meant(request.path()) else { return };
    if let Some(key) = key.filter(|key| !key.is_empty()).and_then(|key| HeaderValue::try_from(key).ok()) {
        // A key in the path was put there on purpose, while one in a header is often the client's placeholder.
        let headers = request.headers_mut();
        headers.remove(AUTHORIZATION);
        headers.remove("api-key");
        headers.insert(HeaderName::from_static("x-api-key"), key);
    }
    if let Some(model) = deployment {
        request.extensions_mut().insert(Deployment(model));
    }
    set_path(request, path);
}

fn set_path(request: &mut ServiceRequest, path: String) {
    let target = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(target).ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        request.match_info_mut().get_mut().update(&uri);
        request.head_mut().uri = uri;
    }
}

/// Decodes the escapes of letters, digits and `-._~`, which mean the same with and without. `None` if there are none.
fn plain(path: &str) -> Option<String> {
    let mut parts = path.split('%');
    let mut plain = parts.next()?.to_owned();
    let mut has_changed = false;
    for part in parts {
        let byte = part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let is_digits = part.bytes().take(2).all(|digit| digit.is_ascii_hexdigit());
        match byte.filter(|byte| is_digits && (byte.is_ascii_alphanumeric() || b"-._~".contains(byte))) {
            Some(byte) => {
                plain.push(char::from(byte));
                plain.push_str(&part[2..]);
                has_changed = true;
            }
            None => {
                plain.push('%');
                plain.push_str(part);
            }
        }
    }
    has_changed.then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_need_not_be_escaped_is_not() {
        for (path, expected) in [
            ("/%61dmin/users", Some("/admin/users")),
            ("/v1/%6d%6F%64els", Some("/v1/models")),
            ("/admin/users/a%2Fb%41", Some("/admin/users/a%2FbA")),
            ("/v1/models", None),
            ("/v1/%", None),
            ("/v1/%4", None),
            ("/v1/%+1", None),
            ("/v1/%c3%a9", None),
            ("/v1/%é1", None),
        ] {
            assert_eq!(plain(path).as_deref(), expected, "{path}");
        }
    }
}
