//! What went on in the last hour, for plots.
use actix_web::web::{Data, Json, Query};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::fleet::{FleetContext, Point, RosterError};
use crate::http::answers;
use crate::http::auth::Admin;
use crate::http::error::ApiError;
use crate::http::time::{moment, moment_schema, rfc3339};

/// Which series, and how much of it.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SeriesQuery {
    /// The node. Default: all of them together.
    #[param(max_length = 64)]
    node: Option<String>,
    /// First moment, RFC 3339, or a date (UTC). Default: an hour ago.
    #[param(example = "2026-11-27T10:00:00Z", schema_with = moment_schema)]
    from: Option<String>,
}

/// A series, column by column.
#[derive(Debug, Serialize, ToSchema)]
pub struct SeriesColumns {
    /// Always `series`.
    object: &'static str,
    /// The node; null for all together.
    node: Option<String>,
    /// The time of the first entry of each column, RFC 3339 in UTC.
    start: String,
    /// From one entry to the next, seconds.
    interval_seconds: u64,
    /// Requests on nodes. In each column, null stands for an interval that nobody looked at.
    running: Vec<Option<f32>>,
    /// Requests waiting; of a node, those for models that it has.
    waiting: Vec<Option<f32>>,
    /// Tokens of answers. Those of an answer that is not streamed count at its end.
    tokens_per_second: Vec<Option<f32>>,
    /// Requests that ended; of a node, attempts.
    requests_per_minute: Vec<Option<f32>>,
    /// Of those, the ones that failed through no fault of the client.
    errors_per_minute: Vec<Option<f32>>,
    /// From arrival to the first byte, on average, milliseconds; of a node, from when it was asked. Null where none came.
    first_token_ms: Vec<Option<f32>>,
}

/// Read the last hour
///
/// A point each five seconds, of this gateway, in memory: what ran, what waited, and how fast it went.
#[utoipa::path(
    get, path = "/admin/series", tag = "admin", security(("admin_key" = [])), params(SeriesQuery),
    responses((status = 200, body = SeriesColumns), answers::AdminResponses, answers::NotFoundResponse),
)]
pub async fn retrieve(
    _: Admin,
    fleet: Data<FleetContext>,
    Query(query): Query<SeriesQuery>,
) -> Result<Json<SeriesColumns>, ApiError> {
    let from = moment("from", query.from.as_deref())?;
    let series = fleet.plots.series(query.node.as_deref());
    let series = series.ok_or_else(|| RosterError::Unknown(query.node.clone().unwrap_or_default()))?;
    let since = from.map_or(0, |from| fleet.plots.interval_at(fleet.clock.uptime_at(from)));
    let (first, points) = series.since(since);
    let points: Vec<&Point> = points.collect();
    let column = |value: fn(&Point) -> f32| points.iter().map(|point| rounded(value(point))).collect();
    Ok(Json(SeriesColumns {
        object: "series",
        node: query.node,
        start: rfc3339(fleet.clock.unix_ms_at(fleet.plots.end_of(first))),
        interval_seconds: crate::fleet::INTERVAL.as_secs(),
        running: column(|point| point.running),
        waiting: column(|point| point.waiting),
        tokens_per_second: column(|point| point.tokens_per_second),
        requests_per_minute: column(|point| point.requests_per_minute),
        errors_per_minute: column(|point| point.errors_per_minute),
        first_token_ms: column(|point| point.first_token_ms),
    }))
}

/// To a tenth; `None` for what is not known.
fn rounded(value: f32) -> Option<f32> {
    value.is_finite().then(|| (value * 10.0).round() / 10.0)
}
