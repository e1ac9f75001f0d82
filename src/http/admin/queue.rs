//! Who waits, for what and how long still?
use std::time::Duration;

use actix_web::web::{Data, Json, Query};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::dispatch::{Question, Sharing};
use crate::http::answers;
use crate::http::auth::Admin;
use crate::http::error::ApiError;
use crate::http::ops::Lifecycle;
use scheduler::{Alternative, Scheduler};

/// How many of those that wait.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Limit {
    /// 1 to 1000; default 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u16>,
}

/// The queue as it stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct Queue {
    /// Always `list`.
    object: &'static str,
    /// The first ones, in the order in which they would be placed now: users by the least work done for them.
    data: Vec<WaitingRequest>,
    /// Requests that wait.
    queued: usize,
    /// Requests on nodes.
    in_flight: usize,
    /// How fast requests end while others wait, in requests a second; null before it was measured.
    drain_per_second: Option<f64>,
    /// How many gateways schedule for the nodes.
    scheduling: Scheduling,
    /// `all`: everybody's queue, as the gateway sees it that schedules. `own`: only this gateway's clients' requests, because
    /// gateways share the slots, or the one that schedules did not answer within a second.
    scope: &'static str,
}

/// Who schedules for the nodes. Where gateways share, each has a queue of its own; where one leads, any of them shows
/// everybody's.
#[derive(Debug, Serialize, ToSchema)]
pub struct Scheduling {
    /// `alone`; `leading`: this gateway schedules for all of them; `following`: another one does; `seeking`: it looks for
    /// that one, and goes on with the slots that it holds; or `sharing`: each has a queue of its own and a share of the
    /// slots.
    role: &'static str,
    /// Gateways that use the nodes, this one included.
    gateways: usize,
    /// Whether everybody knows which slots are whose. Until then a gateway may use fewer than it could.
    is_settled: bool,
    /// Grows each time another gateway begins to lead; null where none does.
    epoch: Option<u64>,
    /// The gateway that leads, if it is another one.
    leader: Option<String>,
}

impl From<Sharing> for Scheduling {
    fn from(sharing: Sharing) -> Self {
        let Sharing { role, gateways, is_settled, epoch, leader } = sharing;
        Self { role, gateways, is_settled, epoch, leader: leader.map(|leader| leader.to_string()) }
    }
}

/// A request that waits.
#[derive(Debug, Serialize, ToSchema)]
pub struct WaitingRequest {
    /// As in `x-request-id`.
    request_id: Uuid,
    /// Whose.
    user: String,
    /// With its tag.
    model: String,
    /// From 1.
    position: usize,
    /// So far.
    waited_ms: u64,
    /// What it waits for, as things stand; null while it is too far back to be planned.
    waits_for: Option<Weighed>,
}

/// Something that could be done with a request, and what that was expected to take.
#[derive(Debug, Serialize, ToSchema)]
pub struct Weighed {
    /// Where; null for a node that has left.
    node: Option<String>,
    /// `now` (a slot is free), `wait` (for a slot) or `load` (load the model there).
    kind: &'static str,
    /// What is compared: the sum of the others.
    total_seconds: f64,
    /// Until a slot is free or, before a load, until what must leave the node's memory has ended.
    wait_seconds: f64,
    /// Loading the model.
    load_seconds: f64,
    /// What others lose by the load.
    regret_seconds: f64,
    /// Reading the prompt.
    prefill_seconds: f64,
    /// Writing the answer.
    decode_seconds: f64,
    /// Tokens of the prompt, as estimated.
    prompt_tokens: u64,
    /// Of those, the tokens that the node is expected to have in a cache and need not read again.
    cached_tokens: u64,
}

impl Weighed {
    pub(super) fn new(alternative: &Alternative, scheduler: &Scheduler) -> Self {
        let Alternative { node, kind, wait, load, regret, prefill, decode, prompt, cached } = *alternative;
        let rounded = |seconds: f64| (seconds * 1000.0).round() / 1000.0;
        Self {
            node: scheduler.node_name(node).map(str::to_owned),
            kind: kind.label(),
            total_seconds: rounded(alternative.total()),
            wait_seconds: rounded(wait),
            load_seconds: rounded(load),
            regret_seconds: rounded(regret),
            prefill_seconds: rounded(prefill),
            decode_seconds: rounded(decode),
            prompt_tokens: prompt as u64,
            cached_tokens: cached as u64,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Show the queue
///
/// Who waits, in the order of their turns, for what, and how long that is expected to take still.
#[utoipa::path(
    get, path = "/admin/queue", tag = "admin", security(("admin_key" = [])), params(Limit),
    responses((status = 200, body = Queue), answers::AdminResponses),
)]
pub async fn list(_: Admin, lifecycle: Data<Lifecycle>, Query(limit): Query<Limit>) -> Result<Json<Queue>, ApiError> {
    let most = limit.limit.unwrap_or(100);
    if !(1..=1000).contains(&most) {
        return Err(ApiError::invalid_field("limit", "`limit` must be 1 to 1000."));
    }
    let sharing = lifecycle.dispatcher.sharing();
    let question = Question { waiting: usize::from(most), ..Question::default() };
    let sight = lifecycle.dispatcher.look(question).await;
    Ok(Json(lifecycle.dispatcher.read(|scheduler| {
        let data = sight.waiting.iter().enumerate().map(|(index, waiting)| WaitingRequest {
            request_id: Uuid::from_u128(waiting.id.0),
            user: waiting.user.to_string(),
            model: waiting.model.to_string(),
            position: index + 1,
            waited_ms: millis(waiting.waited),
            waits_for: waiting.waits_for.as_ref().map(|alternative| Weighed::new(alternative, scheduler)),
        });
        let interval = sight.drain_interval.map(|interval| interval.as_secs_f64());
        Queue {
            object: "list",
            data: data.collect(),
            queued: sight.queued,
            in_flight: sight.in_flight,
            scheduling: sharing.into(),
            scope: sight.scope.label(),
            drain_per_second: interval.filter(|seconds| *seconds > 0.0).map(|seconds| 1.0 / seconds),
        }
    })))
}
