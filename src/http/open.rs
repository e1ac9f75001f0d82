//! Which requests are open, as their users and the operator see them: what runs, what waits, how far and why?
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::time::rfc3339;
use crate::dispatch::{Dispatcher, Question};
use crate::relay::{Meters, OpenRequest};
use scheduler::{Alternative, Kind, Pace, RequestId, Scheduler, Waiting};

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
    /// How long it has waited, or did before this attempt, milliseconds.
    waited_ms: u64,
    /// Its place among those that wait, from 1; null while it runs.
    position: Option<usize>,
    /// When a slot is expected, milliseconds from now; null while it runs, and while it is too far back to be planned.
    expected_ms: Option<u64>,
    /// When its first token is expected, milliseconds from now; null once it is there, and while that is not known.
    expected_first_token_ms: Option<u64>,
    /// What happens, in words.
    #[schema(example = "waits for a slot on gpu-1, expected in 4.1 s")]
    summary: String,
}

/// The open requests that `is_wanted` takes, the oldest first.
pub(super) async fn open_requests(
    meters: &Meters,
    dispatcher: &Dispatcher,
    is_wanted: impl Fn(&OpenRequest) -> bool,
) -> Vec<OpenRecord> {
    let mut wanted = meters.requests.all();
    wanted.retain(|request| is_wanted(request));
    let is_waiting = wanted.iter().any(|request| request.stage().node.is_none());
    let waiting = if is_waiting {
        dispatcher.look(Question { waiting: PLACED, ..Question::default() }).await.waiting
    } else {
        Vec::new()
    };
    let places: HashMap<Uuid, (usize, Waiting)> = waiting
        .into_iter()
        .enumerate()
        .map(|(index, waiting)| (Uuid::from_u128(waiting.id.0), (index + 1, waiting)))
        .collect();
    let (now, paces) = (meters.clock.uptime(), paces(dispatcher, &wanted));
    dispatcher.read(|scheduler| {
        let record = |(request, pace): (&Arc<OpenRequest>, Option<Pace>)| {
            OpenRecord::new(request, places.get(&request.request_id), pace, scheduler, now)
        };
        wanted.iter().zip(paces).map(record).collect()
    })
}

/// How fast each of these requests is expected to be, as far as it runs.
fn paces(dispatcher: &Dispatcher, requests: &[Arc<OpenRequest>]) -> Vec<Option<Pace>> {
    let ids: Vec<RequestId> = requests.iter().map(|request| RequestId(request.request_id.as_u128())).collect();
    dispatcher.foreseen(&ids).into_iter().map(|foreseen| foreseen.pace).collect()
}

/// Some of the open requests, and how many others there are.
#[derive(Debug)]
pub(super) struct MostOpen {
    /// The oldest first.
    pub(super) running: Vec<OpenRecord>,
    pub(super) running_left_out: usize,
    /// By position.
    pub(super) waiting: Vec<OpenRecord>,
    pub(super) waiting_left_out: usize,
}

/// At most `most` of the requests that run, and of those that wait, which have their places in `queue`.
pub(super) fn open_now(meters: &Meters, dispatcher: &Dispatcher, queue: Vec<Waiting>, most: usize) -> MostOpen {
    let (mut running, unordered): (Vec<_>, Vec<_>) =
        meters.requests.all().into_iter().partition(|request| request.stage().node.is_some());
    let mut unordered: BTreeMap<Uuid, Arc<OpenRequest>> =
        unordered.into_iter().map(|request| (request.request_id, request)).collect();
    let (all_running, all_waiting) = (running.len(), unordered.len());
    running.truncate(most);
    let mut waiting = Vec::with_capacity(most.min(all_waiting));
    for (index, place) in queue.into_iter().enumerate() {
        // One that was granted a slot a moment ago is no longer told as one that waits; and others are at another gateway.
        waiting
            .extend(unordered.remove(&Uuid::from_u128(place.id.0)).map(|request| (request, Some((index + 1, place)))));
    }
    // Those that are about to enter the queue have no place yet.
    let placeless = most.saturating_sub(waiting.len());
    waiting.extend(unordered.into_values().take(placeless).map(|request| (request, None)));
    let (now, paces) = (meters.clock.uptime(), paces(dispatcher, &running));
    dispatcher.read(|scheduler| MostOpen {
        running_left_out: all_running.saturating_sub(running.len()),
        waiting_left_out: all_waiting.saturating_sub(waiting.len()),
        running: running
            .iter()
            .zip(paces)
            .map(|(request, pace)| OpenRecord::new(request, None, pace, scheduler, now))
            .collect(),
        waiting: waiting
            .iter()
            .map(|(request, place)| OpenRecord::new(request, place.as_ref(), None, scheduler, now))
            .collect(),
    })
}

impl OpenRecord {
    fn new(
        request: &OpenRequest,
        place: Option<&(usize, Waiting)>,
        pace: Option<Pace>,
        scheduler: &Scheduler,
        now: Duration,
    ) -> Self {
        let stage = request.stage();
        let state = if stage.node.is_some() { OpenState::Running } else { OpenState::Waiting };
        let place = place.filter(|_| state == OpenState::Waiting);
        let plan = place.and_then(|(_, waiting)| waiting.waits_for);
        let until = if state == OpenState::Running { stage.since } else { now };
        let waited = until.saturating_sub(request.received.uptime);
        let pace = pace.filter(|_| state == OpenState::Running && !stage.has_begun);
        let prefill = pace.map(|pace| pace.prefill - now.saturating_sub(stage.since).as_secs_f64());
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
            waited_ms: millis(waited),
            position: place.map(|(position, _)| *position),
            expected_ms: plan.map(|plan| seconds_to_ms(plan.wait + plan.load)),
            expected_first_token_ms: plan.map(|plan| plan.first_token()).or(prefill).map(seconds_to_ms),
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

fn seconds_to_ms(seconds: f64) -> u64 {
    (seconds * 1000.0).round().max(0.0) as u64
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
