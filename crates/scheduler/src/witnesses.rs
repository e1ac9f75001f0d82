//! Whose failures count as evidence against a node? Only those of users who were answered lately: whoever only ever fails
//! may send what makes nodes fail, from as many accounts as it takes. Users whose requests fail wherever they go count
//! less, and those whose word took a node out that then answered others do not count.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    accusations::Standing,
    ids::{NodeId, Time},
};

/// How long a failure is remembered, from the last one on.
const MEMORY: Duration = Duration::from_secs(60);
/// How long a user who proved to be wrong is not believed, from that user's last failure on.
const DISTRUST: Duration = Duration::from_secs(600);
/// How long an answer makes a user a witness: long enough to last from one day's work to the next.
const RECORD: Duration = Duration::from_secs(24 * 3600);
/// The most users whose failures are remembered.
const MOST_MET: usize = 1024;
/// The most users whose answers are remembered.
const MOST_SERVED: usize = 4096;

/// Users who were answered lately, and those whose requests failed for reasons that may be their own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Witnesses {
    /// When each was answered last.
    served: BTreeMap<Arc<str>, Time>,
    met: BTreeMap<Arc<str>, Met>,
}

/// What a user met.
#[derive(Copy, Clone, Debug)]
struct Met {
    /// The node of the first failure.
    node: NodeId,
    last: Time,
    /// Failures on another node followed.
    is_doubted: bool,
    /// The node turned out to be well.
    was_wrong: bool,
}

impl Met {
    fn ends(&self) -> Time {
        self.last + if self.was_wrong { DISTRUST } else { MEMORY }
    }
}

impl Witnesses {
    /// A request of `user` was answered in full.
    pub(crate) fn was_served(&mut self, user: &Arc<str>, now: Time) {
        if let Some(last) = self.served.get_mut(user) {
            *last = now;
            return;
        }
        if self.served.len() >= MOST_SERVED {
            self.forget_served(now);
        }
        self.served.insert(user.clone(), now);
    }

    /// Makes room: the older half of the answers goes.
    fn forget_served(&mut self, now: Time) {
        let mut times: Vec<Time> = self.served.values().copied().collect();
        let (_, middle, _) = times.select_nth_unstable(MOST_SERVED / 2);
        let oldest = (*middle).max(now.saturating_sub(RECORD));
        // All of them may be equally old.
        let mut left = MOST_SERVED / 2;
        self.served.retain(|_, last| {
            let is_kept = *last >= oldest && left > 0;
            left -= usize::from(is_kept);
            is_kept
        });
    }

    /// Whether the failures of `user` would say nothing about a node.
    pub(crate) fn is_stranger(&self, user: &str, now: Time) -> bool {
        let is_known = self.served.get(user).is_some_and(|last| now < *last + RECORD);
        !is_known || self.met.get(user).is_some_and(|met| met.was_wrong && now < met.ends())
    }

    /// A request of `user` failed on `node`, and either may be the cause. Returns what that is worth.
    pub(crate) fn met_failure(&mut self, user: &Arc<str>, node: NodeId, now: Time) -> Standing {
        self.met.retain(|_, met| now < met.ends());
        let is_stranger = self.is_stranger(user, now);
        let first = Met { node, last: now, is_doubted: false, was_wrong: false };
        if self.met.len() < MOST_MET && !self.met.contains_key(user) {
            self.met.insert(user.clone(), first);
        }
        // Of more users than that, nobody knows where else they failed.
        let is_doubted = self.met.get_mut(user).is_none_or(|met| {
            met.last = now;
            met.is_doubted |= met.node != node;
            met.is_doubted
        });
        match (is_stranger, is_doubted) {
            (true, _) => Standing::Stranger,
            (false, true) => Standing::Doubted,
            (false, false) => Standing::Witness,
        }
    }

    /// A request of `user` that had failed on `node` was answered by another one.
    pub(crate) fn was_right(&mut self, user: &str, node: NodeId) {
        if self.met.get(user).is_some_and(|met| met.node == node && !met.is_doubted && !met.was_wrong) {
            self.met.remove(user);
        }
    }

