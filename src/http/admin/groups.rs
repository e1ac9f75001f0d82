//! Groups of users: made, read, changed, deleted.
use actix_web::web::{Data, Json, Path, Query};
use actix_web::{HttpResponse, Responder};
use serde::Deserialize;
use utoipa::IntoParams;

use super::group_fields::{
    ChangeGroup, ChangedGroup, CreateGroup, DeletedGroup, GroupList, GroupRecord, GroupWithLimits, MembersFate, shown,
};
use crate::http::answers;
use crate::http::auth::Admin;
use crate::http::body::JsonObject;
use crate::http::error::ApiError;
use crate::http::names::KnownModels;
use crate::http::standing::group_standings;
use crate::http::usage::{PageQuery, bad_cursor, cursor};
use crate::relay::Meters;
use crate::store::{Accounts, Broker, GroupSearch, GroupTerms, Members, Recorder, UserId};

/// Characters of a search.
const LONGEST_SEARCH: usize = 64;

/// Which groups.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct GroupQuery {
    /// Only those whose name holds this, in upper or lower case; at most 64 characters.
    #[param(max_length = 64, example = "research")]
    search: Option<String>,
    /// Groups a page, 1 to 1000. Default 100.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
    /// The `next` of the page before.
    after: Option<String>,
}

/// How to delete a group.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteQuery {
    /// `release`: its users leave it. Absent: a group that has users is not deleted.
    #[param(inline)]
    members: Option<MembersFate>,
}

impl GroupQuery {
    fn search(self) -> Result<GroupSearch, ApiError> {
        let page = PageQuery::new(self.limit, self.after);
        let text = self.search.filter(|text| !text.is_empty());
        if text.as_ref().is_some_and(|text| text.chars().count() > LONGEST_SEARCH) {
            let message = format!("`search` must have at most {LONGEST_SEARCH} characters.");
            return Err(ApiError::invalid_field("search", message));
        }
        let name = |cursor: Vec<u8>| {
            let name = String::from_utf8(cursor).ok().filter(|name| UserId::parse(name).is_some());
            name.ok_or_else(bad_cursor)
        };
        let limit = usize::try_from(page.limit()?).unwrap_or(usize::MAX);
        Ok(GroupSearch { text, after: page.after()?.map(name).transpose()?, limit })
    }
}

fn warnings(models: &KnownModels, terms: &GroupTerms) -> Vec<String> {
    models.warnings(terms.allowed_models.as_ref().map_or(&[], |models| models.names()))
}

/// List groups
///
/// By name. Tokens are those of the sums that the database keeps, over all gateways.
#[utoipa::path(
    get, path = "/admin/groups", tag = "admin", params(GroupQuery), security(("admin_key" = [])),
    responses((status = 200, body = GroupList), answers::AdminResponses),
)]
pub async fn list(
    _: Admin,
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    recorder: Data<Recorder>,
    Query(query): Query<GroupQuery>,
) -> Result<Json<GroupList>, ApiError> {
    let search = query.search()?;
    recorder.flush().await;
    let (page, more) = accounts.groups(&search, meters.clock.now()).await;
    let next = page.last().filter(|_| more).map(|listed| cursor(listed.group.name().as_bytes()));
    Ok(Json(GroupList { object: "list", data: page.into_iter().map(GroupRecord::from).collect(), next }))
}

/// Make a group
///
/// Without users: PATCH /admin/users/{id} puts a user into it.
#[utoipa::path(
    post, path = "/admin/groups", tag = "admin", security(("admin_key" = [])), request_body = CreateGroup,
    responses(
        (status = 201, body = ChangedGroup),
        (status = 409, description = "The group exists.", body = answers::ErrorBody),
        answers::AdminResponses, answers::StorageResponse,
    ),
)]
pub async fn create(
    admin: Admin,
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    models: KnownModels,
    JsonObject(body): JsonObject<CreateGroup>,
) -> Result<impl Responder, ApiError> {
    let (new, now) = (body.group()?, meters.clock.now());
    admin.changes(new.name.as_str(), None, Some(shown(&new.terms)));
    let group = accounts.create_group(new, now).await?;
    tracing::info!(group = &**group.name(), "group made");
    let warnings = warnings(&models, &group.terms());
    let group = accounts.listed_group(group.name(), now).await?.into();
    Ok(HttpResponse::Created().json(ChangedGroup { group, warnings }))
}

