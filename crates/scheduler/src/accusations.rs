//! Have several users met failures that may be the request's own fault? One user's failures alone do not convict the
//! node: they may all come from what that user sends. The same prompt is one piece of evidence, however many users send
//! it. Users whose requests fail on other nodes as well convict it only if they are several more, and
//! [strangers](Standing::Stranger) never, however many they are: other strangers just go elsewhere.

use std::{sync::Arc, time::Duration};

use crate::ids::Time;

/// After this many failures, the user's own requests avoid the node.
const FAILURES_TO_AVOID: u32 = 2;
/// How long they avoid it, counted from the last failure.
const AVOIDED: Duration = Duration::from_secs(30);
/// So many users with prompts of their own are enough although each is doubted: otherwise two broken nodes would discredit
/// everybody who meets both. As many strangers keep other strangers away.
const CROWD: usize = 4;
/// The most users remembered.
const MOST: usize = 2 * CROWD;

/// What a user's failures say about a node.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
pub(crate) enum Standing {
    /// Nothing: the user was not answered lately, or was wrong about a node.
    Stranger,
    /// Little: the user's requests fail on other nodes as well.
    Doubted,
    /// They are evidence.
    Witness,
}

/// A failure that may be the request's own fault.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Accusation<'a> {
    pub(crate) user: &'a Arc<str>,
    /// What stands for the prompt; `None` if it was not digested.
    pub(crate) prompt: Option<u64>,
    pub(crate) standing: Standing,
}

/// Failures on a node, since the node last worked for anybody, the first one first: each of another user with another
/// prompt. At most [`MOST`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Accusations(Vec<Accuser>);

#[derive(Clone, Debug)]
struct Accuser {
    user: Arc<str>,
    prompt: Option<u64>,
    standing: Standing,
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
            known.standing = known.standing.min(accusation.standing);
            return false;
        }
        let standing = accusation.standing;
        let convicts = standing == Standing::Witness
            && self.0.iter().any(|known| known.standing == Standing::Witness && !known.is_like(accusation));
        if !self.0.iter().any(|known| known.standing == standing && known.is_like(accusation)) {
            self.make_room_for(standing, now);
            if self.0.len() < MOST {
                let Accusation { user, prompt, .. } = accusation;
                self.0.push(Accuser { user: user.clone(), prompt, standing, failures: 1, last: now });
            }
        }
        let heard = self.0.iter().filter(|known| known.standing > Standing::Stranger).count();
        convicts || (standing > Standing::Stranger && heard >= CROWD)
    }

    /// Those who count less must not fill the places of those who count more, nor old failures those of new ones.
    fn make_room_for(&mut self, standing: Standing, now: Time) {
        let gives_way =
            |known: &Accuser| known.standing < standing || (known.standing == standing && now >= known.last + AVOIDED);
        if self.0.len() >= MOST
            && let Some(index) = self.0.iter().position(gives_way)
        {
            self.0.remove(index);
        }
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
            known.standing = known.standing.min(Standing::Doubted);
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
        self.0.iter().any(|known| known.standing == Standing::Witness)
    }

    /// Whether requests of `user` should go to another node if they can.
    pub(crate) fn make_avoid(&self, user: &str, is_stranger: bool, now: Time) -> bool {
        let is_recent = |known: &&Accuser| now < known.last + AVOIDED;
        let mut own = self.0.iter().filter(is_recent).filter(|known| &*known.user == user);
        let strangers = || self.0.iter().filter(is_recent).filter(|known| known.standing == Standing::Stranger).count();
        own.any(|known| known.failures >= FAILURES_TO_AVOID) || (is_stranger && strangers() >= CROWD)
    }
}
