//! How is a path answered for a method that it does not have?
use actix_web::web;
use actix_web::{FromRequest, Handler, Resource, Responder};

use super::error::ApiError;

/// A path for GET and HEAD.
pub(super) fn readable<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args> + Clone,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    resource(path, "GET, HEAD").route(web::get().to(handler.clone())).route(web::head().to(handler))
}

pub(super) fn get(path: &str) -> Resource {
    resource(path, "GET")
}

pub(super) fn post(path: &str) -> Resource {
    resource(path, "POST")
}

/// A path that answers any method but those in `allow` with 405.
pub(super) fn resource(path: &str, allow: &'static str) -> Resource {
    web::resource(path)
        .default_service(web::to(move || async move { Err::<&str, _>(ApiError::method_not_allowed(allow)) }))
}
