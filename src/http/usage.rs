//! The routes for a user's own usage, as rows and sums; admin routes show anybody's in the same types.
use std::borrow::Cow;

use actix_web::web::{Data, Json, Query};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::auth::Caller;
use super::error::ApiError;
use super::reads::Reads;
use super::time::{moment, moment_schema, rfc3339};
use crate::store::{ModelTotals, Page, Period, Recorder, Store, UsageRow};

const MAX_PAGE: u64 = 1000;
const DEFAULT_PAGE: u64 = 100;

/// Which part of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// Rows a page, 1 to 1000. Default 100.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
    /// The `next` of the page before.
    after: Option<String>,
}

impl PageQuery {
    /// For routes that take further parameters.
    pub(super) fn new(limit: Option<u64>, after: Option<String>) -> Self {
        Self { limit, after }
    }

    /// Rows a page.
    pub(super) fn limit(&self) -> Result<u64, ApiError> {
        match self.limit.unwrap_or(DEFAULT_PAGE) {
            limit @ 1..=MAX_PAGE => Ok(limit),
            _ => Err(ApiError::invalid_field("limit", format!("`limit` must be 1 to {MAX_PAGE}."))),
        }
    }

    /// The position that the cursor encodes.
    pub(super) fn after(&self) -> Result<Option<Vec<u8>>, ApiError> {
        let decode = |cursor: &String| URL_SAFE_NO_PAD.decode(cursor).map_err(|_| bad_cursor());
        self.after.as_ref().map(decode).transpose()
    }

    pub(super) fn page(&self) -> Result<Page, ApiError> {
        let after = self.after()?.map(|bytes| Uuid::from_slice(&bytes).map_err(|_| bad_cursor())).transpose()?;
        Ok(Page { limit: self.limit()?, after })
    }
}

/// Encodes a position as a cursor, which is opaque to clients.
pub(super) fn cursor(position: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(position)
}

pub(super) fn bad_cursor() -> ApiError {
    ApiError::invalid_field("after", "`after` must be the `next` of an earlier page.")
}

/// A span of time.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct PeriodQuery {
    /// First moment, RFC 3339, or a date (UTC). Default: from the beginning.
    #[param(example = "2026-11-01", schema_with = moment_schema)]
    from: Option<String>,
    /// First moment that is not included, RFC 3339, or a date (UTC). Default: up to now.
    #[param(example = "2026-12-01T00:00:00Z", schema_with = moment_schema)]
    to: Option<String>,
}

impl PeriodQuery {
    fn period(&self) -> Result<Period, ApiError> {
        Ok(Period { from_ms: moment("from", self.from.as_deref())?, to_ms: moment("to", self.to.as_deref())? })
    }
}

