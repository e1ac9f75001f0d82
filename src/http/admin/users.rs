//! Users: made with a key that is shown once, listed, read, deleted.
use actix_web::web::{Data, Json, Path, Query};
use actix_web::{HttpResponse, Responder};
use serde::Serialize;
use utoipa::ToSchema;

use super::given::{ShownLimits, body_with_limits, checked_weight, limits_over, present};
use crate::http::Live;
use crate::http::answers;
use crate::http::auth::Admin;
use crate::http::body::JsonObject;
use crate::http::error::ApiError;
use crate::http::time::rfc3339;
use crate::http::usage::{PageQuery, PeriodQuery, UsageList, UsageSummary, bad_cursor, cursor, rows, summary};
use crate::relay::Meters;
use crate::store::{Account, Accounts, NewUser, Recorder, Store, StoreError, Terms, UserId};

body_with_limits! {
    /// A user to be made. A limit that is absent is the default for new users; null is no limit.
    pub struct CreateUser {
        /// `[A-Za-z0-9._@-]{1,64}`
        #[schema(example = "user-123", pattern = "^[A-Za-z0-9._@-]{1,64}$")]
        user_id: String,
        /// The user's share of a busy service beside others': twice the weight, twice the work. Default 1.
        #[schema(minimum = 0.001, maximum = 1000, example = 1)]
        weight: Option<f64>,
    }
}

/// A user.
#[derive(Debug, Serialize, ToSchema)]
pub struct User {
    /// The name.
    #[schema(example = "user-123")]
    user_id: String,
    /// RFC 3339 in UTC.
    created_at: String,
    #[serde(flatten)]
    limits: ShownLimits,
    /// The user's share of a busy service beside others'.
    weight: f64,
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

/// A page of users, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserList {
    /// Always `list`.
    object: &'static str,
    /// The users.
    data: Vec<User>,
    /// For `after`; null on the last page.
    next: Option<String>,
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

impl From<&Account> for User {
    fn from(account: &Account) -> Self {
        let Terms { limits, weight } = account.terms();
        Self {
            user_id: account.user().as_str().to_owned(),
            created_at: rfc3339(account.created_at_ms()),
            limits: limits.into(),
            weight,
        }
    }
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
    _: Admin,
    accounts: Data<Accounts>,
    defaults: Data<Live<limits::DefaultLimits>>,
    meters: Data<Meters>,
    recorder: Data<Recorder>,
    JsonObject(body): JsonObject<CreateUser>,
) -> Result<impl Responder, ApiError> {
    let user = UserId::parse(&body.user_id).ok_or_else(|| {
        ApiError::invalid_field("user_id", "`user_id` must be 1 to 64 of the characters A-Z a-z 0-9 . _ @ -")
    })?;
    let limits = limits_over(defaults.get().for_new_user(), body.limits())?;
    let terms = Terms { limits, weight: checked_weight(body.weight.unwrap_or(1.0))? };
    // A name that was deleted just now goes on with what it has used, down to the last row.
    recorder.flush().await;
    let made = accounts.create(NewUser { user, terms }, meters.clock.now()).await?;
    let account = made.key.account();
    meters.metrics.meet_user(account.user().as_str());
    tracing::info!(user = account.user().as_str(), "user made");
    Ok(HttpResponse::Created().json(CreatedUser {
        user: account.as_ref().into(),
        key_id: made.key.id().to_string(),
        api_key: made.secret.reveal().to_owned(),
    }))
}

/// List users
#[utoipa::path(
    get, path = "/admin/users", tag = "admin", params(PageQuery), security(("admin_key" = [])),
    responses((status = 200, body = UserList), answers::AdminResponses),
)]
pub async fn list(
    _: Admin,
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    query: Query<PageQuery>,
) -> Result<Json<UserList>, ApiError> {
    let limit = usize::try_from(query.limit()?).unwrap_or(usize::MAX);
    let after = query.after()?.map(|cursor| user_of(&cursor).ok_or_else(bad_cursor)).transpose()?;
    let mut names = accounts.names_after(after.as_ref().map(UserId::as_str), limit.saturating_add(1));
    let more = names.len() > limit;
    names.truncate(limit);
    let now = meters.clock.now();
    let page: Vec<_> = names.iter().filter_map(|name| accounts.by_user(name, now)).collect();
    let next = page.last().filter(|_| more).map(|account| cursor(account.user().as_str().as_bytes()));
    Ok(Json(UserList { object: "list", data: page.iter().map(|account| account.as_ref().into()).collect(), next }))
}

fn user_of(cursor: &[u8]) -> Option<UserId> {
    UserId::parse(std::str::from_utf8(cursor).ok()?)
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
    id: Path<String>,
) -> Result<Json<User>, ApiError> {
    let account = accounts.by_user(&id, meters.clock.now());
    let account = account.ok_or_else(|| ApiError::from(StoreError::NotFound(id.into_inner())))?;
    Ok(Json(account.as_ref().into()))
}

/// Delete a user
///
/// The keys stop working at once, and running requests end. The usage history stays, and so does what was used today, should the name come back.
#[utoipa::path(
    delete, path = "/admin/users/{id}", tag = "admin", security(("admin_key" = [])),
    params(("id" = String, Path, description = "The user.")),
    responses(
        (status = 200, body = DeletedUser), answers::AdminResponses, answers::NotFoundResponse, answers::StorageResponse,
    ),
)]
pub async fn delete(_: Admin, accounts: Data<Accounts>, id: Path<String>) -> Result<Json<DeletedUser>, ApiError> {
    accounts.delete(&id).await?;
    tracing::info!(user = id.as_str(), "user deleted");
    Ok(Json(DeletedUser { user_id: id.into_inner(), deleted: true }))
}

/// A user's usage
///
/// Rows, newest first, and sums over all that there ever were; also of a user who is deleted.
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
    let rows = rows(&store, &recorder, &id, &query).await?;
    if !accounts.has_user(&id) && !store.has_usage(&id).await? {
        return Err(StoreError::NotFound(id.into_inner()).into());
    }
    let summary = summary(&store, &recorder, &id, &PeriodQuery::default()).await?;
    Ok(Json(UserUsage { rows, summary }))
}
