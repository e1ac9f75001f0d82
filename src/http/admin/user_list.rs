//! Which users are there? Searched and put in order, page by page.
use std::cmp::Reverse;

use actix_web::web::{Data, Json, Query};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::user_fields::User;
use crate::http::answers;
use crate::http::auth::Admin;
use crate::http::error::ApiError;
use crate::http::usage::{PageQuery, bad_cursor, cursor};
use crate::relay::Meters;
use crate::store::{Accounts, Recorder, UserId, UserOrder, UserPlace, UserSearch};

/// Characters of a search.
const LONGEST_SEARCH: usize = 128;

/// Which users, in which order.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UserQuery {
    /// Only those whose name, display name, e-mail or note holds this, in upper or lower case; at most 128 characters.
    #[param(max_length = 128, example = "ann")]
    search: Option<String>,
    /// Only users of this group; empty = only users without one.
    #[param(example = "research")]
    group: Option<String>,
    /// By what; all but names begin with the largest. Default `user_id`.
    #[param(inline)]
    sort: Option<UserSort>,
    /// Users a page, 1 to 1000. Default 100.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
    /// The `next` of the page before, with the same `sort`.
    after: Option<String>,
}

/// By what users are put in order.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UserSort {
    /// Their names.
    #[default]
    UserId,
    /// When they were made.
    CreatedAt,
    /// When they last sent a request.
    LastSeen,
    /// Tokens of this day.
    TokensToday,
    /// Tokens of this month.
    TokensThisMonth,
}

/// A page of users.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserList {
    /// Always `list`.
    object: &'static str,
    /// The users.
    data: Vec<User>,
    /// For `after`; null on the last page.
    next: Option<String>,
}

impl From<UserSort> for UserOrder {
    fn from(sort: UserSort) -> Self {
        match sort {
            UserSort::UserId => Self::Name,
            UserSort::CreatedAt => Self::CreatedAt,
            UserSort::LastSeen => Self::LastSeen,
            UserSort::TokensToday => Self::TokensToday,
            UserSort::TokensThisMonth => Self::TokensThisMonth,
        }
    }
}

impl UserQuery {
    fn search(self) -> Result<UserSearch, ApiError> {
        let page = PageQuery::new(self.limit, self.after);
        let text = self.search.filter(|text| !text.is_empty());
        if text.as_ref().is_some_and(|text| text.chars().count() > LONGEST_SEARCH) {
            let message = format!("`search` must have at most {LONGEST_SEARCH} characters.");
            return Err(ApiError::invalid_field("search", message));
        }
        Ok(UserSearch {
            text,
            group: self.group,
            order: self.sort.unwrap_or_default().into(),
            after: page.after()?.map(|cursor| place(&cursor).ok_or_else(bad_cursor)).transpose()?,
            limit: usize::try_from(page.limit()?).unwrap_or(usize::MAX),
        })
    }
}

/// A place as a cursor: the value in eight bytes, and the name.
fn place(cursor: &[u8]) -> Option<UserPlace> {
    let (value, name) = cursor.split_first_chunk()?;
    let name = UserId::parse(std::str::from_utf8(name).ok()?)?;
    Some(UserPlace(Reverse(i64::from_be_bytes(*value)), name.shared()))
}

fn cursor_of(UserPlace(Reverse(value), name): &UserPlace) -> String {
    cursor(&[&value.to_be_bytes(), name.as_bytes()].concat())
}

/// List users
///
/// By name, or by what `sort` says. Tokens are those of the sums that the database keeps, over all gateways.
#[utoipa::path(
    get, path = "/admin/users", tag = "admin", params(UserQuery), security(("admin_key" = [])),
    responses((status = 200, body = UserList), answers::AdminResponses, answers::StorageResponse),
)]
pub async fn list(
    _: Admin,
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    recorder: Data<Recorder>,
    Query(query): Query<UserQuery>,
) -> Result<Json<UserList>, ApiError> {
    let search = query.search()?;
    recorder.flush().await;
    let (page, more) = accounts.users(&search, meters.clock.now()).await?;
    let next = page.last().filter(|_| more).map(|listed| cursor_of(&listed.place));
    Ok(Json(UserList { object: "list", data: page.into_iter().map(User::from).collect(), next }))
}