/// One request.
#[derive(Debug, Serialize, ToSchema)]
pub struct UsageRecord {
    /// What the answer carried as `x-request-id`.
    request_id: Uuid,
    /// Arrival, RFC 3339 in UTC.
    #[schema(example = "2026-11-23T12:00:00.25Z")]
    created_at: String,
    /// As the request named it.
    model: String,
    /// The route.
    #[schema(example = "/v1/chat/completions")]
    endpoint: String,
    /// The node that was asked last; null where none was.
    node: Option<String>,
    /// Whether the answer was streamed.
    stream: bool,
    /// `completed` (the client got the whole answer), `cancelled`, `upstream_error`, `deadline`, `refused` or
    /// `interrupted`.
    #[schema(example = "completed")]
    status: String,
    /// Tokens of the prompt.
    prompt_tokens: u64,
    /// Tokens of the answer.
    completion_tokens: u64,
    /// Both.
    total_tokens: u64,
    /// Waiting for a slot, milliseconds.
    queue_ms: u64,
    /// From arrival to the node's first byte, milliseconds; null where there was none.
    time_to_first_token_ms: Option<u64>,
    /// From arrival to end, milliseconds.
    duration_ms: u64,
    /// Where the token numbers come from: `reported` by the node, `counted` by the gateway, or `estimated`.
    #[schema(example = "reported")]
    tokens_from: String,
    /// How many nodes were asked.
    attempts: u32,
    /// Loading models, milliseconds, if this request caused it, whoever used them afterwards: as the gateway measured it,
    /// up to the request's end, or as reported by a node that loaded by itself (Ollama's own dialect only). Else null.
    load_ms: Option<u64>,
    /// The node's time for the prompt, milliseconds, failed attempts included: as the node reports it (Ollama's own
    /// dialect), or else as measured: up to a stream's first byte, or all of an embedding. Null for a plain answer whose
    /// node does not report it, and if no node was asked.
    prefill_ms: Option<u64>,
    /// The node's time for the answer, milliseconds, failed attempts included: as the node reports it (Ollama's own
    /// dialect), or else as measured: from a stream's first byte to its last token, or all of a plain answer, including
    /// its prompt. Null for embeddings, and if no answer began.
    decode_ms: Option<u64>,
    /// The `code` of the error that the client got, `client_cancelled` if it left, or `node_refused` if a node rejected
    /// the request; null if nothing went wrong.
    #[schema(example = "rate_limit_exceeded")]
    code: Option<String>,
    /// The limit that refused it, by its name in the configuration; null where none did.
    #[schema(example = "requests_per_minute")]
    limit: Option<String>,
    /// The HTTP status that the client saw, 499 where it had left; null in rows of older versions.
    #[schema(example = 429)]
    http_status: Option<u16>,
    /// How many requests the row stands for: 1, except that refusals beyond a user's first ten in a minute share one row
    /// for each reason. Such a row names no model.
    #[schema(example = 1)]
    requests: u64,
    /// The group under whose limits it was admitted, null where there was none; `research~2` is the second group of that
    /// name.
    #[schema(example = "research")]
    group_id: Option<String>,
}

/// A page of rows, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct UsageList {
    /// Always `list`.
    object: &'static str,
    /// The rows.
    data: Vec<UsageRecord>,
    /// For `after`; null on the last page.
    next: Option<String>,
}

/// Sums over one model.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelSum {
    /// As requests named it.
    model: String,
    #[serde(flatten)]
    sum: Sum,
}

/// Requests (refused ones not counted) and their tokens.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub struct Sum {
    /// Number of requests.
    requests: i64,
    /// Tokens of prompts.
    prompt_tokens: i64,
    /// Tokens of answers.
    completion_tokens: i64,
    /// Both.
    total_tokens: i64,
}

/// Sums by model and over all.
#[derive(Debug, Serialize, ToSchema)]
pub struct UsageSummary {
    /// Largest first.
    data: Vec<ModelSum>,
    /// Over all models.
    total: Sum,
}

impl UsageList {
    pub(super) fn into_data(self) -> Vec<UsageRecord> {
        self.data
    }
}

impl From<UsageRow> for UsageRecord {
    fn from(row: UsageRow) -> Self {
        Self {
            request_id: row.request_id,
            created_at: rfc3339(row.created_at_ms),
            model: row.model,
            endpoint: row.endpoint.into_owned(),
            node: row.node,
            stream: row.stream,
            status: row.status.into_owned(),
            prompt_tokens: row.prompt_tokens,
            completion_tokens: row.completion_tokens,
            total_tokens: row.prompt_tokens.saturating_add(row.completion_tokens),
            queue_ms: row.queue_ms,
            time_to_first_token_ms: row.time_to_first_token_ms,
            duration_ms: row.duration_ms,
            tokens_from: row.tokens_from.into_owned(),
            attempts: row.attempts,
            load_ms: row.load_ms,
            prefill_ms: row.prefill_ms,
            decode_ms: row.decode_ms,
            code: row.reason.code.map(Cow::into_owned),
            limit: row.reason.limit.map(Cow::into_owned),
            http_status: row.http_status,
            requests: row.requests,
            group_id: row.group.map(|group| group.to_string()),
        }
    }
}

