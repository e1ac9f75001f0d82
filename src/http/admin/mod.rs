//! What may the operator do? Users and their limits, and a look at the nodes. All of it takes the admin key.
pub mod limits;
pub mod nodes;
pub mod queue;
pub mod users;

use actix_web::web::{self, ServiceConfig};

use super::error::ApiError;
use super::{get, resource};
use crate::limits::Limits;

/// Far above what anybody needs; keeps the log of one user's minute small.
const MAX_REQUESTS_PER_MINUTE: u32 = 1_000_000;
const MAX_TOKENS_PER_DAY: u64 = 1_000_000_000_000_000;

pub(super) fn routes(config: &mut ServiceConfig) {
    config
        .service(
            resource("/admin/users", "GET, POST")
                .route(web::get().to(users::list))
                .route(web::post().to(users::create)),
        )
        .service(
            resource("/admin/users/{id}", "GET, DELETE")
                .route(web::get().to(users::retrieve))
                .route(web::delete().to(users::delete)),
        )
        .service(get("/admin/users/{id}/usage").route(web::get().to(users::usage)))
        .service(
            resource("/admin/users/{id}/limits", "GET, PUT")
                .route(web::get().to(limits::retrieve))
                .route(web::put().to(limits::change)),
        )
        .service(get("/admin/queue").route(web::get().to(queue::list)))
        .service(get("/admin/requests/{request_id}").route(web::get().to(queue::explain)))
        .service(get("/admin/nodes").route(web::get().to(nodes::list)));
}

/// Tells an absent field (`None`) from an explicit null (`Some(None)`).
fn present<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: serde::Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    serde::Deserialize::deserialize(deserializer).map(Some)
}

/// `base` with the given fields in their place.
fn changed(
    base: Limits,
    requests_per_minute: Option<Option<u32>>,
    tokens_per_day: Option<Option<u64>>,
) -> Result<Limits, ApiError> {
    let limits = Limits {
        requests_per_minute: requests_per_minute.unwrap_or(base.requests_per_minute),
        tokens_per_day: tokens_per_day.unwrap_or(base.tokens_per_day),
    };
    if limits.requests_per_minute.is_some_and(|limit| limit > MAX_REQUESTS_PER_MINUTE) {
        let message = format!("`requests_per_minute` must be 0 to {MAX_REQUESTS_PER_MINUTE}, or null for no limit.");
        return Err(ApiError::invalid_field("requests_per_minute", message));
    }
    if limits.tokens_per_day.is_some_and(|limit| limit > MAX_TOKENS_PER_DAY) {
        let message = format!("`tokens_per_day` must be 0 to {MAX_TOKENS_PER_DAY}, or null for no limit.");
        return Err(ApiError::invalid_field("tokens_per_day", message));
    }
    Ok(limits)
}
