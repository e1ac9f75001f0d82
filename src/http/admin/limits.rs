//! A user's limits: read with what is used and left, changed for the next request on.
use std::sync::Arc;

use actix_web::web::{Data, Json, Path};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::given::{ShownLimits, body_with_limits, checked_weight, limits_over, present};
use crate::http::answers;
use crate::http::auth::Admin;
use crate::http::body::JsonObject;
use crate::http::error::ApiError;
use crate::relay::Meters;
use crate::store::{Account, Accounts, Broker, StoreError, Terms};
use limits::Balance;

body_with_limits! {
    /// A change of limits: absent = unchanged, null = no limit.
    pub struct ChangeLimits {
        /// The user's share of a busy service beside others': twice the weight, twice the work. Absent = unchanged.
        #[schema(minimum = 0.001, maximum = 1000, example = 1)]
        weight: Option<f64>,
    }
}

/// Limits with what is used and left.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserLimits {
    /// The user.
    user_id: String,
    #[serde(flatten)]
    limits: ShownLimits,
    /// The user's share of a busy service beside others'.
    weight: f64,
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
    /// Tokens of the requests admitted in the last 60 s, reserved ones included; counted only under a limit.
    tokens_last_minute: u64,
    /// Tokens of ended requests today (UTC).
    tokens_today: u64,
    /// Tokens that running requests hold.
    tokens_reserved: u64,
    /// Requests that run or wait.
    concurrency: u32,
}

/// What may still be used; null = no limit.
#[derive(Debug, Serialize, ToSchema)]
pub struct Left {
    /// Admissions in this window.
    requests: Option<u32>,
    /// Tokens in this minute.
    tokens_this_minute: Option<u64>,
    /// Tokens today.
    tokens: Option<u64>,
}

impl UserLimits {
    /// As they stand, with what other gateways on the same database hold.
    pub(in crate::http) async fn of(account: &Arc<Account>, broker: &Option<Broker>, meters: &Meters) -> Self {
        look(broker, account).await;
        Self::new(account, account.balance(meters.clock.now()))
    }

    fn new(account: &Account, balance: Balance) -> Self {
        Self {
            user_id: account.user().as_str().to_owned(),
            limits: balance.limits.into(),
            weight: account.terms().weight,
            used: Used {
                requests_last_minute: balance.requests_used,
                tokens_last_minute: balance.minute_tokens,
                tokens_today: balance.tokens_used,
                tokens_reserved: balance.tokens_reserved,
                concurrency: balance.running,
            },
            left: Left {
                requests: balance.requests_left(),
                tokens_this_minute: balance.minute_tokens_left(),
                tokens: balance.tokens_left(),
            },
        }
    }
}

/// Learns what other gateways on the same database hold.
async fn look(broker: &Option<Broker>, account: &Arc<Account>) {
    if let Some(broker) = broker
        && let Err(why) = broker.look(account).await
    {
        tracing::debug!(%why, "what other gateways hold of a limit is what was last known");
    }
}

/// Terms as the audit log has them.
fn shown(terms: Terms) -> Value {
    json!({"weight": terms.weight, "limits": ShownLimits::from(terms.limits)})
}

/// Read limits
#[utoipa::path(
    get, path = "/admin/users/{id}/limits", tag = "admin", security(("admin_key" = [])),
    params(("id" = String, Path, description = "The user.")),
    responses((status = 200, body = UserLimits), answers::AdminResponses, answers::NotFoundResponse),
)]
pub async fn retrieve(
    _: Admin,
    accounts: Data<Accounts>,
    broker: Data<Option<Broker>>,
    meters: Data<Meters>,
    id: Path<String>,
) -> Result<Json<UserLimits>, ApiError> {
    let account = accounts.by_user(&id, meters.clock.now());
    let account = account.ok_or_else(|| ApiError::from(StoreError::NotFound(id.into_inner())))?;
    Ok(Json(UserLimits::of(&account, &broker, &meters).await))
}

/// Change limits
///
/// In force from the next request on.
#[utoipa::path(
    put, path = "/admin/users/{id}/limits", tag = "admin", security(("admin_key" = [])), request_body = ChangeLimits,
    params(("id" = String, Path, description = "The user.")),
    responses(
        (status = 200, body = UserLimits), answers::AdminResponses, answers::NotFoundResponse, answers::StorageResponse,
    ),
)]
pub async fn change(
    admin: Admin,
    accounts: Data<Accounts>,
    broker: Data<Option<Broker>>,
    meters: Data<Meters>,
    id: Path<String>,
    JsonObject(body): JsonObject<ChangeLimits>,
) -> Result<Json<UserLimits>, ApiError> {
    let now = meters.clock.now();
    let account = accounts.by_user(&id, now).ok_or_else(|| ApiError::from(StoreError::NotFound(id.to_string())))?;
    let before = account.terms();
    let weight = checked_weight(body.weight.unwrap_or(before.weight))?;
    let terms = Terms { limits: limits_over(before.limits, body.limits())?, weight };
    admin.changes(&id, Some(shown(before)), Some(shown(terms)));
    let account = accounts.set_terms(&id, terms, now).await?;
    tracing::info!(user = id.as_str(), ?terms, "limits changed");
    Ok(Json(UserLimits::of(&account, &broker, &meters).await))
}
