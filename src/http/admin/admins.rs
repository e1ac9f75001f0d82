//! Named administrators: made with a key that is shown once, listed, given another role or end, rotated, deleted.
use actix_web::HttpResponse;
use actix_web::web::{Data, Json, Path};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::given::present;
use super::key_bodies::{PreviousSecret, end};
use super::keys::RotateKey;
use crate::http::answers;
use crate::http::auth::Admin;
use crate::http::body::{JsonObject, JsonOrNothing};
use crate::http::error::ApiError;
use crate::http::time::rfc3339;
use crate::relay::Meters;
use crate::store::{Accounts, AdminChange, Administrator, ApiKey, NewAdmin, Role, UserId};

/// What an administrator may do.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GivenRole {
    /// Reads everything.
    Viewer,
    /// Works on nodes, models and requests, too, and reloads the configuration.
    Operator,
    /// Changes everything.
    Admin,
}

/// An administrator to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateAdmin {
    /// `[A-Za-z0-9._@-]{1,64}`, unique.
    #[schema(example = "eve", pattern = "^[A-Za-z0-9._@-]{1,64}$")]
    name: String,
    /// `viewer` reads; `operator` works on nodes, models and requests, too; `admin` changes everything.
    #[schema(value_type = String, example = "operator", pattern = "^(viewer|operator|admin)$")]
    role: GivenRole,
    /// When the key ends, RFC 3339, or a date (UTC). Null or absent = never.
    #[schema(example = "2027-01-01")]
    expires_at: Option<String>,
}

/// A change of an administrator: absent = unchanged.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeAdmin {
    /// `viewer`, `operator` or `admin`.
    #[schema(value_type = Option<String>, example = "operator", pattern = "^(viewer|operator|admin)$")]
    role: Option<GivenRole>,
    /// When the key ends, RFC 3339, or a date (UTC). Null = never.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, example = "2027-01-01")]
    expires_at: Option<Option<String>>,
}

/// An administrator, without the key.
#[derive(Debug, Serialize, ToSchema)]
pub struct ShownAdmin {
    /// The name.
    #[schema(example = "eve")]
    name: String,
    /// `viewer`, `operator` or `admin`.
    #[schema(example = "operator")]
    role: &'static str,
    /// How the key begins.
    #[schema(example = "sk-admin-eve-")]
    prefix: String,
    /// How the key ends.
    #[schema(example = "cdef")]
    last_four: String,
    /// RFC 3339 in UTC.
    created_at: String,
    /// RFC 3339 in UTC; null = it does not end.
    expires_at: Option<String>,
    /// The key before the last rotation, as long as it works.
    previous: Option<PreviousSecret>,
}

/// An administrator with a key that is not shown again.
#[derive(Debug, Serialize, ToSchema)]
pub struct CreatedAdmin {
    #[serde(flatten)]
    admin: ShownAdmin,
    /// Shown this once; only a digest of it is kept.
    #[schema(example = "sk-admin-eve-0123456789abcdef0123456789abcdef")]
    api_key: String,
}

/// All administrators but whoever has the admin key of the configuration.
#[derive(Debug, Serialize, ToSchema)]
pub struct AdminList {
    /// Always `list`.
    object: &'static str,
    /// By name.
    data: Vec<ShownAdmin>,
}

/// An administrator who is none any more.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeletedAdmin {
    /// The name.
    name: String,
    /// Always true.
    deleted: bool,
}

impl From<GivenRole> for Role {
    fn from(role: GivenRole) -> Self {
        match role {
            GivenRole::Viewer => Self::Viewer,
            GivenRole::Operator => Self::Operator,
            GivenRole::Admin => Self::Admin,
        }
    }
}

impl ShownAdmin {
    fn new(admin: &Administrator, now_ms: i64) -> Self {
        let mut secrets = admin.secrets.clone();
        // The newest one is last.
        let in_force = secrets.pop();
        Self {
            name: admin.name.to_string(),
            role: admin.role.as_str(),
            prefix: format!("sk-admin-{}-", admin.name),
            last_four: in_force.map(|secret| secret.last_four).unwrap_or_default(),
            created_at: rfc3339(admin.created_at_ms),
            expires_at: admin.expires_at_ms.map(rfc3339),
            previous: secrets.pop().and_then(|secret| PreviousSecret::new(secret, now_ms)),
        }
    }
}

impl CreatedAdmin {
    fn new((admin, key): &(std::sync::Arc<Administrator>, ApiKey), now_ms: i64) -> Self {
        Self { admin: ShownAdmin::new(admin, now_ms), api_key: key.reveal().to_owned() }
    }
}

