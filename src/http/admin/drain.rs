//! A node is taken out of service, for a reason and until some time, and brought back.
use std::collections::BTreeSet;
use std::time::Duration;

use actix_web::web::{Data, Json, Path, Query};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::given::present;
use super::nodes::{NodeDone, done, shown};
use crate::fleet::{DrainTerms, FleetContext, Roster};
use crate::http::answers;
use crate::http::auth::Admin;
use crate::http::body::JsonOrNothing;
use crate::http::error::ApiError;
use crate::http::maintenance::MaintenanceRecord;
use crate::http::open::{OpenRecord, open_requests};
use crate::http::ops::Lifecycle;
use crate::http::time::{moment, moment_or_null_schema};
use crate::relay::{Meters, OpenRequest};

/// Characters of a reason.
const LONGEST_REASON: usize = 200;
/// Seconds that somebody may wait.
const LONGEST_WAIT: u64 = 600;
/// Between two looks at what still runs.
const LOOK: Duration = Duration::from_millis(100);
/// Requests that an answer lists.
const LISTED: usize = 100;

/// Why a node is drained, and until when. What is absent stays as it is, and null takes it away.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainNode {
    /// At most 200 characters. Clients that find no other node read it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 200, example = "driver update")]
    reason: Option<Option<String>>,
    /// When the node comes back by itself: RFC 3339, or a date (UTC), in the future.
    #[serde(default, deserialize_with = "present")]
    #[schema(schema_with = moment_or_null_schema)]
    until: Option<Option<String>>,
}

/// How long to wait.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DrainQuery {
    /// Answer only once nothing runs there any more, or after this many seconds. Default 0.
    #[param(maximum = 600, default = 0)]
    wait: Option<u64>,
}

/// A node that is drained, and what still runs there.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeDrained {
    #[serde(flatten)]
    done: NodeDone,
    /// Why and until when.
    maintenance: MaintenanceRecord,
    /// Requests of this gateway that still run there; 0 = it is empty.
    running: u32,
    /// The oldest of them; at most 100.
    requests: Vec<OpenRecord>,
}

impl DrainNode {
    fn terms(self, now_ms: i64) -> Result<DrainTerms, ApiError> {
        let reason =
            self.reason.map(|reason| reason.map(|reason| reason.trim().to_owned()).filter(|it| !it.is_empty()));
        if reason.iter().flatten().any(|reason| reason.chars().count() > LONGEST_REASON) {
            return Err(ApiError::invalid_field("reason", "`reason` must have at most 200 characters."));
        }
        let until_ms = self.until.map(|until| moment("until", until.as_deref())).transpose()?;
        if until_ms.flatten().is_some_and(|until_ms| until_ms <= now_ms) {
            return Err(ApiError::invalid_field("until", "`until` must be in the future."));
        }
        Ok(DrainTerms { reason, until_ms })
    }
}

/// Drain a node
///
/// It gets no further requests; what runs there may end. That is kept, also over a restart, until it is undrained or `until` has
/// come. The name may be that of any node, or of an entry with `discover: dns`, which means all of its nodes. Of a node that is
/// drained already, this changes the reason and the end.
#[utoipa::path(
    post, path = "/admin/nodes/{name}/drain", tag = "admin", security(("admin_key" = [])),
    params(("name" = String, Path, description = "The node."), DrainQuery),
    request_body(content = Option<DrainNode>, description = "May be left out."),
    responses(
        (status = 200, body = NodeDrained), answers::AdminResponses, answers::NotFoundResponse, answers::StorageResponse,
    ),
)]
pub async fn drain(
    admin: Admin,
    (lifecycle, roster, fleet, meters): (Data<Lifecycle>, Data<Roster>, Data<FleetContext>, Data<Meters>),
    name: Path<String>,
    Query(query): Query<DrainQuery>,
    JsonOrNothing(body): JsonOrNothing<DrainNode>,
) -> Result<Json<NodeDrained>, ApiError> {
    let wait = Duration::from_secs(query.wait.unwrap_or(0));
    if wait.as_secs() > LONGEST_WAIT {
        return Err(ApiError::invalid_field("wait", "`wait` must be at most 600 seconds."));
    }
    let terms = body.terms(meters.clock.now().unix_ms)?;
    let maintenance = roster
        .drain(&name, terms, |maintenance| {
            let after = json!(MaintenanceRecord::from(maintenance.clone()));
            admin.changes(&name, shown(&roster, &name), Some(json!({"maintenance": after})));
        })
        .await?;
    // An entry that is discovered stands for several nodes.
    let nodes = roster.ids_of(&name);
    let running = || fleet.dispatcher.read(|scheduler| scheduler.in_flight_on(&nodes));
    let until_empty = async {
        while running() > 0 {
            tokio::time::sleep(LOOK).await;
        }
    };
    // Whoever waits at a gateway that stops would hold it up.
    tokio::select! {
        () = lifecycle.draining.cancelled() => {}
        _ = tokio::time::timeout(wait, until_empty) => {}
    }
    let names: BTreeSet<_> = nodes.iter().filter_map(|node| Some(fleet.nodes.get(*node)?.name.clone())).collect();
    let is_there = |request: &OpenRequest| request.stage().node.is_some_and(|node| names.contains(&node));
    let mut requests = open_requests(&meters, &lifecycle.dispatcher, is_there).await;
    requests.truncate(LISTED);
    let done = done(name.into_inner(), "draining");
    Ok(Json(NodeDrained { done, maintenance: maintenance.into(), running: running(), requests }))
}

/// Undrain a node
///
/// It gets requests again.
#[utoipa::path(
    post, path = "/admin/nodes/{name}/undrain", tag = "admin", security(("admin_key" = [])),
    params(("name" = String, Path, description = "The node.")),
    responses(
        (status = 200, body = NodeDone), answers::AdminResponses, answers::NotFoundResponse, answers::StorageResponse,
    ),
)]
pub async fn undrain(admin: Admin, roster: Data<Roster>, name: Path<String>) -> Result<Json<NodeDone>, ApiError> {
    admin.changes(&name, shown(&roster, &name), Some(json!({"maintenance": Value::Null})));
    roster.undrain(&name).await?;
    Ok(Json(done(name.into_inner(), "undrained")))
}
