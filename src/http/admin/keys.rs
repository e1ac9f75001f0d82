//! A user's keys: made and rotated with a secret that is shown once, listed, changed, revoked.
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::web::{Data, Json, Path};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::given::{ShownLimits, body_with_limits, limits_over, present};
use crate::http::answers;
use crate::http::auth::Admin;
use crate::http::body::{JsonObject, JsonOrNothing};
use crate::http::error::ApiError;
use crate::http::time::{moment, rfc3339};
use crate::relay::Meters;
use crate::store::{Accounts, AllowedModels, Key, KeyChange, KeySpec, MadeKey, SecretEnd};
use limits::{Limits, Moment};

/// Longest overlap of two secrets of one key: 7 days.
const MAX_GRACE_SECONDS: u64 = 7 * 86_400;
const MAX_MODELS: usize = 100;

body_with_limits! {
    /// A key to be made.
    pub struct CreateKey {
        /// For lists, 1 to 64 characters. Default `default`.
        #[schema(example = "laptop", min_length = 1, max_length = 64)]
        name: Option<String>,
        /// When it ends, RFC 3339, or a date (UTC). Null or absent = never.
        #[schema(example = "2027-01-01")]
        expires_at: Option<String>,
        /// The models that it may be used for, as /v1/models lists them; a name without a tag means `:latest`. Null or absent =
        /// all, also those to come.
        #[schema(example = json!(["llama3.2", "llava"]))]
        allowed_models: Option<Vec<String>>,
    }
}

body_with_limits! {
    /// A change of a key: absent = unchanged.
    pub struct ChangeKey {
        /// For lists, 1 to 64 characters. Null = `default`.
        #[serde(default, deserialize_with = "present")]
        #[schema(value_type = Option<String>, example = "laptop", min_length = 1, max_length = 64)]
        name: Option<Option<String>>,
        /// When it ends, RFC 3339, or a date (UTC). Null = never; one that has ended works again then.
        #[serde(default, deserialize_with = "present")]
        #[schema(value_type = Option<String>, example = "2027-01-01")]
        expires_at: Option<Option<String>>,
        /// The models that it may be used for. Null = all, also those to come.
        #[serde(default, deserialize_with = "present")]
        #[schema(value_type = Option<Vec<String>>, example = json!(["llama3.2", "llava"]))]
        allowed_models: Option<Option<Vec<String>>>,
    }
}

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

/// A key, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserKey {
    /// Names the key in this API; no secret.
    #[schema(example = "key_0123456789abcdef0123456789abcdef")]
    id: String,
    /// Whose it is.
    #[schema(example = "user-123")]
    user_id: String,
    /// For lists.
    #[schema(example = "laptop")]
    name: String,
    /// How its secret begins.
    #[schema(example = "sk-user-123-")]
    prefix: String,
    /// How its secret ends.
    #[schema(example = "cdef")]
    last_four: String,
    /// RFC 3339 in UTC.
    created_at: String,
    /// RFC 3339 in UTC; null = it does not end.
    expires_at: Option<String>,
    /// RFC 3339 in UTC, to the minute; null = never.
    last_used_at: Option<String>,
    /// The models that it may be used for; null = all.
    allowed_models: Option<Vec<String>>,
    /// Its own limits, under those of the user.
    #[serde(flatten)]
    limits: ShownLimits,
    /// The secret before the last rotation, as long as it works.
    previous: Option<PreviousSecret>,
}

/// A secret that was rotated out.
#[derive(Debug, Serialize, ToSchema)]
pub struct PreviousSecret {
    /// How it ends.
    last_four: String,
    /// When it stops, RFC 3339 in UTC.
    expires_at: String,
}

/// A key with a secret that is not shown again.
#[derive(Debug, Serialize, ToSchema)]
pub struct CreatedKey {
    #[serde(flatten)]
    key: UserKey,
    /// Shown this once; only a digest of it is kept.
    #[schema(example = "sk-user-123-0123456789abcdef0123456789abcdef")]
    api_key: String,
}

/// A user's keys, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyList {
    /// Always `list`.
    object: &'static str,
    /// The keys.
    data: Vec<UserKey>,
}