/// Read a group
///
/// With what is used, held and left of each limit, over all gateways.
#[utoipa::path(
    get, path = "/admin/groups/{id}", tag = "admin", security(("admin_key" = [])),
    params(("id" = String, Path, description = "The group.")),
    responses((status = 200, body = GroupWithLimits), answers::AdminResponses, answers::NotFoundResponse),
)]
pub async fn retrieve(
    _: Admin,
    accounts: Data<Accounts>,
    broker: Data<Option<Broker>>,
    meters: Data<Meters>,
    recorder: Data<Recorder>,
    id: Path<String>,
) -> Result<Json<GroupWithLimits>, ApiError> {
    let group = accounts.group(&id)?;
    recorder.flush().await;
    if let Some(broker) = &**broker
        && let Err(why) = broker.look_at_group(&group).await
    {
        tracing::debug!(%why, "what other gateways hold of a limit is what was last known");
    }
    let now = meters.clock.now();
    let limits = group_standings(&group, now);
    Ok(Json(GroupWithLimits { group: accounts.listed_group(&id, now).await?.into(), limits }))
}

/// Change a group
///
/// In force from the next request on, whichever gateway it comes to within 5 s. What was used stays used, and running
/// requests go on.
#[utoipa::path(
    patch, path = "/admin/groups/{id}", tag = "admin", security(("admin_key" = [])), request_body = ChangeGroup,
    params(("id" = String, Path, description = "The group.")),
    responses(
        (status = 200, body = ChangedGroup), answers::AdminResponses, answers::NotFoundResponse,
        answers::StorageResponse,
    ),
)]
pub async fn change(
    admin: Admin,
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    models: KnownModels,
    id: Path<String>,
    JsonObject(body): JsonObject<ChangeGroup>,
) -> Result<Json<ChangedGroup>, ApiError> {
    let (change, now) = (body.change()?, meters.clock.now());
    let before = accounts.group(&id)?.terms();
    admin.changes(&id, Some(shown(&before)), Some(shown(&change.over(&before))));
    let group = accounts.change_group(&id, &change, now).await?;
    tracing::info!(group = id.as_str(), terms = ?group.terms(), "group changed");
    let warnings = warnings(&models, &group.terms());
    Ok(Json(ChangedGroup { group: accounts.listed_group(&id, now).await?.into(), warnings }))
}

/// Delete a group
///
/// One that has users is not deleted, unless they are to leave it. Its usage history stays. Should the name be used again,
/// that is another group, which inherits nothing.
#[utoipa::path(
    delete, path = "/admin/groups/{id}", tag = "admin", security(("admin_key" = [])),
    params(("id" = String, Path, description = "The group."), DeleteQuery),
    responses(
        (status = 200, body = DeletedGroup),
        (status = 409, description = "The group has users; the message says how many.", body = answers::ErrorBody),
        answers::AdminResponses, answers::NotFoundResponse, answers::StorageResponse,
    ),
)]
pub async fn delete(
    admin: Admin,
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    id: Path<String>,
    Query(query): Query<DeleteQuery>,
) -> Result<Json<DeletedGroup>, ApiError> {
    let members = query.members.map_or(Members::Kept, |MembersFate::Release| Members::Released);
    admin.changes(&id, Some(shown(&accounts.group(&id)?.terms())), None);
    let released = accounts.delete_group(&id, members, meters.clock.now()).await?;
    tracing::info!(group = id.as_str(), released, "group deleted");
    Ok(Json(DeletedGroup { group_id: id.into_inner(), deleted: true, released }))
}