    /// A node that users took out answers again, so whoever failed there was perhaps the cause.
    pub(crate) fn were_wrong(&mut self, node: NodeId) {
        let there = self.met.values_mut().filter(|met| met.node == node || met.is_doubted);
        there.for_each(|met| met.was_wrong = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NodeId = NodeId(0);
    const TWO: NodeId = NodeId(1);

    fn at(seconds: u64) -> Time {
        Time::from_secs(seconds)
    }

    /// Those who know these users from answers.
    fn knowing(users: &[&Arc<str>]) -> Witnesses {
        let mut witnesses = Witnesses::default();
        users.iter().for_each(|user| witnesses.was_served(user, at(0)));
        witnesses
    }

    #[test]
    fn whoever_was_never_answered_is_no_witness() {
        let mut witnesses = Witnesses::default();
        let ann = "ann".into();
        assert_eq!(witnesses.met_failure(&ann, ONE, at(0)), Standing::Stranger);
        witnesses.was_served(&ann, at(1));
        assert_eq!(witnesses.met_failure(&ann, ONE, at(2)), Standing::Witness);
        assert_eq!(witnesses.met_failure(&ann, ONE, at(24 * 3600 + 1)), Standing::Stranger, "that was a day ago");
    }

    #[test]
    fn whoever_fails_on_two_nodes_is_no_witness_for_a_while() {
        let (ann, ben) = ("ann".into(), "ben".into());
        let mut witnesses = knowing(&[&ann, &ben]);
        assert_eq!(witnesses.met_failure(&ann, ONE, at(0)), Standing::Witness);
        assert_eq!(witnesses.met_failure(&ann, ONE, at(1)), Standing::Witness);
        assert_eq!(witnesses.met_failure(&ann, TWO, at(2)), Standing::Doubted);
        assert_eq!(witnesses.met_failure(&ann, ONE, at(3)), Standing::Doubted);
        assert_eq!(witnesses.met_failure(&ben, TWO, at(3)), Standing::Witness);
        assert_eq!(witnesses.met_failure(&ann, TWO, at(62)), Standing::Doubted);
        assert_eq!(witnesses.met_failure(&ann, TWO, at(122)), Standing::Witness);
    }

    #[test]
    fn whoever_failed_on_a_node_that_answers_others_is_no_witness_for_a_while() {
        let (ann, ben) = ("ann".into(), "ben".into());
        let mut witnesses = knowing(&[&ann, &ben]);
        assert_eq!(witnesses.met_failure(&ann, ONE, at(0)), Standing::Witness);
        assert_eq!(witnesses.met_failure(&ben, TWO, at(0)), Standing::Witness);
        witnesses.were_wrong(ONE);
        assert_eq!(witnesses.met_failure(&ann, ONE, at(1)), Standing::Stranger);
        assert_eq!(witnesses.met_failure(&ann, ONE, at(600)), Standing::Stranger);
        assert_eq!(witnesses.met_failure(&ann, ONE, at(1200)), Standing::Witness);
        assert_eq!(witnesses.met_failure(&ben, TWO, at(1)), Standing::Witness);
    }

    #[test]
    fn a_request_that_worked_elsewhere_makes_its_user_no_suspect() {
        let ann = "ann".into();
        let mut witnesses = knowing(&[&ann]);
        for node in [ONE, TWO, ONE] {
            assert_eq!(witnesses.met_failure(&ann, node, at(0)), Standing::Witness);
            witnesses.was_right(&ann, node);
        }
    }

    #[test]
    fn only_so_many_are_remembered_and_the_latest_answers_longest() {
        let mut witnesses = Witnesses::default();
        let user = |number: usize| format!("{number}").into();
        for number in 0..3 * MOST_SERVED {
            witnesses.was_served(&user(number), at(number as u64 / 1000));
            witnesses.met_failure(&user(number), ONE, at(0));
            assert!(witnesses.served.len() <= MOST_SERVED);
        }
        assert_eq!(witnesses.met.len(), MOST_MET);
        assert!(witnesses.served.len() >= MOST_SERVED / 2);
        let latest = user(3 * MOST_SERVED - 1);
        assert_eq!(witnesses.met_failure(&latest, ONE, at(60)), Standing::Witness);
        assert_eq!(witnesses.met.len(), 1);
    }
}
