//! Why did a request go where it went, and what became of it?
use std::time::Duration;

use actix_web::web::{Data, Json, Path};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::queue::Weighed;
use crate::http::answers;
use crate::http::auth::Admin;
use crate::http::error::ApiError;
use crate::http::ops::Lifecycle;
use crate::http::usage::UsageRecord;
use crate::relay::{Meters, OpenRequest};
use crate::store::{Recorder, Store, UsageRow};
use scheduler::{Alternative, Backlog, Kind, Outcome, Scheduler, Step, Story, What};

/// Why a request went where it went, and what became of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct RequestStory {
    /// As in `x-request-id`.
    request_id: Uuid,
    /// Whose.
    user_id: String,
    /// As the request named it.
    model: String,
    /// All of it in a sentence or two.
    #[schema(
        example = "It waited 4.1 s for a slot on fast; loading on big would have taken 9.0 s. It was answered whole."
    )]
    summary: String,
    /// How it ended; null while it is open.
    outcome: Option<UsageRecord>,
    /// Requests that waited when it came; null where that is not remembered any more, or it never came to the queue.
    ahead: Option<usize>,
    /// When its first token was expected, after it came; null if it was too far back to be planned.
    expected_first_token_ms: Option<u64>,
    /// What happened, in order; of many, the first and the last ones. Remembered of the last 2,048 requests.
    steps: Vec<StoryStep>,
}

/// A step on a request's way.
#[derive(Debug, Serialize, ToSchema)]
pub struct StoryStep {
    /// After the request came.
    at_ms: u64,
    /// `waits`, `asked_for_load`, `dispatched`, `first_byte`, `failed`, `refused` or `ended`.
    what: &'static str,
    /// Where, if it has a place.
    node: Option<String>,
    /// Which attempt was dispatched, from 1.
    attempt: Option<u32>,
    /// How it failed, was refused or ended.
    why: Option<String>,
    /// What was weighed up, the least first; at most five.
    options: Vec<Weighed>,
}

