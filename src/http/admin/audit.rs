//! What did administrators do? The audit log, as JSON page by page, or all that is asked for as CSV.
mod table;

use actix_web::web::{Data, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::http::answers;
use crate::http::auth::Admin;
use crate::http::csv;
use crate::http::error::ApiError;
use crate::http::time::{moment, moment_schema, rfc3339};
use crate::http::usage::{PageQuery, bad_cursor, cursor};
use crate::store::{AuditLine, AuditSearch, Period, Store};

/// Which entries of the audit log.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// By whom: a name, or `configured key`.
    admin: Option<String>,
    /// By which method, such as `DELETE`.
    method: Option<String>,
    /// By which route, such as `/admin/users/{id}`.
    route: Option<String>,
    /// To whom or what, such as a user, and what belongs to it, such as the user's keys.
    target: Option<String>,
    /// First moment, RFC 3339, or a date (UTC).
    #[param(example = "2026-11-01", schema_with = moment_schema)]
    from: Option<String>,
    /// First moment that is not included, RFC 3339, or a date (UTC).
    #[param(example = "2026-12-01T00:00:00Z", schema_with = moment_schema)]
    to: Option<String>,
    #[param(schema_with = csv::format_schema)]
    format: Option<String>,
    /// JSON only: entries a page, 1 to 1000. Default 100.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
    /// JSON only: the `next` of the page before.
    after: Option<String>,
}

/// An entry of the audit log.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditRecord {
    /// From 1, without gaps.
    seq: i64,
    /// RFC 3339 in UTC.
    at: String,
    /// Who: an administrator's name, or `configured key`.
    #[schema(example = "eve")]
    admin: String,
    /// The role at the time.
    #[schema(example = "operator")]
    role: String,
    /// What was done.
    #[schema(example = "DELETE")]
    method: String,
    /// What was done.
    #[schema(example = "/admin/users/{id}")]
    route: String,
    /// To whom or what.
    #[schema(example = "user-123")]
    target: String,
    /// What was there; null = nothing, or it is not known.
    #[schema(value_type = Object, nullable)]
    before: Option<Value>,
    /// What was there afterwards, or was asked for; null = nothing. Secrets are left out.
    #[schema(value_type = Object, nullable)]
    after: Option<Value>,
    /// The answer's `x-request-id`.
    request_id: Uuid,
    /// The answer's status; null = it was about to be done, and a later entry of the same request says how it ended.
    #[schema(example = 200)]
    status: Option<u16>,
    /// Of this entry and, through it, of all before, SHA-256 in hex.
    digest: String,
}

/// A page of the audit log.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditPage {
    /// Always `list`.
    object: &'static str,
    /// The newest first.
    data: Vec<AuditRecord>,
    /// For `after`; null on the last page.
    next: Option<String>,
}

impl From<AuditLine> for AuditRecord {
    fn from(line: AuditLine) -> Self {
        let json = |text: Option<String>| text.and_then(|text| serde_json::from_str(&text).ok());
        Self {
            seq: line.seq,
            at: rfc3339(line.at_ms),
            admin: line.actor,
            role: line.role,
            method: line.method,
            route: line.route,
            target: line.target,
            before: json(line.before),
            after: json(line.after),
            request_id: line.request_id,
            status: line.status.and_then(|status| u16::try_from(status).ok()),
            digest: line.digest,
        }
    }
}

impl AuditQuery {
    fn search(&self) -> Result<AuditSearch, ApiError> {
        let given = |field: &'static str, text: &Option<String>| match text {
            // Postgres cannot compare a text with it.
            Some(text) if text.contains('\0') => {
                Err(ApiError::invalid_field(field, "A name cannot contain a NUL character."))
            }
            text => Ok(text.clone()),
        };
        Ok(AuditSearch {
            actor: given("admin", &self.admin)?,
            method: given("method", &self.method)?,
            route: given("route", &self.route)?,
            target: given("target", &self.target)?,
            period: Period { from_ms: moment("from", self.from.as_deref())?, to_ms: moment("to", self.to.as_deref())? },
            before: None,
        })
    }
}

/// Read the audit log
///
/// What administrators did, the newest first: each request that may change something, whether it was made, refused or failed.
#[utoipa::path(
    get, path = "/admin/audit", tag = "admin", params(AuditQuery), security(("admin_key" = [])),
    responses(
        (status = 200, description = "The lines; as CSV with a line of headings, and nothing for null.", content(
            (AuditPage = "application/json"), (String = "text/csv", example = "seq,at,admin,…\r\n"),
        )),
        answers::AdminResponses, answers::StorageResponse,
    ),
)]
pub async fn list(
    _: Admin,
    store: Data<Store>,
    request: HttpRequest,
    Query(query): Query<AuditQuery>,
) -> Result<HttpResponse, ApiError> {
    let search = query.search()?;
    if csv::is_asked_for(request.headers(), query.format.as_deref(), query.limit, query.after.as_deref())? {
        return table::answer(store.as_ref().clone(), search).await;
    }
    let page = PageQuery::new(query.limit, query.after.clone());
    let place = |bytes: Vec<u8>| bytes.try_into().map(i64::from_be_bytes).map_err(|_| bad_cursor());
    let before = page.after()?.map(place).transpose()?;
    let (lines, more) = store.audit_page(AuditSearch { before, ..search }, page.limit()?).await?;
    let next = lines.last().filter(|_| more).map(|line| cursor(&line.seq.to_be_bytes()));
    let data = lines.into_iter().map(AuditRecord::from).collect();
    Ok(HttpResponse::Ok().json(AuditPage { object: "list", data, next }))
}
