//! Which requests made nodes fail, and must not be tried again for a while? Pure.
//!
//! If a request fails on one node after another, or repeatedly, while those nodes answer other requests, the request
//! itself is the cause. It is recognised by a digest of its user, route and body. As long as no other request shows
//! that the nodes work, they may be the cause, and the request is let through.
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::time::Duration;

use protocol::Endpoint;
use scheduler::NodeId;

/// How long a failed request is remembered, from its last failure on.
const MEMORY: Duration = Duration::from_secs(300);
/// The most requests remembered.
const MOST: usize = 1024;
/// The most failures remembered for one request; the newest are kept.
const MOST_FAILURES: usize = 4;
/// Bytes at each end of a body that are digested.
const READ: usize = 256 * 1024;
/// This many failures are a pattern rather than an accident.
const ENOUGH: usize = 2;

/// Identifies a request by what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Digest(u64);

impl Digest {
    /// The digest of a request, valid for this hasher only. For a long body it covers both ends and the length.
    pub(super) fn of(hasher: &impl BuildHasher, user: &str, endpoint: Endpoint, body: &[u8]) -> Self {
        let ends = (&body[..body.len().min(READ)], &body[body.len().saturating_sub(READ)..]);
        Self(hasher.hash_one((user, endpoint as u8, body.len(), ends)))
    }
}

/// The requests that failed recently.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    failed: HashMap<Digest, Vec<Failed>>,
}

/// On which nodes a request failed, and when.
#[derive(Clone, Copy, Debug)]
struct Failed {
    node: NodeId,
    at: Duration,
}

impl Suspects {
    /// It failed on this node, perhaps through its own fault.
    pub(super) fn failed(&mut self, digest: Digest, node: NodeId, now: Duration) {
        if self.failed.len() >= MOST && !self.failed.contains_key(&digest) {
            self.forget_old(now);
        }
        let failures = self.failed.entry(digest).or_default();
        if failures.len() >= MOST_FAILURES {
            failures.remove(0);
        }
        failures.push(Failed { node, at: now });
        debug_assert!(self.failed.len() <= MOST);
    }

    /// It was answered, so it is not suspect any more.
    pub(super) fn answered(&mut self, digest: Digest) {
        self.failed.remove(&digest);
    }

    /// How long it must not be tried again, if it is to blame; `works_since` tells whether a node has answered another
    /// request since a given time.
    pub(super) fn indicted(
        &mut self,
        digest: Digest,
        now: Duration,
        works_since: impl Fn(NodeId, Duration) -> bool,
    ) -> Option<Duration> {
        let failures = self.failed.get(&digest)?;
        let until = failures.last()?.at + MEMORY;
        if until <= now {
            self.failed.remove(&digest);
            return None;
        }
        let is_to_blame = failures.len() >= ENOUGH && failures.iter().all(|failed| works_since(failed.node, failed.at));
        is_to_blame.then(|| until - now)
    }

    /// Makes room: drops requests that are too old, or else the oldest.
    fn forget_old(&mut self, now: Duration) {
        let last = |failures: &Vec<Failed>| failures.last().map_or(Duration::ZERO, |failed| failed.at);
        self.failed.retain(|_, failures| last(failures) + MEMORY > now);
        if self.failed.len() >= MOST {
            let oldest = self.failed.iter().min_by_key(|(_, failures)| last(failures)).map(|(digest, _)| *digest);
            oldest.map(|digest| self.failed.remove(&digest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NodeId = NodeId(0);
    const TWO: NodeId = NodeId(1);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn digest(user: &str) -> Digest {
        Digest::of(&foldhash::quality::FixedState::default(), user, Endpoint::Chat, b"{}")
    }

    #[test]
    fn what_failed_on_nodes_that_work_for_others_is_not_tried_again_for_a_while() {
        let mut suspects = Suspects::default();
        let poison = digest("ann");
        suspects.failed(poison, ONE, at(10));
        assert_eq!(suspects.indicted(poison, at(11), |_, _| true), None, "once may be an accident");
        suspects.failed(poison, TWO, at(12));
        assert_eq!(suspects.indicted(poison, at(13), |_, _| false), None, "the nodes may be the cause");
        assert_eq!(suspects.indicted(poison, at(13), |node, _| node == ONE), None, "one of them may");
        assert_eq!(suspects.indicted(poison, at(13), |_, since| since >= at(10)), Some(at(299)));
        assert_eq!(suspects.indicted(poison, at(312), |_, _| true), None);
        assert!(suspects.failed.is_empty());
    }

    #[test]
    fn an_answer_clears_a_request_and_what_another_user_sends_is_another_request() {
        let mut suspects = Suspects::default();
        let (anns, bobs) = (digest("ann"), digest("bob"));
        assert_ne!(anns, bobs);
        for node in [ONE, TWO] {
            suspects.failed(anns, node, at(1));
        }
        assert_eq!(suspects.indicted(bobs, at(2), |_, _| true), None);
        assert!(suspects.indicted(anns, at(2), |_, _| true).is_some());
        suspects.answered(anns);
        assert_eq!(suspects.indicted(anns, at(2), |_, _| true), None);
    }

    #[test]
    fn however_many_fail_only_so_many_are_remembered_and_the_newest() {
        let mut suspects = Suspects::default();
        for request in 0..3 * MOST as u64 {
            for round in 0..9 {
                suspects.failed(Digest(request), ONE, at(request / 100 + round));
            }
        }
        assert_eq!(suspects.failed.len(), MOST);
        assert!(suspects.failed.values().all(|failures| failures.len() <= MOST_FAILURES));
        assert!(suspects.failed.contains_key(&Digest(3 * MOST as u64 - 1)));
    }
}
