//! Which requests were admitted and have not ended? Who waits and who runs, on which node and how far; and how to stop
//! them.
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use limits::Moment;

/// All requests between admission and end, shared by all workers. The places for usage rows bound their number.
#[derive(Debug, Default)]
pub struct OpenRequests {
    open: DashMap<Uuid, Arc<OpenRequest>>,
}

/// A request that has not ended.
#[derive(Debug)]
pub struct OpenRequest {
    /// The answer's `x-request-id`.
    pub request_id: Uuid,
    /// The user.
    pub user: Arc<str>,
    /// The key's id; `None` if the user was identified by a trusted network.
    pub key: Option<Arc<str>>,
    /// As the client spelled it.
    pub model: String,
    /// The route's template.
    pub endpoint: &'static str,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// When it arrived.
    pub received: Moment,
    stage: Mutex<Stage>,
    tokens: AtomicU64,
    stop: CancellationToken,
    stopped: OnceLock<Stopped>,
}

/// Where a request is.
#[derive(Clone, Debug, Default)]
pub struct Stage {
    /// The node that works on it; `None` while it waits.
    pub node: Option<Arc<str>>,
    /// The attempt, from 1; 0 before the first.
    pub attempt: u32,
    /// Since when it waits or runs, as an uptime.
    pub since: Duration,
    /// Whether the node's first byte has come.
    pub has_begun: bool,
}

/// By whom a request was stopped, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Who stopped it.
    pub by: StoppedBy,
    /// The reason, in the words of whoever stopped it.
    pub reason: Option<String>,
}

/// Who stopped a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoppedBy {
    /// An administrator.
    Operator,
    /// The user who sent the request.
    User,
}

impl Stopped {
    /// The message that the client reads.
    pub fn message(&self) -> String {
        let who = match self.by {
            StoppedBy::Operator => "An operator stopped this request",
            StoppedBy::User => "This request was stopped with one of your keys",
        };
        self.reason.as_ref().map_or_else(|| format!("{who}."), |reason| format!("{who}: {reason}"))
    }

    /// The error code that programs read.
    pub const CODE: &'static str = "request_stopped";
}

impl OpenRequests {
    /// All open requests, oldest first.
    pub fn all(&self) -> Vec<Arc<OpenRequest>> {
        let mut all: Vec<Arc<OpenRequest>> = self.open.iter().map(|entry| entry.value().clone()).collect();
        all.sort_unstable_by_key(|request| request.request_id);
        all
    }

    /// The open request with this id.
    pub fn get(&self, request_id: Uuid) -> Option<Arc<OpenRequest>> {
        self.open.get(&request_id).map(|entry| entry.value().clone())
    }

    pub(super) fn enter(&self, request: Arc<OpenRequest>) {
        self.open.insert(request.request_id, request);
    }

    pub(super) fn leave(&self, request_id: Uuid) {
        self.open.remove(&request_id);
    }
}

impl OpenRequest {
    /// A request that is about to wait for a slot. `revoked` ends it as well.
    pub(super) fn new(
        (request_id, user, key): (Uuid, Arc<str>, Option<Arc<str>>),
        (model, endpoint, stream): (String, &'static str, bool),
        received: Moment,
        revoked: &CancellationToken,
    ) -> Self {
        let stage = Mutex::new(Stage { since: received.uptime, ..Stage::default() });
        let (tokens, stop, stopped) = (AtomicU64::new(0), revoked.child_token(), OnceLock::new());
        Self { request_id, user, key, model, endpoint, stream, received, stage, tokens, stop, stopped }
    }

    /// Where it is.
    pub fn stage(&self) -> Stage {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tokens of the answer so far.
    pub fn tokens(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    /// Ends the request and tells its client why. Only the first call counts.
    pub fn stop(&self, stopped: Stopped) {
        let _ = self.stopped.set(stopped);
        self.stop.cancel();
    }

    /// Who stopped it, if anybody did.
    pub(super) fn stopped(&self) -> Option<Stopped> {
        self.stopped.get().cloned()
    }

    /// Cancelled when it is stopped or its key is revoked.
    pub(super) fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    pub(super) fn waits(&self, now: Duration) {
        self.change(|stage| *stage = Stage { attempt: stage.attempt, since: now, ..Stage::default() });
    }

    pub(super) fn runs(&self, node: Arc<str>, attempt: u32, now: Duration) {
        self.change(|stage| *stage = Stage { node: Some(node), attempt, since: now, has_begun: false });
    }

    pub(super) fn begins(&self) {
        self.change(|stage| stage.has_begun = true);
    }

    pub(super) fn progress(&self, tokens: u64) {
        self.tokens.store(tokens, Ordering::Relaxed);
    }

    fn change(&self, change: impl FnOnce(&mut Stage)) {
        change(&mut self.stage.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(revoked: &CancellationToken) -> Arc<OpenRequest> {
        let who = (Uuid::now_v7(), Arc::from("ann"), None);
        let what = ("m".to_owned(), "/api/chat", true);
        Arc::new(OpenRequest::new(who, what, Moment { uptime: Duration::from_secs(60), unix_ms: 0 }, revoked))
    }

    #[test]
    fn a_request_is_there_from_its_admission_to_its_end_and_says_where_it_is() {
        let (requests, revoked) = (OpenRequests::default(), CancellationToken::new());
        let (first, second) = (request(&revoked), request(&revoked));
        requests.enter(second.clone());
        requests.enter(first.clone());
        assert_eq!(requests.all().iter().map(|request| request.request_id).collect::<Vec<_>>(), {
            let mut ids = [first.request_id, second.request_id];
            ids.sort_unstable();
            ids
        });
        first.runs("a".into(), 1, Duration::from_secs(61));
        first.begins();
        first.progress(7);
        let stage = requests.get(first.request_id).unwrap().stage();
        assert_eq!((stage.node.as_deref(), stage.attempt, stage.has_begun), (Some("a"), 1, true));
        first.waits(Duration::from_secs(62));
        let stage = first.stage();
        assert_eq!((stage.node, stage.attempt, stage.since), (None, 1, Duration::from_secs(62)));
        requests.leave(first.request_id);
        assert!(requests.get(first.request_id).is_none() && requests.all().len() == 1);
    }

    #[test]
    fn whoever_stops_it_first_says_why() {
        let revoked = CancellationToken::new();
        let (stopped, other) = (request(&revoked), request(&revoked));
        let by = |by, reason: &str| Stopped { by, reason: Some(reason.to_owned()) };
        stopped.stop(by(StoppedBy::Operator, "too long"));
        stopped.stop(by(StoppedBy::User, "not wanted"));
        assert!(stopped.stop_token().is_cancelled() && !other.stop_token().is_cancelled());
        assert_eq!(stopped.stopped().unwrap().message(), "An operator stopped this request: too long");
        revoked.cancel();
        assert!(other.stop_token().is_cancelled() && other.stopped().is_none());
    }
}
