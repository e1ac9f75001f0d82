//! Puts a request's path into the form that routes have, before anything looks at it: no log holds a key from a path.
use actix_web::HttpMessage;
use actix_web::dev::ServiceRequest;
use actix_web::http::Uri;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::http::uri::PathAndQuery;

use protocol::{Meant, meant};

/// The model that a path in Azure's form names.
#[derive(Clone, Debug)]
pub(super) struct Deployment(pub(super) String);

/// Rewrites the path to the one that is meant: a key in it becomes a header, a model in it a [`Deployment`].
pub(super) fn normalise(request: &mut ServiceRequest) {
    let Some(Meant { path, key, deployment }) = meant(request.path()) else { return };
    if let Some(key) = key.and_then(|key| HeaderValue::try_from(key).ok()) {
        request.headers_mut().append(HeaderName::from_static("x-api-key"), key);
    }
    if let Some(model) = deployment {
        request.extensions_mut().insert(Deployment(model));
    }
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