/// A key that is gone.
#[derive(Debug, Serialize, ToSchema)]
pub struct RevokedKey {
    /// Which.
    id: String,
    /// Always true.
    deleted: bool,
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

impl PreviousSecret {
    /// `None` where it has stopped.
    pub(super) fn new(secret: SecretEnd, now_ms: i64) -> Option<Self> {
        let until = secret.until_ms.filter(|until| *until > now_ms)?;
        Some(Self { last_four: secret.last_four, expires_at: rfc3339(until) })
    }
}

impl UserKey {
    fn new(key: &Key, now_ms: i64) -> Self {
        let user = key.account().user().as_str();
        let spec = key.spec();
        let mut secrets = key.secrets();
        let in_force = secrets.pop();
        let previous = secrets.pop().and_then(|secret| PreviousSecret::new(secret, now_ms));
        Self {
            id: key.id().to_string(),
            user_id: user.to_owned(),
            name: spec.name,
            prefix: format!("sk-{user}-"),
            last_four: in_force.map(|secret| secret.last_four).unwrap_or_default(),
            created_at: rfc3339(key.created_at_ms()),
            expires_at: spec.expires_at_ms.map(rfc3339),
            last_used_at: key.last_used_ms().map(rfc3339),
            allowed_models: spec.allowed_models.map(|models| models.names().to_vec()),
            limits: spec.limits.into(),
            previous,
        }
    }
}

impl CreatedKey {
    fn new(made: &MadeKey, now_ms: i64) -> Self {
        Self { key: UserKey::new(&made.key, now_ms), api_key: made.secret.reveal().to_owned() }
    }
}

impl CreateKey {
    fn spec(self, now_ms: i64) -> Result<KeySpec, ApiError> {
        let default = KeySpec::default();
        let limits = limits_over(default.limits, self.limits())?;
        let name = checked(self.name.unwrap_or(default.name))?;
        let expires_at_ms = end(self.expires_at.as_deref(), now_ms)?;
        let allowed_models = self.allowed_models.map(allowed).transpose()?;
        Ok(KeySpec { name, expires_at_ms, allowed_models, limits })
    }
}

impl ChangeKey {
    fn change(self, now_ms: i64) -> Result<KeyChange, ApiError> {
        let limits = self.limits();
        limits_over(Limits::default(), limits)?;
        let named = |name: Option<String>| checked(name.unwrap_or(KeySpec::default().name));
        Ok(KeyChange {
            name: self.name.map(named).transpose()?,
            expires_at_ms: self.expires_at.map(|given| end(given.as_deref(), now_ms)).transpose()?,
            allowed_models: self.allowed_models.map(|given| given.map(allowed).transpose()).transpose()?,
            limits,
        })
    }
}

fn checked(name: String) -> Result<String, ApiError> {
    if !(1..=64).contains(&name.chars().count()) || name.chars().any(char::is_control) {
        return Err(ApiError::invalid_field("name", "`name` must be 1 to 64 printable characters."));
    }
    Ok(name)
}

pub(super) fn end(given: Option<&str>, now_ms: i64) -> Result<Option<i64>, ApiError> {
    let end_ms = moment("expires_at", given)?;
    if end_ms.is_some_and(|end_ms| end_ms <= now_ms) {
        return Err(ApiError::invalid_field("expires_at", "`expires_at` is in the past."));
    }
    Ok(end_ms)
}

fn allowed(names: Vec<String>) -> Result<AllowedModels, ApiError> {
    let is_name = |name: &String| {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
        (1..=128).contains(&name.len()) && name.bytes().all(letter)
    };
    if !(1..=MAX_MODELS).contains(&names.len()) || !names.iter().all(is_name) {
        let message = format!("`allowed_models` must be 1 to {MAX_MODELS} names of models, or null for all of them.");
        return Err(ApiError::invalid_field("allowed_models", message));
    }
    Ok(AllowedModels::new(names))
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
        (status = 201, body = CreatedKey), answers::AdminResponses, answers::NotFoundResponse, answers::StorageResponse,
    ),
)]
pub async fn create(
    admin: Admin,
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    id: Path<String>,
    JsonObject(body): JsonObject<CreateKey>,
) -> Result<HttpResponse, ApiError> {
    let now = meters.clock.now();
    admin.changes_from(&id, None);
    let made = accounts.create_key(&id, body.spec(now.unix_ms)?, now).await?;
    tracing::info!(user = id.as_str(), key = &**made.key.id(), "key made");
    Ok(HttpResponse::Created().json(CreatedKey::new(&made, now.unix_ms)))
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
    let data = accounts.keys_of(&id, now).await?.iter().map(|key| UserKey::new(key, now.unix_ms)).collect();
    Ok(Json(KeyList { object: "list", data }))
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
        (status = 200, body = UserKey), answers::AdminResponses, answers::NotFoundResponse, answers::StorageResponse,
    ),
)]
pub async fn change(
    admin: Admin,
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    path: Path<(String, String)>,
    JsonObject(body): JsonObject<ChangeKey>,
) -> Result<Json<UserKey>, ApiError> {
    let ((user, id), now) = (path.into_inner(), meters.clock.now());
    admin.changes_from(&format!("{user}/{id}"), shown(&accounts, &user, &id, now).await);
    let key = accounts.change_key(&user, &id, body.change(now.unix_ms)?, now).await?;
    tracing::info!(user, key = id, "key changed");
    Ok(Json(UserKey::new(&key, now.unix_ms)))
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
    Ok(Json(RevokedKey { id, deleted: true }))
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
