//! Have several users met failures that may be the request's own fault? One user's failures alone do not convict the
//! node: they may all come from what that user sends.

use std::{sync::Arc, time::Duration};

use crate::ids::Time;

/// After this many failures, the user's own requests avoid the node.
const FAILURES_TO_AVOID: u32 = 2;
/// How long they avoid it, counted from the last failure.
const AVOIDED: Duration = Duration::from_secs(30);

/// One user's failures on a node, since the node last worked for anybody.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accusations(Option<Accuser>);

#[derive(Clone, Debug)]
struct Accuser {
    user: Arc<str>,
    failures: u32,
    last: Time,
}

impl Accusations {
    /// Records that a request of `user` failed. True if a different user has met a failure before.
    pub(crate) fn add(&mut self, user: &Arc<str>, now: Time) -> bool {
        match &mut self.0 {
            Some(accuser) if accuser.user == *user => {
                accuser.failures = accuser.failures.saturating_add(1);
                accuser.last = now;
                false
            }
            Some(_) => true,
            None => {
                self.0 = Some(Accuser { user: user.clone(), failures: 1, last: now });
                false
            }
        }
    }

    /// Takes one failure back, because it now counts in another way.
    pub(crate) fn withdraw_one(&mut self) {
        self.0 = self
            .0
            .take()
            .filter(|accuser| accuser.failures > 1)
            .map(|accuser| Accuser { failures: accuser.failures - 1, ..accuser });
    }

    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }

    /// Whether any failure is recorded.
    pub(crate) fn stand(&self) -> bool {
        self.0.is_some()
    }

    /// Whether requests of `user` should go to another node if they can.
    pub(crate) fn make_avoid(&self, user: &str, now: Time) -> bool {
        self.0.as_ref().is_some_and(|accuser| {
            accuser.failures >= FAILURES_TO_AVOID && &*accuser.user == user && now < accuser.last + AVOIDED
        })
    }
}