impl From<&ModelTotals> for Sum {
    fn from(totals: &ModelTotals) -> Self {
        Self {
            requests: totals.requests,
            prompt_tokens: totals.prompt_tokens,
            completion_tokens: totals.completion_tokens,
            total_tokens: totals.prompt_tokens.saturating_add(totals.completion_tokens),
        }
    }
}

/// The rows of a user, by the id in usage. Rows of answers that are already out are in, so that one sees one's own last request.
pub(super) async fn rows(
    store: &Store,
    recorder: &Recorder,
    usage_id: &str,
    query: &PageQuery,
) -> Result<UsageList, ApiError> {
    let page = query.page()?;
    recorder.flush().await;
    let (rows, more) = store.usage_page(usage_id, page).await?;
    let next = rows.last().filter(|_| more).map(|row| cursor(row.request_id.as_bytes()));
    Ok(UsageList { object: "list", data: rows.into_iter().map(UsageRecord::from).collect(), next })
}

/// The sums of a user, by the id in usage.
pub(super) async fn summary(
    store: &Store,
    recorder: &Recorder,
    usage_id: &str,
    query: &PeriodQuery,
) -> Result<UsageSummary, ApiError> {
    let period = query.period()?;
    recorder.flush().await;
    let totals = store.usage_totals(usage_id, period).await?;
    let mut total = Sum::default();
    for sum in totals.iter().map(Sum::from) {
        total.requests = total.requests.saturating_add(sum.requests);
        total.prompt_tokens = total.prompt_tokens.saturating_add(sum.prompt_tokens);
        total.completion_tokens = total.completion_tokens.saturating_add(sum.completion_tokens);
        total.total_tokens = total.total_tokens.saturating_add(sum.total_tokens);
    }
    let data = totals.iter().map(|totals| ModelSum { model: totals.model.clone(), sum: totals.into() }).collect();
    Ok(UsageSummary { data, total })
}

/// Own usage
///
/// A row for each request, newest first.
#[utoipa::path(
    get, path = "/v1/usage", tag = "usage", params(PageQuery), security(("user_key" = [])),
    responses((status = 200, body = UsageList), super::answers::AuthResponses, super::answers::StorageResponse),
)]
pub async fn own_rows(
    store: Data<Store>,
    recorder: Data<Recorder>,
    reads: Data<Reads>,
    Caller(access): Caller,
    query: Query<PageQuery>,
) -> Result<Json<UsageList>, ApiError> {
    let _turn = reads.into_inner().turn(access.user().shared()).await?;
    rows(&store, &recorder, access.usage_id(), &query).await.map(Json)
}

/// Own usage by model
///
/// Sums over a period. Whole days (UTC) are included even if their rows are no longer kept.
#[utoipa::path(
    get, path = "/v1/usage/summary", tag = "usage", params(PeriodQuery), security(("user_key" = [])),
    responses((status = 200, body = UsageSummary), super::answers::AuthResponses, super::answers::StorageResponse),
)]
pub async fn own_summary(
    store: Data<Store>,
    recorder: Data<Recorder>,
    reads: Data<Reads>,
    Caller(access): Caller,
    query: Query<PeriodQuery>,
) -> Result<Json<UsageSummary>, ApiError> {
    let _turn = reads.into_inner().turn(access.user().shared()).await?;
    summary(&store, &recorder, access.usage_id(), &query).await.map(Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_and_read_in_any_zone() {
        assert_eq!(rfc3339(1_795_435_200_250), "2026-11-23T12:00:00.25Z");
        assert_eq!(moment("from", Some("2026-11-23T13:00:00.25+01:00")).unwrap(), Some(1_795_435_200_250));
        assert_eq!(moment("from", Some("2026-11-23")).unwrap(), Some(1_795_392_000_000));
        assert!(moment("from", Some("yesterday")).is_err());
    }
}
