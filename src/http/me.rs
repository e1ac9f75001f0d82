//! What may I use, what do I use, and what becomes of my requests? For users, with their own keys.
use actix_web::web::{Data, Json, Path};
use serde::Serialize;
use utoipa::ToSchema;

use super::admin::limits::UserLimits;
use super::admin::requests::{StoppedRequest, stop_open};
use super::answers;
use super::auth::Caller;
use super::error::ApiError;
use super::live::Live;
use super::names::ModelNames;
use super::open::{OpenRecord, open_requests};
use super::ops::Lifecycle;
use super::reads::Reads;
use super::standing::{Standing, standings};
use super::usage::{PageQuery, UsageRecord, rows};
use crate::relay::{Meters, OpenRequest, StoppedBy};
use crate::store::{Broker, Recorder, Store};
use limits::{Headroom, Remaining};

/// Requests that have ended and are listed with the open ones.
const RECENT: u64 = 20;

/// Who one is to this service.
#[derive(Debug, Serialize, ToSchema)]
pub struct Me {
    #[serde(flatten)]
    user: UserLimits,
    /// The key of this request; null where a network stands for the user.
    key_id: Option<String>,
    /// The user's group; null = none.
    group: Option<String>,
    /// Models that this key may be used for, as it and the group allow; null = all that GET /v1/models lists.
    allowed_models: Option<Vec<String>>,
    /// When more may be used, under the tightest limit of this key, its user and the group.
    resets: Resets,
    /// Every limit that holds for this key, its user's and the group's among them.
    limits: Vec<Standing>,
}

/// When more may be used.
#[derive(Debug, Serialize, ToSchema)]
pub struct Resets {
    /// Requests: milliseconds from now; null = no limit.
    requests_ms: Option<u64>,
    /// Tokens: milliseconds from now; null = no limit.
    tokens_ms: Option<u64>,
}

/// One's own requests.
#[derive(Debug, Serialize, ToSchema)]
pub struct OwnRequests {
    /// Always `list`.
    object: &'static str,
    /// Those that run or wait at this gateway, the oldest first.
    data: Vec<OpenRecord>,
    /// The last 20 that have ended, the newest first; GET /v1/usage has all of them.
    recent: Vec<UsageRecord>,
}

impl From<Headroom> for Resets {
    fn from(headroom: Headroom) -> Self {
        let millis = |left: Remaining| u64::try_from(left.reset.as_millis()).unwrap_or(u64::MAX);
        Self { requests_ms: headroom.requests.map(millis), tokens_ms: headroom.tokens.map(millis) }
    }
}

/// Own account
///
/// Limits with what is used, reserved and left, and when it comes back; allowed models; the share of a busy service.
#[utoipa::path(
    get, path = "/v1/me", tag = "usage", security(("user_key" = [])),
    responses((status = 200, body = Me), answers::AuthResponses),
)]
pub async fn retrieve(
    meters: Data<Meters>,
    broker: Data<Option<Broker>>,
    names: Data<Live<ModelNames>>,
    Caller(access): Caller,
) -> Result<Json<Me>, ApiError> {
    if let Some(broker) = &**broker
        && let Err(why) = broker.look_at(&access).await
    {
        tracing::debug!(%why, "what other gateways hold of a limit is what was last known");
    }
    let now = meters.clock.now();
    let user = UserLimits::known(access.account(), now);
    Ok(Json(Me {
        user,
        key_id: access.key_id().map(ToString::to_string),
        group: access.group().map(|group| group.name().to_string()),
        allowed_models: names.get().in_common(&access.allowed_models()),
        resets: access.headroom(now).into(),
        limits: standings(&access, now),
    }))
}

/// Own requests
///
/// What runs and waits now, with its place, when it is expected to begin and what it waits for; and the last ones that ended.
#[utoipa::path(
    get, path = "/v1/me/requests", tag = "usage", security(("user_key" = [])),
    responses((status = 200, body = OwnRequests), answers::AuthResponses, answers::StorageResponse),
)]
pub async fn requests(
    lifecycle: Data<Lifecycle>,
    meters: Data<Meters>,
    store: Data<Store>,
    recorder: Data<Recorder>,
    reads: Data<Reads>,
    Caller(access): Caller,
) -> Result<Json<OwnRequests>, ApiError> {
    let _turn = reads.into_inner().turn(access.user().shared()).await?;
    let user = access.user().as_str();
    let recent = rows(&store, &recorder, access.usage_id(), &PageQuery::new(Some(RECENT), None)).await?.into_data();
    let data = open_requests(&meters, &lifecycle.dispatcher, |request| &*request.user == user).await;
    Ok(Json(OwnRequests { object: "list", data, recent }))
}

/// Stop an own request
///
/// One that runs or waits at this gateway. What it used up to then is charged.
#[utoipa::path(
    delete, path = "/v1/me/requests/{request_id}", tag = "usage", security(("user_key" = [])),
    params(("request_id" = String, Path, description = "As in `x-request-id`.")),
    responses((status = 200, body = StoppedRequest), answers::AuthResponses, answers::NotFoundResponse),
)]
pub async fn stop(
    meters: Data<Meters>,
    Caller(access): Caller,
    request_id: Path<String>,
) -> Result<Json<StoppedRequest>, ApiError> {
    let user = access.user().as_str();
    let is_own = |request: &OpenRequest| &*request.user == user;
    stop_open(&meters, &request_id, StoppedBy::User, None, is_own).map(Json)
}
