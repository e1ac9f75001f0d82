//! Which requests are open, as their users and the operator see them: what runs, what waits, how far and why?
use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::time::rfc3339;
use crate::dispatch::Dispatcher;
use crate::relay::{Meters, OpenRequest};
use scheduler::{Alternative, Kind, Scheduler, Waiting};

/// Waiting requests that are told their place; further back it changes too often to mean anything.
const PLACED: usize = 1_000;

/// Where an open request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OpenState {
    /// For a slot.
    Waiting,
    /// On a node.
    Running,
}

/// A request that has not ended.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenRecord {
    /// The answer's `x-request-id`.
    request_id: Uuid,
    /// `waiting` (for a slot) or `running` (on a node).
    pub(super) state: OpenState,
    /// Whose.
    user_id: String,
    /// With which key; null where a network stood for the user.
    key_id: Option<String>,
    /// As the request named it.
    model: String,
    /// The route.
    #[schema(example = "/v1/chat/completions")]
    endpoint: &'static str,
    /// Whether the answer is streamed.
    stream: bool,
    /// Arrival, RFC 3339 in UTC.
    created_at: String,
    /// How long it has been in this state, milliseconds.
    since_ms: u64,
    /// The node that works on it; null while it waits.
    pub(super) node: Option<String>,
    /// Nodes that were asked, this one included.
    attempts: u32,
    /// Tokens of the answer so far; 0 for an answer that is not streamed.
    completion_tokens: u64,
    /// Its place among those that wait, from 1; null while it runs.
    position: Option<usize>,
    /// When a slot is expected, milliseconds from now; null while it runs, and while it is too far back to be planned.
    expected_ms: Option<u64>,
    /// What happens, in words.
    #[schema(example = "waits for a slot on gpu-1, expected in 4.1 s")]
    summary: String,
}

/// The open requests that `is_wanted` takes, the oldest first.
pub(super) fn open_requests(
    meters: &Meters,
    dispatcher: &Dispatcher,
    is_wanted: impl Fn(&OpenRequest) -> bool,
) -> Vec<OpenRecord> {
    let mut wanted = meters.requests.all();
    wanted.retain(|request| is_wanted(request));
    let waiting = dispatcher.waiting(PLACED).into_iter().enumerate();
    let places: HashMap<Uuid, (usize, Waiting)> =
        waiting.map(|(index, (request_id, waiting))| (request_id, (index + 1, waiting))).collect();
    let now = meters.clock.uptime();
    dispatcher.read(|scheduler| {
        let record = |request: &std::sync::Arc<OpenRequest>| {
            OpenRecord::new(request, places.get(&request.request_id), scheduler, now)
        };
        wanted.iter().map(record).collect()
    })
}

impl OpenRecord {
    fn new(request: &OpenRequest, place: Option<&(usize, Waiting)>, scheduler: &Scheduler, now: Duration) -> Self {
        let stage = request.stage();
        let state = if stage.node.is_some() { OpenState::Running } else { OpenState::Waiting };
        let place = place.filter(|_| state == OpenState::Waiting);
        let plan = place.and_then(|(_, waiting)| waiting.waits_for);
        let summary = match &stage.node {
            Some(node) if stage.has_begun => format!("{node} answers"),
            Some(node) => format!("{node} has it and has not answered yet"),
            None => plan.map_or_else(|| "waits for a slot".to_owned(), |plan| words(&plan, scheduler)),
        };
        Self {
            request_id: request.request_id,
            state,
            user_id: request.user.to_string(),
            key_id: request.key.as_ref().map(ToString::to_string),
            model: request.model.clone(),
            endpoint: request.endpoint,
            stream: request.stream,
            created_at: rfc3339(request.received.unix_ms),
            since_ms: millis(now.saturating_sub(stage.since)),
            node: stage.node.map(|node| node.to_string()),
            attempts: stage.attempt,
            completion_tokens: request.tokens(),
            position: place.map(|(position, _)| *position),
            expected_ms: plan.map(|plan| ((plan.wait + plan.load) * 1000.0).round().max(0.0) as u64),
            summary,
        }
    }

    pub(super) fn request_id(&self) -> Uuid {
        self.request_id
    }
}

/// What a request waits for.
fn words(plan: &Alternative, scheduler: &Scheduler) -> String {
    let node = scheduler.node_name(plan.node).unwrap_or("a node");
    match plan.kind {
        Kind::Load => format!("waits for the model to be loaded on {node}, expected in {:.1} s", plan.wait + plan.load),
        Kind::Now | Kind::Wait => format!("waits for a slot on {node}, expected in {:.1} s", plan.wait),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