/// Make an administrator
///
/// Answers with the key, which works at once and is shown this once.
#[utoipa::path(
    post, path = "/admin/admins", tag = "admin", security(("admin_key" = [])), request_body = CreateAdmin,
    responses(
        (status = 201, body = CreatedAdmin),
        (status = 409, description = "The name is taken.", body = answers::ErrorBody),
        answers::AdminResponses, answers::StorageResponse,
    ),
)]
pub async fn create(
    admin: Admin,
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    JsonObject(body): JsonObject<CreateAdmin>,
) -> Result<HttpResponse, ApiError> {
    let now = meters.clock.now();
    if UserId::parse(&body.name).is_none() {
        let message = "`name` must be 1 to 64 of the characters A-Z a-z 0-9 . _ @ -, and not `.` or `..`";
        return Err(ApiError::invalid_field("name", message));
    }
    let expires_at_ms = end(body.expires_at.as_deref(), now.unix_ms)?;
    let new = NewAdmin { name: body.name, role: body.role.into(), expires_at_ms };
    let after = json!({"name": new.name, "role": new.role.as_str(), "expires_at": expires_at_ms.map(rfc3339)});
    admin.changes(&new.name, None, Some(after));
    let made = accounts.create_admin(new, now).await?;
    tracing::info!(admin = &*made.0.name, role = made.0.role.as_str(), "administrator made");
    Ok(HttpResponse::Created().json(CreatedAdmin::new(&made, now.unix_ms)))
}

/// List administrators
///
/// Never a key. Whoever has the admin key of the configuration is not listed.
#[utoipa::path(
    get, path = "/admin/admins", tag = "admin", security(("admin_key" = [])),
    responses((status = 200, body = AdminList), answers::AdminResponses),
)]
pub async fn list(_: Admin, accounts: Data<Accounts>, meters: Data<Meters>) -> Json<AdminList> {
    let now_ms = meters.clock.now().unix_ms;
    let data = accounts.admins().iter().map(|admin| ShownAdmin::new(admin, now_ms)).collect();
    Json(AdminList { object: "list", data })
}

/// Read an administrator
#[utoipa::path(
    get, path = "/admin/admins/{name}", tag = "admin", security(("admin_key" = [])),
    params(("name" = String, Path, description = "The administrator.")),
    responses((status = 200, body = ShownAdmin), answers::AdminResponses, answers::NotFoundResponse),
)]
pub async fn retrieve(
    _: Admin,
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    name: Path<String>,
) -> Result<Json<ShownAdmin>, ApiError> {
    Ok(Json(ShownAdmin::new(&*accounts.admin(&name)?, meters.clock.now().unix_ms)))
}

/// Change an administrator
///
/// In force from the next request on, whichever gateway it comes to within 5 s.
#[utoipa::path(
    patch, path = "/admin/admins/{name}", tag = "admin", security(("admin_key" = [])), request_body = ChangeAdmin,
    params(("name" = String, Path, description = "The administrator.")),
    responses(
        (status = 200, body = ShownAdmin), answers::AdminResponses, answers::NotFoundResponse, answers::StorageResponse,
    ),
)]
pub async fn change(
    admin: Admin,
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    name: Path<String>,
    JsonObject(body): JsonObject<ChangeAdmin>,
) -> Result<Json<ShownAdmin>, ApiError> {
    let now_ms = meters.clock.now().unix_ms;
    let expires_at_ms = body.expires_at.map(|given| end(given.as_deref(), now_ms)).transpose()?;
    let change = AdminChange { role: body.role.map(Role::from), expires_at_ms };
    let before = ShownAdmin::new(&*accounts.admin(&name)?, now_ms);
    admin.changes_from(&name, Some(json!(before)));
    let changed = accounts.change_admin(&name, change).await?;
    tracing::info!(admin = name.as_str(), role = changed.role.as_str(), "administrator changed");
    Ok(Json(ShownAdmin::new(&changed, now_ms)))
}

/// Rotate an administrator's key
///
/// The key in force goes on working for `grace_seconds`. Without a body it stops now.
#[utoipa::path(
    post, path = "/admin/admins/{name}/rotate", tag = "admin", security(("admin_key" = [])),
    request_body = Option<RotateKey>,
    params(("name" = String, Path, description = "The administrator.")),
    responses(
        (status = 200, body = CreatedAdmin), answers::AdminResponses, answers::NotFoundResponse, answers::StorageResponse,
    ),
)]
pub async fn rotate(
    admin: Admin,
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    name: Path<String>,
    JsonOrNothing(body): JsonOrNothing<RotateKey>,
) -> Result<Json<CreatedAdmin>, ApiError> {
    let (now, grace) = (meters.clock.now(), body.grace()?);
    admin.changes_from(&name, Some(json!(ShownAdmin::new(&*accounts.admin(&name)?, now.unix_ms))));
    let rotated = accounts.rotate_admin(&name, grace, now).await?;
    tracing::info!(admin = name.as_str(), grace_seconds = grace.as_secs(), "an administrator's key was rotated");
    Ok(Json(CreatedAdmin::new(&rotated, now.unix_ms)))
}

/// Delete an administrator
///
/// The key stops working at once, and sessions that were opened with it end.
#[utoipa::path(
    delete, path = "/admin/admins/{name}", tag = "admin", security(("admin_key" = [])),
    params(("name" = String, Path, description = "The administrator.")),
    responses(
        (status = 200, body = DeletedAdmin), answers::AdminResponses, answers::NotFoundResponse, answers::StorageResponse,
    ),
)]
pub async fn delete(
    admin: Admin,
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    name: Path<String>,
) -> Result<Json<DeletedAdmin>, ApiError> {
    let before = ShownAdmin::new(&*accounts.admin(&name)?, meters.clock.now().unix_ms);
    admin.changes(&name, Some(json!(before)), None);
    accounts.delete_admin(&name).await?;
    tracing::info!(admin = name.as_str(), "administrator deleted");
    Ok(Json(DeletedAdmin { name: name.into_inner(), deleted: true }))
}
