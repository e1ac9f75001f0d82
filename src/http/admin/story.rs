//! Why did a request go where it went, and what became of it?
use std::time::Duration;

use actix_web::web::{Data, Json, Path};
use scheduler::{Alternative, Backlog, Kind, Outcome, RequestId, Scheduler, Step, Story, What};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::outcome::in_words;
use super::queue::Weighed;
use crate::dispatch::{Question, Sight};
use crate::http::answers;
use crate::http::auth::Admin;
use crate::http::error::ApiError;
use crate::http::ops::Lifecycle;
use crate::http::usage::UsageRecord;
use crate::relay::{Meters, OpenRequest};
use crate::store::{Recorder, Store, UsageRow};

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
    /// What happened, in order; of many, the first and the last ones. Told for an hour after its end, and less where
    /// there are very many requests.
    steps: Vec<StoryStep>,
    /// `all`: as the gateway tells it that schedules for all. `own`: as this gateway knows it, because it schedules for
    /// itself, or the other one did not answer within a second.
    scope: &'static str,
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
/// How it ended, which is kept as long as its usage row is; and for an hour why it waited, why it went to that node, and what
/// the alternatives were expected to take.
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
    // An open request has no row yet, and looking for one would make the writer flush.
    let row = if open.is_none() { ended(&store, &recorder, request_id).await? } else { None };
    let question = Question { story: Some(RequestId(request_id.as_u128())), ..Question::default() };
    let Sight { story, whose, scope, .. } = lifecycle.dispatcher.look(question).await;
    let (user_id, model) = match (&open, &row, whose) {
        (Some(open), ..) => (open.user.to_string(), open.model.clone()),
        (None, Some(row), _) => (row.user_name().to_owned(), row.model.clone()),
        // It is open at another gateway.
        (None, None, Some((user, model))) => (user.to_string(), model.to_string()),
        (None, None, None) => return Err(unknown()),
    };
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
            scope: scope.label(),
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
        let node = match open {
            Some(open) => open.stage().node.map(|node| node.to_string()),
            None => story.and_then(|story| runs_on(story, scheduler)),
        };
        return node.map_or_else(|| "It waits for a slot.".to_owned(), |node| format!("It runs on {node}."));
    };
    let sent = story.and_then(dispatched);
    let is_taken = |each: &&Alternative| scheduler.node_name(each.node) == row.node.as_deref();
    let weighed = sent.map(|step| &*step.alternatives).unwrap_or_default();
    let other = weighed.iter().find(|each| !is_taken(each)).map(|other| alternative(other, scheduler));
    let reasons = story.map(|story| reasons(story, sent, weighed.iter().find(is_taken).zip(row.node.as_deref())));
    format!("{}{}", in_words(row, other.as_deref()), reasons.unwrap_or_default())
}

/// The node of a request that is open at another gateway.
fn runs_on(story: &Story, scheduler: &Scheduler) -> Option<String> {
    let last = story.steps.iter().rev().find_map(|step| match step.what {
        What::Dispatched(node, _) => Some(Some(node)),
        What::Failed(..) => Some(None),
        _ => None,
    });
    last.flatten().and_then(|node| scheduler.node_name(node)).map(str::to_owned)
}

/// When it was last dispatched.
fn dispatched(story: &Story) -> Option<&Step> {
    story.steps.iter().rev().find(|step| matches!(step.what, What::Dispatched(..)))
}

fn alternative(other: &Alternative, scheduler: &Scheduler) -> String {
    let node = scheduler.node_name(other.node).unwrap_or("another node");
    match other.kind {
        Kind::Load => format!("loading on {node} would have taken {:.1} s", other.wait + other.load),
        Kind::Now | Kind::Wait => format!("on {node} it would have taken {:.1} s", other.total()),
    }
}

/// What the queue contributed and what was expected in the cache, each sentence with a space before it. `sent` is the
/// step in which it was dispatched, and `taken` is where it went.
pub(super) fn reasons(story: &Story, sent: Option<&Step>, taken: Option<(&Alternative, &str)>) -> String {
    let slot = sent.and_then(|step| step.backlog).and_then(|backlog| slot_taken_for_the_queue(&backlog));
    let cached = taken.and_then(|(taken, node)| cached(taken.prompt, taken.cached, node));
    let reasons = [slot, load_for_the_queue(story), cached].into_iter().flatten();
    reasons.map(|reason| format!(" {reason}")).collect()
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn backlog(waiting: usize) -> Backlog {
        Backlog { waiting, ahead: 0, absorbed: None, users_behind: 0, behind_seconds: 0.0 }
    }

    fn asked_for_load(backlog: Backlog) -> Story {
        let what = What::AskedForLoad(scheduler::NodeId(0));
        let step = Step { at: Duration::ZERO, what, alternatives: Vec::new(), backlog: Some(backlog) };
        Story { arrived: Duration::ZERO, ahead: 0, expected: None, foretold: None, steps: vec![step] }
    }

    #[test]
    fn all_reasons_follow_one_another() {
        let story = asked_for_load(Backlog { users_behind: 2, behind_seconds: 1.0, ..backlog(9) });
        let sent = Step { backlog: Some(Backlog { absorbed: Some(0), ..backlog(9) }), ..story.steps[0].clone() };
        assert_eq!(
            reasons(&story, Some(&sent), None),
            " It did not wait for a faster node: of 9 requests for the same model, the slots in use could have served \
             none sooner. 2 users behind it use the same model and would have waited 1.0 s longer without the load."
        );
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
        let said = "12 users behind it use the same model and would have waited 2.7 s longer without the load.";
        assert_eq!(behind(12, 2.7).as_deref(), Some(said));
        let said = "1 user behind it uses the same model and would have waited 2.7 s longer without the load.";
        assert_eq!(behind(1, 2.7).as_deref(), Some(said));
        assert_eq!((behind(0, 2.7), behind(12, 0.01)), (None, None));
    }
}