impl StoryStep {
    fn new(step: &Step, arrived: Duration, scheduler: &Scheduler) -> Self {
        let (what, node, attempt, why) = match step.what {
            What::Waits => ("waits", None, None, None),
            What::AskedForLoad(node) => ("asked_for_load", Some(node), None, None),
            What::Dispatched(node, attempt) => ("dispatched", Some(node), Some(attempt), None),
            What::FirstByte => ("first_byte", None, None, None),
            What::Failed(node, failure) => ("failed", Some(node), None, Some(failure.label().to_owned())),
            What::Refused(reason) => ("refused", None, None, Some(reason.label().to_owned())),
            What::Ended(Outcome::Completed) => ("ended", None, None, Some("completed".to_owned())),
            What::Ended(Outcome::Rejected) => ("ended", None, None, Some("rejected".to_owned())),
            What::Ended(Outcome::Cancelled) => ("ended", None, None, Some("cancelled".to_owned())),
            What::Ended(Outcome::Failed(failure)) => ("ended", None, None, Some(failure.label().to_owned())),
        };
        Self {
            at_ms: millis(step.at.saturating_sub(arrived)),
            what,
            node: node.and_then(|node| scheduler.node_name(node)).map(str::to_owned),
            attempt,
            why,
            options: step.alternatives.iter().map(|alternative| Weighed::new(alternative, scheduler)).collect(),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Explain a request
///
/// How it ended, which is kept as long as its usage row is; and of the last 2,048 requests why they waited, why they went to
/// that node, and what the alternatives were expected to take.
#[utoipa::path(
    get, path = "/admin/requests/{request_id}", tag = "admin", security(("admin_key" = [])),
    params(("request_id" = String, Path, description = "As in `x-request-id`.")),
    responses(
        (status = 200, body = RequestStory), answers::AdminResponses, answers::NotFoundResponse, answers::StorageResponse,
    ),
)]
pub async fn explain(
    _: Admin,
    lifecycle: Data<Lifecycle>,
    meters: Data<Meters>,
    store: Data<Store>,
    recorder: Data<Recorder>,
    request_id: Path<String>,
) -> Result<Json<RequestStory>, ApiError> {
    let unknown = || ApiError::not_found("No request has this id, or it left no row of its own.");
    let request_id: Uuid = request_id.parse().map_err(|_| unknown())?;
    let open = meters.requests.get(request_id);
    let row = if open.is_none() { ended(&store, &recorder, request_id).await? } else { None };
    let (user_id, model) = match (&open, &row) {
        (Some(open), _) => (open.user.to_string(), open.model.clone()),
        (None, Some(row)) => (row.user_name().to_owned(), row.model.clone()),
        (None, None) => return Err(unknown()),
    };
    // The scheduler knows requests by half of their ids: another one may have had the same half.
    let story = meters.requests.has_seen(request_id).then(|| lifecycle.dispatcher.story(request_id)).flatten();
    Ok(Json(lifecycle.dispatcher.read(|scheduler| {
        let summary = summary(open.as_deref(), row.as_ref(), story.as_ref(), scheduler);
        let expected = story.as_ref().and_then(|story| story.expected);
        let step = |story: &Story| {
            story.steps.iter().map(|step| StoryStep::new(step, story.arrived, scheduler)).collect::<Vec<_>>()
        };
        RequestStory {
            request_id,
            user_id,
            model,
            summary,
            ahead: story.as_ref().map(|story| story.ahead),
            expected_first_token_ms: expected.map(|seconds| (seconds * 1000.0).round() as u64),
            steps: story.as_ref().map(step).unwrap_or_default(),
            outcome: row.map(UsageRecord::from),
        }
    })))
}

/// The row of a request that has ended.
async fn ended(store: &Store, recorder: &Recorder, request_id: Uuid) -> Result<Option<UsageRow>, ApiError> {
    recorder.flush().await;
    Ok(store.usage_of(request_id).await?)
}

fn summary(open: Option<&OpenRequest>, row: Option<&UsageRow>, story: Option<&Story>, scheduler: &Scheduler) -> String {
    let Some(row) = row else {
        let node = open.and_then(|open| open.stage().node);
        return node.map_or_else(|| "It waits for a slot.".to_owned(), |node| format!("It runs on {node}."));
    };
    let sent = story.and_then(dispatched);
    let is_taken = |each: &&Alternative| scheduler.node_name(each.node) == row.node.as_deref();
    let weighed = sent.map(|step| &*step.alternatives).unwrap_or_default();
    let other = weighed.iter().find(|each| !is_taken(each)).map(|other| alternative(other, scheduler));
    let cached = match (weighed.iter().find(is_taken), &row.node) {
        (Some(taken), Some(node)) => cached(taken.prompt, taken.cached, node),
        _ => None,
    };
    let slot = sent.and_then(|step| step.backlog).and_then(|backlog| slot_taken_for_the_queue(&backlog));
    let load = story.and_then(load_for_the_queue);
    let reasons: String = [slot, load, cached].into_iter().flatten().map(|reason| format!("{reason} ")).collect();
    format!("{}{reasons}{}", way(row, other.as_deref()), end(row))
}

/// When it was last dispatched.
fn dispatched(story: &Story) -> Option<&Step> {
    story.steps.iter().rev().find(|step| matches!(step.what, What::Dispatched(..)))
}

/// How much of the prompt its node did not have to read.
fn cached(prompt: f64, cached: f64, node: &str) -> Option<String> {
    let (prompt, cached) = (prompt.round() as u64, cached.round() as u64);
    let sentence = || {
        let (cached, prompt) = (thousands(cached), thousands(prompt));
        format!("{cached} of {prompt} prompt tokens were expected in {node}'s cache.")
    };
    (cached > 0).then(sentence)
}

/// Why it did not wait for a faster node, if the queue was the reason.
fn slot_taken_for_the_queue(backlog: &Backlog) -> Option<String> {
    let served = backlog.absorbed?;
    let served = if served == 0 { "none".to_owned() } else { thousands(served as u64) };
    let waiting = thousands(backlog.waiting as u64);
    Some(format!(
        "It did not wait for a faster node: of {waiting} requests for the same model, the slots in use could have \
         served {served} sooner."
    ))
}

/// What spoke for the load that it caused, if those behind it did.
fn load_for_the_queue(story: &Story) -> Option<String> {
    let load = story.steps.iter().rev().find(|step| matches!(step.what, What::AskedForLoad(_)))?;
    let backlog = load.backlog.filter(|backlog| backlog.users_behind > 0 && backlog.behind_seconds >= 0.05)?;
    let behind = match backlog.users_behind {
        1 => "1 user behind it uses".to_owned(),
        users => format!("{} users behind it use", thousands(users as u64)),
    };
    Some(format!(
        "{behind} the same model and would have waited {:.1} s longer without the load.",
        backlog.behind_seconds
    ))
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
    groups.join(",")
}

fn alternative(other: &Alternative, scheduler: &Scheduler) -> String {
    let node = scheduler.node_name(other.node).unwrap_or("another node");
    match other.kind {
        Kind::Load => format!("loading on {node} would have taken {:.1} s", other.wait + other.load),
        Kind::Now | Kind::Wait => format!("on {node} it would have taken {:.1} s", other.total()),
    }
}

/// Where it went, and after how long.
fn way(row: &UsageRow, other: Option<&str>) -> String {
    let Some(node) = &row.node else { return String::new() };
    let waited = row.queue_ms as f64 / 1000.0;
    let way = if waited < 0.05 {
        format!("It went to {node} at once")
    } else {
        format!("It waited {waited:.1} s for a slot on {node}")
    };
    let other = other.map(|other| format!("; {other}")).unwrap_or_default();
    let failed = match row.attempts {
        0 | 1 => String::new(),
        attempts => format!(" Before that, {} failed.", count(attempts - 1)),
    };
    format!("{way}{other}.{failed} ")
}

fn count(attempts: u32) -> String {
    if attempts == 1 { "1 attempt".to_owned() } else { format!("{attempts} attempts") }
}

/// How it ended.
fn end(row: &UsageRow) -> String {
    let code = row.reason.code.as_deref().unwrap_or("unknown");
    match (&*row.status, row.reason.limit.as_deref()) {
        ("completed", _) => format!("It was answered whole, after {:.1} s.", row.duration_ms as f64 / 1000.0),
        ("refused", Some(limit)) => format!("It was refused: {limit} was used up."),
        ("refused", None) => format!("It was refused: {code}."),
        ("cancelled", _) if code == "client_cancelled" => "Its client left before the end.".to_owned(),
        ("cancelled", _) => format!("It was ended: {code}."),
        ("deadline", _) => "It took longer than this service allows.".to_owned(),
        ("interrupted", _) => "The gateway stopped before its end.".to_owned(),
        (status, _) => format!("It failed: {status} ({code})."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backlog(waiting: usize) -> Backlog {
        Backlog { waiting, ahead: 0, absorbed: None, users_behind: 0, behind_seconds: 0.0 }
    }

    fn asked_for_load(backlog: Backlog) -> Story {
        let what = What::AskedForLoad(scheduler::NodeId(0));
        let step = Step { at: Duration::ZERO, what, alternatives: Vec::new(), backlog: Some(backlog) };
        Story { arrived: Duration::ZERO, ahead: 0, expected: None, steps: vec![step] }
    }

    #[test]
    fn what_was_expected_in_the_cache_is_said_and_nothing_otherwise() {
        let said = cached(3400.4, 3100.0, "fast");
        assert_eq!(said.as_deref(), Some("3,100 of 3,400 prompt tokens were expected in fast's cache."));
        assert_eq!(cached(3400.0, 0.0, "fast"), None);
    }

    #[test]
    fn a_slot_taken_because_of_the_queue_names_those_who_wait() {
        let said = slot_taken_for_the_queue(&Backlog { absorbed: Some(7), ..backlog(1200) });
        assert_eq!(
            said.as_deref(),
            Some(
                "It did not wait for a faster node: of 1,200 requests for the same model, the slots in use could have \
                 served 7 sooner."
            )
        );
        assert_eq!(slot_taken_for_the_queue(&backlog(1200)), None, "it was its own choice");
    }

    #[test]
    fn a_load_names_the_users_behind_if_they_would_have_waited_longer() {
        let behind = |users_behind, behind_seconds| {
            load_for_the_queue(&asked_for_load(Backlog { users_behind, behind_seconds, ..backlog(20) }))
        };
        let said = "12 users behind it use the same model and would have waited 3.1 s longer without the load.";
        assert_eq!(behind(12, 3.14).as_deref(), Some(said));
        let said = "1 user behind it uses the same model and would have waited 3.1 s longer without the load.";
        assert_eq!(behind(1, 3.14).as_deref(), Some(said));
        assert_eq!((behind(0, 3.14), behind(12, 0.01)), (None, None));
    }
}
