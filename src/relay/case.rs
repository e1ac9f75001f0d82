//! Which nodes has one request made fail? The request's side of the shared list of suspects.
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use foldhash::quality::RandomState;

use super::suspects::{Digest, Suspects};
use crate::dispatch::Dispatcher;
use protocol::Endpoint;
use scheduler::NodeId;

/// The requests that made nodes fail. All copies share the list.
#[derive(Clone, Debug, Default)]
pub(super) struct Cases {
    hasher: RandomState,
    suspects: Arc<Mutex<Suspects>>,
}

/// One request in that list.
#[derive(Debug)]
pub(super) struct Case {
    cases: Cases,
    digest: Digest,
}

impl Cases {
    /// The case of a request, which may be new.
    pub(super) fn of(&self, user: &str, endpoint: Endpoint, body: &[u8]) -> Case {
        Case { cases: self.clone(), digest: Digest::of(&self.hasher, user, endpoint, body) }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Suspects) -> T) -> T {
        act(&mut self.suspects.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Case {
    /// How long the request must not be tried again, if it is to blame.
    pub(super) fn indicted(&self, dispatcher: &Dispatcher, now: Duration) -> Option<Duration> {
        // The scheduler's lock is taken while this one is held, never the other way round.
        let works_since =
            |node, since| dispatcher.read(|scheduler| scheduler.worked_at(node).is_some_and(|worked| worked > since));
        self.cases.with(|suspects| suspects.indicted(self.digest, now, works_since))
    }

    /// It failed on this node, perhaps through its own fault.
    pub(super) fn failed(&self, node: NodeId, now: Duration) {
        self.cases.with(|suspects| suspects.failed(self.digest, node, now));
    }

    /// It was answered completely.
    pub(super) fn answered(&self) {
        self.cases.with(|suspects| suspects.answered(self.digest));
    }
}
