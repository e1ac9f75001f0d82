//! Users: made with a key that is shown once, read, changed, deleted.
use actix_web::web::{Data, Json, Path, Query};
use actix_web::{HttpResponse, Responder};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::given::{ShownLimits, body_with_limits, checked_weight, limits_over, present};
use super::user_fields::{ChangeUser, User};
use crate::http::Live;
use crate::http::answers;
use crate::http::auth::Admin;
use crate::http::body::JsonObject;
use crate::http::error::ApiError;
use crate::http::usage::{PageQuery, PeriodQuery, UsageList, UsageSummary, rows, summary};
use crate::relay::Meters;
use crate::store::{Accounts, NewUser, Recorder, Store, StoreError, Terms, UserId};
use limits::Moment;

body_with_limits! {
    /// A user to be made. A limit that is absent is the default for new users; null is no limit.
    pub struct CreateUser {
        /// `[A-Za-z0-9._@-]{1,64}`
        #[schema(example = "user-123", pattern = "^[A-Za-z0-9._@-]{1,64}$")]
        user_id: String,
        /// The user's share of a busy service beside others': twice the weight, twice the work. Default 1.
        #[schema(minimum = 0.001, maximum = 1000, example = 1)]
        weight: Option<f64>,
        /// The group that the user belongs to. Null or absent = none.
        #[schema(example = "research")]
        group: Option<String>,
    }
}

/// A new user with a key that is not shown again.
#[derive(Debug, Serialize, ToSchema)]
pub struct CreatedUser {
    #[serde(flatten)]
    user: User,
    /// Names the key in this API; no secret.
    #[schema(example = "key_0123456789abcdef0123456789abcdef")]
    key_id: String,
    /// Shown this once; only a digest of it is kept.
    #[schema(example = "sk-user-123-0123456789abcdef0123456789abcdef")]
    api_key: String,
}

/// A deleted user.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeletedUser {
    /// The name.
    user_id: String,
    /// Always true.
    deleted: bool,
}

/// A user's rows and sums.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserUsage {
    #[serde(flatten)]
    rows: UsageList,
    /// Over all rows, not this page alone, and those that are not kept any more.
    summary: UsageSummary,
}

fn known_group(accounts: &Accounts, name: Option<&str>) -> Result<(), ApiError> {
    let Some(name) = name.filter(|name| accounts.group(name).is_err()) else { return Ok(()) };
    // What is not a name is not repeated.
    let message = match UserId::parse(name) {
        Some(name) => format!("There is no group `{}`.", name.as_str()),
        None => "`group` must be the name of a group, or null.".to_owned(),
    };
    Err(ApiError::invalid_field("group", message))
}

/// A user as it is now, for the audit log.
async fn shown(accounts: &Accounts, id: &str, now: Moment) -> Option<Value> {
    Some(json!(User::from(accounts.user(id, now).await.ok()?)))
}

/// Make a user
///
/// Answers with the user's first key, which works at once and is shown this once.
#[utoipa::path(
    post, path = "/admin/users", tag = "admin", security(("admin_key" = [])), request_body = CreateUser,
    responses(
        (status = 201, body = CreatedUser),
        (status = 409, description = "The user exists.", body = answers::ErrorBody),
        answers::AdminResponses, answers::StorageResponse,
    ),
)]
pub async fn create(
    admin: Admin,
    accounts: Data<Accounts>,
    defaults: Data<Live<limits::DefaultLimits>>,
    meters: Data<Meters>,
    JsonObject(body): JsonObject<CreateUser>,
) -> Result<impl Responder, ApiError> {
    let user = UserId::parse(&body.user_id).ok_or_else(|| {
        ApiError::invalid_field(
            "user_id",
            "`user_id` must be 1 to 64 of the characters A-Z a-z 0-9 . _ @ -, and not `.` or `..`",
        )
    })?;
    let limits = limits_over(defaults.get().for_new_user(), body.limits())?;
    let terms = Terms { limits, weight: checked_weight(body.weight.unwrap_or(1.0))? };
    let now = meters.clock.now();
    let group = body.group;
    known_group(&accounts, group.as_deref())?;
    let after = json!({"weight": terms.weight, "limits": ShownLimits::from(limits), "group": group});
    admin.changes(user.as_str(), None, Some(after));
    let made = accounts.create(NewUser { user, terms, group }, now).await?;
    let user = made.key.account().user().as_str();
    meters.metrics.meet_user(user);
    tracing::info!(user, "user made");
    Ok(HttpResponse::Created().json(CreatedUser {
        user: accounts.user(user, now).await?.into(),
        key_id: made.key.id().to_string(),
        api_key: made.secret.reveal().to_owned(),
    }))
}

