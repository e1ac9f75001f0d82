//! Which requests run, wait, or have ended, whoever's they are; and a way to stop one.
use actix_web::web::{Data, Json, Path, Query};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::http::answers;
use crate::http::auth::Admin;
use crate::http::error::ApiError;
use crate::http::open::{OpenRecord, OpenState, open_requests};
use crate::http::ops::Lifecycle;
use crate::http::time::{moment, moment_schema};
use crate::http::usage::{PageQuery, UsageRecord, cursor};
use crate::relay::{Meters, OpenRequest, Stopped, StoppedBy};
use crate::store::{Accounts, Page, Period, Recorder, Search, Store};

/// Characters of a reason.
const LONGEST_REASON: usize = 200;

/// Which requests.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RequestQuery {
    /// `running` or `waiting`: those of this gateway that are open. Default: those that have ended.
    #[param(inline)]
    state: Option<OpenState>,
    /// Whose.
    user: Option<String>,
    /// As the request named it.
    model: Option<String>,
    /// The node that has it, or was asked last.
    node: Option<String>,
    /// How it ended: `completed`, `cancelled`, `upstream_error`, `deadline`, `refused` or `interrupted`.
    status: Option<String>,
    /// The `code` of the error that its client got.
    code: Option<String>,
    /// First moment of arrival, RFC 3339, or a date (UTC).
    #[param(example = "2026-11-01", schema_with = moment_schema)]
    from: Option<String>,
    /// First moment of arrival that is not included, RFC 3339, or a date (UTC).
    #[param(example = "2026-12-01T00:00:00Z", schema_with = moment_schema)]
    to: Option<String>,
    /// Requests a page, 1 to 1000. Default 100.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
    /// The `next` of the page before.
    after: Option<String>,
}

/// A page of requests.
#[derive(Debug, Serialize, ToSchema)]
pub struct RequestList {
    /// Always `list`.
    object: &'static str,
    /// Open ones the oldest first, ended ones the newest first.
    data: Vec<RequestEntry>,
    /// For `after`; null on the last page.
    next: Option<String>,
}

/// A request, open or ended.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum RequestEntry {
    /// One that runs or waits.
    Open(Box<OpenRecord>),
    /// One that has ended.
    Ended(Box<EndedRequest>),
}

/// A request that has ended.
#[derive(Debug, Serialize, ToSchema)]
pub struct EndedRequest {
    /// Whose.
    user_id: String,
    /// With which key; null where a network stood for the user.
    key_id: Option<String>,
    #[serde(flatten)]
    record: UsageRecord,
}

/// Why a request is stopped.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StopQuery {
    /// For its client, at most 200 characters.
    #[param(max_length = 200, example = "the node goes down for maintenance")]
    reason: Option<String>,
}

/// That a request was stopped.
#[derive(Debug, Serialize, ToSchema)]
pub struct StoppedRequest {
    /// Which.
    request_id: Uuid,
    /// Always true. Its end follows at once.
    stopped: bool,
}

impl RequestQuery {
    fn wants(&self, request: &OpenRequest) -> bool {
        let is = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|wanted| wanted == is);
        is(&self.user, &request.user) && is(&self.model, &request.model)
    }

    fn search(&self) -> Result<Search, ApiError> {
        Ok(Search {
            user: self.user.clone(),
            model: self.model.clone(),
            node: self.node.clone(),
            status: self.status.clone(),
            code: self.code.clone(),
            period: Period { from_ms: moment("from", self.from.as_deref())?, to_ms: moment("to", self.to.as_deref())? },
        })
    }

    /// What only requests that have ended have.
    fn of_ended(&self) -> Option<&'static str> {
        let given = [("status", &self.status), ("code", &self.code), ("from", &self.from), ("to", &self.to)];
        given.into_iter().find_map(|(name, value)| value.is_some().then_some(name))
    }
}

