//! A user's limits: read with what is used and left, changed for the next request on.
use actix_web::web::{Data, Json, Path};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{changed, present};
use crate::http::auth::Admin;
use crate::http::body::JsonObject;
use crate::http::error::ApiError;
use crate::http::openapi;
use crate::limits::Standing;
use crate::relay::Meters;
use crate::store::{Account, Accounts, StoreError};

/// A change of limits: absent = unchanged, null = no limit.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeLimits {
    /// Admissions in any 60 s.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u32>, maximum = 1_000_000, example = 10)]
    requests_per_minute: Option<Option<u32>>,
    /// Prompt and completion tokens per UTC day.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u64>, maximum = 1_000_000_000_000_000_u64, example = 10000)]
    tokens_per_day: Option<Option<u64>>,
}

/// Limits with what is used and left.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserLimits {
    /// The user.
    user_id: String,
    /// Admissions in any 60 s; null = no limit.
    requests_per_minute: Option<u32>,
    /// Prompt and completion tokens per UTC day; null = no limit.
    tokens_per_day: Option<u64>,
    /// What is used.
    used: Used,
    /// What is left.
    left: Left,
}

/// What counts at the moment.
#[derive(Debug, Serialize, ToSchema)]
pub struct Used {
    /// Admissions in the last 60 s; counted only under a limit.
    requests_last_minute: u32,
    /// Tokens of ended requests today (UTC).
    tokens_today: u64,
    /// Tokens that running requests hold.
    tokens_reserved: u64,
}

/// What may still be used; null = no limit.
#[derive(Debug, Serialize, ToSchema)]
pub struct Left {
    /// Admissions in this window.
    requests: Option<u32>,
    /// Tokens today.
    tokens: Option<u64>,
}

impl UserLimits {
    fn new(account: &Account, standing: Standing) -> Self {
        Self {
            user_id: account.user().as_str().to_owned(),
            requests_per_minute: standing.limits.requests_per_minute,
            tokens_per_day: standing.limits.tokens_per_day,
            used: Used {
                requests_last_minute: standing.requests_used,
                tokens_today: standing.tokens_used,
                tokens_reserved: standing.tokens_reserved,
            },
            left: Left { requests: standing.requests_left(), tokens: standing.tokens_left() },
        }
    }
}

/// Read limits
#[utoipa::path(
    get, path = "/admin/users/{id}/limits", tag = "admin", security(("admin_key" = [])),
    params(("id" = String, Path, description = "The user.")),
    responses((status = 200, body = UserLimits), openapi::AdminResponses, openapi::NotFoundResponse),
)]
pub async fn retrieve(
    _: Admin,
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    id: Path<String>,
) -> Result<Json<UserLimits>, ApiError> {
    let account = accounts.by_user(&id).ok_or_else(|| ApiError::from(StoreError::NotFound(id.into_inner())))?;
    Ok(Json(UserLimits::new(&account, account.standing(meters.clock.now()))))
}

/// Change limits
///
/// In force from the next request on.
#[utoipa::path(
    put, path = "/admin/users/{id}/limits", tag = "admin", security(("admin_key" = [])), request_body = ChangeLimits,
    params(("id" = String, Path, description = "The user.")),
    responses(
        (status = 200, body = UserLimits), openapi::AdminResponses, openapi::NotFoundResponse, openapi::StorageResponse,
    ),
)]
pub async fn change(
    _: Admin,
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    id: Path<String>,
    JsonObject(body): JsonObject<ChangeLimits>,
) -> Result<Json<UserLimits>, ApiError> {
    let account = accounts.by_user(&id).ok_or_else(|| ApiError::from(StoreError::NotFound(id.to_string())))?;
    let limits = changed(account.limits(), body.requests_per_minute, body.tokens_per_day)?;
    let account = accounts.set_limits(&id, limits).await?;
    tracing::info!(user = id.as_str(), ?limits, "limits changed");
    Ok(Json(UserLimits::new(&account, account.standing(meters.clock.now()))))
}