/// Read a user
#[utoipa::path(
    get, path = "/admin/users/{id}", tag = "admin", security(("admin_key" = [])),
    params(("id" = String, Path, description = "The user.")),
    responses((status = 200, body = User), answers::AdminResponses, answers::NotFoundResponse),
)]
pub async fn retrieve(
    _: Admin,
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    recorder: Data<Recorder>,
    id: Path<String>,
) -> Result<Json<User>, ApiError> {
    recorder.flush().await;
    Ok(Json(accounts.user(&id, meters.clock.now()).await?.into()))
}

/// Change a user
///
/// What is known of the user, whether anything is let in, and the group. Limits have a path of their own. In another group
/// from the next request on: what runs, and what was used, stays with the group that it was admitted under.
#[utoipa::path(
    patch, path = "/admin/users/{id}", tag = "admin", security(("admin_key" = [])), request_body = ChangeUser,
    params(("id" = String, Path, description = "The user.")),
    responses(
        (status = 200, body = User), answers::AdminResponses, answers::NotFoundResponse, answers::StorageResponse,
    ),
)]
pub async fn change(
    admin: Admin,
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    id: Path<String>,
    JsonObject(body): JsonObject<ChangeUser>,
) -> Result<Json<User>, ApiError> {
    let now = meters.clock.now();
    admin.changes_from(&id, shown(&accounts, &id, now).await);
    let change = body.change()?;
    known_group(&accounts, change.group.as_ref().and_then(Option::as_deref))?;
    let account = accounts.change_user(&id, change, now).await?;
    tracing::info!(user = id.as_str(), suspended = account.is_suspended(), "user changed");
    Ok(Json(accounts.user(&id, now).await?.into()))
}

/// Delete a user
///
/// The keys stop working at once, and running requests end. The usage history stays. Should the name be used again, that is another user, who inherits nothing.
#[utoipa::path(
    delete, path = "/admin/users/{id}", tag = "admin", security(("admin_key" = [])),
    params(("id" = String, Path, description = "The user.")),
    responses(
        (status = 200, body = DeletedUser), answers::AdminResponses, answers::NotFoundResponse, answers::StorageResponse,
    ),
)]
pub async fn delete(
    admin: Admin,
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    id: Path<String>,
) -> Result<Json<DeletedUser>, ApiError> {
    admin.changes(&id, shown(&accounts, &id, meters.clock.now()).await, None);
    accounts.delete(&id).await?;
    tracing::info!(user = id.as_str(), "user deleted");
    Ok(Json(DeletedUser { user_id: id.into_inner(), deleted: true }))
}

/// A user's usage
///
/// Rows, newest first, and sums over all that there ever were; also of a user who is deleted. Of several users of one name, one
/// after another, it is the last one's; `ann~1` is the first one, and `ann~2` the second.
#[utoipa::path(
    get, path = "/admin/users/{id}/usage", tag = "admin", security(("admin_key" = [])),
    params(("id" = String, Path, description = "The user."), PageQuery),
    responses(
        (status = 200, body = UserUsage), answers::AdminResponses, answers::NotFoundResponse, answers::StorageResponse,
    ),
)]
pub async fn usage(
    _: Admin,
    accounts: Data<Accounts>,
    store: Data<Store>,
    recorder: Data<Recorder>,
    id: Path<String>,
    query: Query<PageQuery>,
) -> Result<Json<UserUsage>, ApiError> {
    let usage_id = accounts.usage_id(&id).await?;
    let rows = rows(&store, &recorder, &usage_id, &query).await?;
    if !accounts.has_user(&id) && !store.has_usage(&usage_id).await? {
        return Err(StoreError::NotFound(id.into_inner()).into());
    }
    let summary = summary(&store, &recorder, &usage_id, &PeriodQuery::default()).await?;
    Ok(Json(UserUsage { rows, summary }))
}