/// List requests
///
/// Without `state` those that have ended, from the usage rows: refusals beyond a user's first ten in a minute share a row. With
/// it those that run or wait at this gateway now.
#[utoipa::path(
    get, path = "/admin/requests", tag = "admin", security(("admin_key" = [])), params(RequestQuery),
    responses((status = 200, body = RequestList), answers::AdminResponses, answers::StorageResponse),
)]
pub async fn list(
    _: Admin,
    lifecycle: Data<Lifecycle>,
    meters: Data<Meters>,
    accounts: Data<Accounts>,
    store: Data<Store>,
    recorder: Data<Recorder>,
    Query(query): Query<RequestQuery>,
) -> Result<Json<RequestList>, ApiError> {
    let page = PageQuery::new(query.limit, query.after.clone()).page()?;
    let (data, next) = match query.state {
        Some(state) => open_page(&query, state, page, &lifecycle, &meters).await?,
        None => {
            recorder.flush().await;
            let mut search = query.search()?;
            if let Some(user) = search.user.as_mut() {
                // A name may have been used again: this finds the requests of whoever has it now.
                *user = accounts.usage_id(user).await?.to_string();
            }
            let (rows, more) = store.search(search, page).await?;
            let next = rows.last().filter(|_| more).map(|row| row.request_id);
            let entry = |row: crate::store::UsageRow| {
                let (user_id, key_id) = (row.user_name().to_owned(), row.key.as_ref().map(ToString::to_string));
                RequestEntry::Ended(Box::new(EndedRequest { user_id, key_id, record: row.into() }))
            };
            (rows.into_iter().map(entry).collect(), next)
        }
    };
    Ok(Json(RequestList { object: "list", data, next: next.map(|id| cursor(id.as_bytes())) }))
}

async fn open_page(
    query: &RequestQuery,
    state: OpenState,
    page: Page,
    lifecycle: &Lifecycle,
    meters: &Meters,
) -> Result<(Vec<RequestEntry>, Option<Uuid>), ApiError> {
    if let Some(field) = query.of_ended() {
        let message = format!("`{field}` is known of requests that have ended; leave `state` out.");
        return Err(ApiError::invalid_field(field, message));
    }
    let is_wanted =
        |request: &OpenRequest| query.wants(request) && page.after.is_none_or(|after| request.request_id > after);
    let mut open = open_requests(meters, &lifecycle.dispatcher, is_wanted).await;
    open.retain(|record| record.state == state && (query.node.is_none() || record.node == query.node));
    let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
    // All open requests are in memory, and their number is bounded, so a page is cut out of the whole.
    let more = open.len() > limit;
    open.truncate(limit);
    let next = open.last().filter(|_| more).map(OpenRecord::request_id);
    Ok((open.into_iter().map(|record| RequestEntry::Open(Box::new(record))).collect(), next))
}

/// Stop a request
///
/// One that runs or waits at this gateway. Its client reads that an operator stopped it, and `reason`; what it used up to then
/// is charged.
#[utoipa::path(
    delete, path = "/admin/requests/{request_id}", tag = "admin", security(("admin_key" = [])),
    params(("request_id" = String, Path, description = "As in `x-request-id`."), StopQuery),
    responses((status = 200, body = StoppedRequest), answers::AdminResponses, answers::NotFoundResponse),
)]
pub async fn stop(
    admin: Admin,
    meters: Data<Meters>,
    request_id: Path<String>,
    Query(query): Query<StopQuery>,
) -> Result<Json<StoppedRequest>, ApiError> {
    let reason = query.reason.filter(|reason| !reason.is_empty());
    if reason.as_ref().is_some_and(|reason| reason.chars().count() > LONGEST_REASON) {
        return Err(ApiError::invalid_field("reason", "`reason` must have at most 200 characters."));
    }
    // An id that nobody has leaves no entry in the audit log.
    if request_id.parse().is_ok_and(|id| meters.requests.get(id).is_some()) {
        admin.begins(&request_id, reason.as_ref().map(|reason| json!({ "reason": reason }))).await?;
    }
    stop_open(&meters, &request_id, StoppedBy::Operator, reason, |_| true).map(Json)
}

/// Stops an open request that `may_stop` agrees to; for anybody else it does not exist.
pub(in crate::http) fn stop_open(
    meters: &Meters,
    request_id: &str,
    by: StoppedBy,
    reason: Option<String>,
    may_stop: impl Fn(&OpenRequest) -> bool,
) -> Result<StoppedRequest, ApiError> {
    let open = request_id.parse().ok().and_then(|id| meters.requests.get(id)).filter(|request| may_stop(request));
    let open = open.ok_or_else(|| ApiError::not_found("No open request has this id; it may have ended."))?;
    tracing::info!(request_id = %open.request_id, user = &*open.user, ?by, reason, "request stopped");
    open.stop(Stopped { by, reason });
    Ok(StoppedRequest { request_id: open.request_id, stopped: true })
}
