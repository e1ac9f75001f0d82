//! What may the operator do? Users, their keys and limits, and a look at the nodes. All of it takes the admin key.
pub mod keys;
pub mod limits;
pub mod models;
pub mod nodes;
pub mod queue;
pub mod reload;
pub mod usage;
pub mod users;

use actix_web::web::{self, ServiceConfig};
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ApiError;
use super::{get, post, resource};
use ::limits::Limits;

/// Far above what anybody needs; keeps the log of one user's minute small.
const MAX_REQUESTS: u64 = 1_000_000;
const MAX_TOKENS: u64 = 1_000_000_000_000_000;
const MIN_WEIGHT: f64 = 0.001;
const MAX_WEIGHT: f64 = 1000.0;

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
        .service(
            resource("/admin/users/{id}/keys", "GET, POST")
                .route(web::get().to(keys::list))
                .route(web::post().to(keys::create)),
        )
        .service(
            resource("/admin/users/{id}/keys/{key_id}", "PATCH, DELETE")
                .route(web::patch().to(keys::change))
                .route(web::delete().to(keys::revoke)),
        )
        .service(post("/admin/users/{id}/keys/{key_id}/rotate").route(web::post().to(keys::rotate)))
        .service(get("/admin/users/{id}/usage").route(web::get().to(users::usage)))
        .service(get("/admin/usage").route(web::get().to(usage::report)))
        .service(
            resource("/admin/users/{id}/limits", "GET, PUT")
                .route(web::get().to(limits::retrieve))
                .route(web::put().to(limits::change)),
        )
        .service(get("/admin/queue").route(web::get().to(queue::list)))
        .service(get("/admin/requests/{request_id}").route(web::get().to(queue::explain)))
        .service(
            resource("/admin/nodes", "GET, POST").route(web::get().to(nodes::list)).route(web::post().to(nodes::add)),
        )
        .service(
            resource("/admin/nodes/{name}", "GET, PATCH, DELETE")
                .route(web::get().to(nodes::retrieve))
                .route(web::patch().to(nodes::change))
                .route(web::delete().to(nodes::remove)),
        )
        .service(post("/admin/nodes/{name}/drain").route(web::post().to(nodes::drain)))
        .service(post("/admin/nodes/{name}/undrain").route(web::post().to(nodes::undrain)))
        .service(get("/admin/models").route(web::get().to(models::list)))
        .service(post("/admin/models/pull").route(web::post().to(models::pull)))
        .service(post("/admin/models/load").route(web::post().to(models::load)))
        .service(post("/admin/models/unload").route(web::post().to(models::unload)))
        // A model's name may hold slashes.
        .service(resource("/admin/models/{model:.+}", "DELETE").route(web::delete().to(models::delete)))
        .service(post("/admin/reload").route(web::post().to(reload::reload)));
}

/// Tells an absent field (`None`) from an explicit null (`Some(None)`).
fn present<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: serde::Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    serde::Deserialize::deserialize(deserializer).map(Some)
}

/// Limits as the admin gives them: absent = unchanged, null = no limit.
#[derive(Clone, Copy, Debug, Default)]
struct Given {
    requests_per_minute: Option<Option<u32>>,
    tokens_per_minute: Option<Option<u64>>,
    tokens_per_day: Option<Option<u64>>,
    max_concurrency: Option<Option<u32>>,
}

impl Given {
    /// `base` with the given ones in their place.
    fn over(self, base: Limits) -> Result<Limits, ApiError> {
        let within = |name: &'static str, given: Option<u64>, most: u64| match given {
            Some(limit) if limit > most => {
                let message = format!("`{name}` must be 0 to {most}, or null for no limit.");
                Err(ApiError::invalid_field(name, message))
            }
            _ => Ok(()),
        };
        let limits = Limits {
            requests_per_minute: self.requests_per_minute.unwrap_or(base.requests_per_minute),
            tokens_per_minute: self.tokens_per_minute.unwrap_or(base.tokens_per_minute),
            tokens_per_day: self.tokens_per_day.unwrap_or(base.tokens_per_day),
            max_concurrency: self.max_concurrency.unwrap_or(base.max_concurrency),
        };
        within("requests_per_minute", limits.requests_per_minute.map(u64::from), MAX_REQUESTS)?;
        within("tokens_per_minute", limits.tokens_per_minute, MAX_TOKENS)?;
        within("tokens_per_day", limits.tokens_per_day, MAX_TOKENS)?;
        within("max_concurrency", limits.max_concurrency.map(u64::from), MAX_REQUESTS)?;
        Ok(limits)
    }
}

/// Limits as they are shown.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct ShownLimits {
    /// Admissions in any 60 s; null = no limit.
    requests_per_minute: Option<u32>,
    /// Prompt and completion tokens of the requests admitted in any 60 s; null = no limit.
    tokens_per_minute: Option<u64>,
    /// Prompt and completion tokens per UTC day; null = no limit.
    tokens_per_day: Option<u64>,
    /// Requests at a time, waiting ones included; null = no limit.
    max_concurrency: Option<u32>,
}

impl From<Limits> for ShownLimits {
    fn from(limits: Limits) -> Self {
        let Limits { requests_per_minute, tokens_per_minute, tokens_per_day, max_concurrency } = limits;
        Self { requests_per_minute, tokens_per_minute, tokens_per_day, max_concurrency }
    }
}

fn checked_weight(weight: f64) -> Result<f64, ApiError> {
    if (MIN_WEIGHT..=MAX_WEIGHT).contains(&weight) {
        return Ok(weight);
    }
    let message = format!("`weight` must be a number from {MIN_WEIGHT} to {MAX_WEIGHT}.");
    Err(ApiError::invalid_field("weight", message))
}
