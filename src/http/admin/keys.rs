//! A user's keys: made and rotated with a secret that is shown once, listed, changed, revoked.
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::web::{Data, Json, Path};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::key_bodies::{ChangeKey, ChangedKey, CreateKey, CreatedKey, KeyList, RevokedKey, UserKey};
use crate::http::answers;
use crate::http::auth::Admin;
use crate::http::body::{JsonObject, JsonOrNothing};
use crate::http::error::ApiError;
use crate::http::names::KnownModels;
use crate::relay::Meters;
use crate::store::Accounts;
use limits::Moment;

/// Longest overlap of two secrets of one key: 7 days.
const MAX_GRACE_SECONDS: u64 = 7 * 86_400;

/// A new secret for a key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateKey {
    /// How long the secret in force goes on working, seconds, up to 7 days; 0 = it stops now. Both count towards the same
    /// limits. Default 0.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 604_800, default = 0, example = 86400)]
    grace_seconds: u64,
}

impl RotateKey {
    pub(super) fn grace(&self) -> Result<Duration, ApiError> {
        if self.grace_seconds > MAX_GRACE_SECONDS {
            let message = format!("`grace_seconds` must be 0 to {MAX_GRACE_SECONDS}.");
            return Err(ApiError::invalid_field("grace_seconds", message));
        }
        Ok(Duration::from_secs(self.grace_seconds))
    }
}

/// A key as it is now, for the audit log.
async fn shown(accounts: &Accounts, user: &str, id: &str, now: Moment) -> Option<Value> {
    let keys = accounts.keys_of(user, now).await.ok()?;
    keys.iter().find(|key| **key.id() == *id).map(|key| json!(UserKey::new(key, now.unix_ms)))
}

/// Make a key
///
/// A further key of the user, which works at once. All keys of a user share the user's limits; the limits of a key hold
/// besides.
#[utoipa::path(
    post, path = "/admin/users/{id}/keys", tag = "admin", security(("admin_key" = [])), request_body = CreateKey,
    params(("id" = String, Path, description = "The user.")),
    responses(
        (status = 201, body = CreatedKey),
        (status = 409, description = "The user has a key of this name.", body = answers::ErrorBody),
        answers::AdminResponses, answers::NotFoundResponse, answers::StorageResponse,
    ),
)]
pub async fn create(
    admin: Admin,
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    models: KnownModels,
    id: Path<String>,
    JsonObject(body): JsonObject<CreateKey>,
) -> Result<HttpResponse, ApiError> {
    let now = meters.clock.now();
    let (name, spec) = body.spec(now.unix_ms)?;
    admin.changes_from(&id, None);
    let made = accounts.create_key(&id, name, spec, now).await?;
    tracing::info!(user = id.as_str(), key = &**made.key.id(), "key made");
    Ok(HttpResponse::Created().json(CreatedKey::new(&made, now.unix_ms).with_warnings(&models)))
}

/// List keys
///
/// Never a secret.
#[utoipa::path(
    get, path = "/admin/users/{id}/keys", tag = "admin", security(("admin_key" = [])),
    params(("id" = String, Path, description = "The user.")),
    responses((status = 200, body = KeyList), answers::AdminResponses, answers::NotFoundResponse),
)]
pub async fn list(
    _: Admin,
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    id: Path<String>,
) -> Result<Json<KeyList>, ApiError> {
    let now = meters.clock.now();
    Ok(Json(KeyList::new(&accounts.keys_of(&id, now).await?, now.unix_ms)))
}

/// Change a key
///
/// In force from the next request on, whichever gateway it comes to within 5 s. What was used stays used, and running
/// requests go on.
#[utoipa::path(
    patch, path = "/admin/users/{id}/keys/{key_id}", tag = "admin", security(("admin_key" = [])),
    request_body = ChangeKey,
    params(("id" = String, Path, description = "The user."), ("key_id" = String, Path, description = "The key.")),
    responses(
        (status = 200, body = ChangedKey),
        (status = 409, description = "The user has another key of this name.", body = answers::ErrorBody),
        answers::AdminResponses, answers::NotFoundResponse, answers::StorageResponse,
    ),
)]
pub async fn change(
    admin: Admin,
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    models: KnownModels,
    path: Path<(String, String)>,
    JsonObject(body): JsonObject<ChangeKey>,
) -> Result<Json<ChangedKey>, ApiError> {
    let ((user, id), now) = (path.into_inner(), meters.clock.now());
    admin.changes_from(&format!("{user}/{id}"), shown(&accounts, &user, &id, now).await);
    let key = accounts.change_key(&user, &id, body.change(now.unix_ms)?, now).await?;
    tracing::info!(user, key = id, "key changed");
    Ok(Json(ChangedKey::new(&key, now.unix_ms, &models)))
}

/// Revoke a key
///
/// It stops working at once, and running requests that came with it end.
#[utoipa::path(
    delete, path = "/admin/users/{id}/keys/{key_id}", tag = "admin", security(("admin_key" = [])),
    params(("id" = String, Path, description = "The user."), ("key_id" = String, Path, description = "The key.")),
    responses(
        (status = 200, body = RevokedKey), answers::AdminResponses, answers::NotFoundResponse, answers::StorageResponse,
    ),
)]
pub async fn revoke(
    admin: Admin,
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    path: Path<(String, String)>,
) -> Result<Json<RevokedKey>, ApiError> {
    let (user, id) = path.into_inner();
    admin.changes(&format!("{user}/{id}"), shown(&accounts, &user, &id, meters.clock.now()).await, None);
    accounts.revoke_key(&user, &id).await?;
    tracing::info!(user, key = id, "key revoked");
    Ok(Json(RevokedKey::new(id)))
}

/// Rotate a key
///
/// Gives the key a new secret; the one in force goes on working for `grace_seconds`. The key stays the same: its name, its
/// end, its models and its limits. Without a body the secret in force stops now.
#[utoipa::path(
    post, path = "/admin/users/{id}/keys/{key_id}/rotate", tag = "admin", security(("admin_key" = [])),
    request_body = Option<RotateKey>,
    params(("id" = String, Path, description = "The user."), ("key_id" = String, Path, description = "The key.")),
    responses(
        (status = 200, body = CreatedKey), answers::AdminResponses, answers::NotFoundResponse, answers::StorageResponse,
    ),
)]
pub async fn rotate(
    admin: Admin,
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    path: Path<(String, String)>,
    JsonOrNothing(body): JsonOrNothing<RotateKey>,
) -> Result<Json<CreatedKey>, ApiError> {
    let ((user, id), now, grace) = (path.into_inner(), meters.clock.now(), body.grace()?);
    admin.changes_from(&format!("{user}/{id}"), shown(&accounts, &user, &id, now).await);
    let made = accounts.rotate_key(&user, &id, grace, now).await?;
    tracing::info!(user, key = id, grace_seconds = grace.as_secs(), "key rotated");
    Ok(Json(CreatedKey::new(&made, now.unix_ms)))
}
