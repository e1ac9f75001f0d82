//! Paths that answer 405 to the methods that they do not have.
use actix_web::Resource;
use actix_web::web;

use super::error::ApiError;

/// A path that takes GET, and HEAD, which arrives as GET.
pub(super) fn get(path: &str) -> Resource {
    resource(path, "GET, HEAD")
}

pub(super) fn post(path: &str) -> Resource {
    resource(path, "POST")
}

/// A path that answers any method but those in `allow` with 405.
pub(super) fn resource(path: &str, allow: &'static str) -> Resource {
    web::resource(path)
        .default_service(web::to(move || async move { Err::<&str, _>(ApiError::method_not_allowed(allow)) }))
}
