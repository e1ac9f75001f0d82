//! Have several users met failures that may be the request's own fault? One user's failures alone do not convict the
//! node: they may all come from what that user sends. The same prompt is one piece of evidence, however many users send
//! it, and users who are no [witnesses](crate::witnesses) convict a node only if they are several more.

use std::{sync::Arc, time::Duration};

use crate::ids::Time;

/// After this many failures, the user's own requests avoid the node.
const FAILURES_TO_AVOID: u32 = 2;
/// How long they avoid it, counted from the last failure.
const AVOIDED: Duration = Duration::from_secs(30);
/// So many users with prompts of their own are enough, witnesses or not: otherwise two broken nodes would discredit
/// everybody who meets both.
const CROWD: usize = 4;

/// A failure that may be the request's own fault.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Accusation<'a> {
    pub(crate) user: &'a Arc<str>,
    /// What stands for the prompt; `None` if it was not digested.
    pub(crate) prompt: Option<u64>,
    /// Whether the user is a witness.
    pub(crate) is_witness: bool,
}

/// Failures on a node, since the node last worked for anybody, the first one first: each of another user with another
/// prompt. At most one more than [`CROWD`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Accusations(Vec<Accuser>);

#[derive(Clone, Debug)]
struct Accuser {
    user: Arc<str>,
    prompt: Option<u64>,
    is_witness: bool,
    failures: u32,
    last: Time,
}

impl Accuser {
    fn is_like(&self, accusation: Accusation<'_>) -> bool {
        self.user == *accusation.user || (self.prompt.is_some() && self.prompt == accusation.prompt)
    }
}

impl Accusations {
    /// Records a failure. True if that convicts the node: because another user has met one before with another prompt and
    /// both are witnesses, or because a crowd has.
    pub(crate) fn add(&mut self, accusation: Accusation<'_>, now: Time) -> bool {
        if let Some(known) = self.0.iter_mut().find(|known| known.user == *accusation.user) {
            known.failures = known.failures.saturating_add(1);
            known.last = now;
            known.is_witness &= accusation.is_witness;
            return false;
        }
        let convicts =
            accusation.is_witness && self.0.iter().any(|known| known.is_witness && !known.is_like(accusation));
        let is_new = !self.0.iter().any(|known| known.is_like(accusation));
        if is_new && self.0.len() <= CROWD {
            let Accusation { user, prompt, is_witness } = accusation;
            self.0.push(Accuser { user: user.clone(), prompt, is_witness, failures: 1, last: now });
        }
        convicts || self.0.len() >= CROWD
    }

    /// Takes one failure of the user back, because it now counts in another way.
    pub(crate) fn withdraw_one(&mut self, user: &str) {
        for known in self.0.iter_mut().filter(|known| &*known.user == user) {
            known.failures -= 1;
        }
        self.0.retain(|known| known.failures > 0);
    }

    /// The user is no witness any more.
    pub(crate) fn doubt(&mut self, user: &str) {
        for known in self.0.iter_mut().filter(|known| &*known.user == user) {
            known.is_witness = false;
        }
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether any failure is recorded.
    pub(crate) fn stand(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether a witness's failure is recorded.
    pub(crate) fn weigh(&self) -> bool {
        self.0.iter().any(|known| known.is_witness)
    }

    /// Whether requests of `user` should go to another node if they can.
    pub(crate) fn make_avoid(&self, user: &str, now: Time) -> bool {
        let known = self.0.iter().find(|known| &*known.user == user);
        known.is_some_and(|known| known.failures >= FAILURES_TO_AVOID && now < known.last + AVOIDED)
    }
}
