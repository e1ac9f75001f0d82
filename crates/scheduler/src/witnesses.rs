//! Whose failures count as evidence against a node? Users whose requests fail wherever they go are no witnesses: what they
//! send is as likely the cause, and several accounts may send it together.

use std::{collections::BTreeMap, sync::Arc};

use crate::ids::{NodeId, Time};

/// How long a failure is remembered, from the last one on.
const MEMORY: Time = Time::from_secs(60);
/// The most users remembered. Whoever can make more accounts than that fail has other means.
const MOST: usize = 1024;

/// Users whose requests failed lately, for reasons that may be their own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Witnesses(BTreeMap<Arc<str>, Met>);

/// What a user met.
#[derive(Copy, Clone, Debug)]
struct Met {
    /// The node of the first failure.
    node: NodeId,
    last: Time,
    /// Failures on another node followed.
    is_discredited: bool,
}

/// What a failure is worth.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(crate) enum Worth {
    /// It counts.
    Evidence,
    /// It counts little.
    Doubtful,
    /// It counts little, and so do those that the user met before.
    DoubtfulFromNowOn,
}

impl Witnesses {
    /// A request of `user` failed on `node`, and either may be the cause.
    pub(crate) fn met_failure(&mut self, user: &Arc<str>, node: NodeId, now: Time) -> Worth {
        self.0.retain(|_, met| now < met.last + MEMORY);
        let Some(met) = self.0.get_mut(user) else {
            if self.0.len() < MOST {
                self.0.insert(user.clone(), Met { node, last: now, is_discredited: false });
            }
            return Worth::Evidence;
        };
        met.last = now;
        match (met.is_discredited, met.node == node) {
            (true, _) => Worth::Doubtful,
            (false, true) => Worth::Evidence,
            (false, false) => {
                met.is_discredited = true;
                Worth::DoubtfulFromNowOn
            }
        }
    }

    /// A request of `user` that had failed on `node` was answered by another one.
    pub(crate) fn was_right(&mut self, user: &str, node: NodeId) {
        if self.0.get(user).is_some_and(|met| met.node == node && !met.is_discredited) {
            self.0.remove(user);
        }
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

    #[test]
    fn whoever_fails_on_two_nodes_is_no_witness_for_a_while() {
        let mut witnesses = Witnesses::default();
        let (ann, ben) = ("ann".into(), "ben".into());
        assert_eq!(witnesses.met_failure(&ann, ONE, at(0)), Worth::Evidence);
        assert_eq!(witnesses.met_failure(&ann, ONE, at(1)), Worth::Evidence);
        assert_eq!(witnesses.met_failure(&ann, TWO, at(2)), Worth::DoubtfulFromNowOn);
        assert_eq!(witnesses.met_failure(&ann, ONE, at(3)), Worth::Doubtful);
        assert_eq!(witnesses.met_failure(&ben, TWO, at(3)), Worth::Evidence);
        assert_eq!(witnesses.met_failure(&ann, TWO, at(62)), Worth::Doubtful);
        assert_eq!(witnesses.met_failure(&ann, TWO, at(122)), Worth::Evidence);
    }

    #[test]
    fn a_request_that_worked_elsewhere_makes_its_user_no_suspect() {
        let mut witnesses = Witnesses::default();
        let ann = "ann".into();
        for node in [ONE, TWO, ONE] {
            assert_eq!(witnesses.met_failure(&ann, node, at(0)), Worth::Evidence);
            witnesses.was_right(&ann, node);
        }
    }

    #[test]
    fn only_so_many_are_remembered() {
        let mut witnesses = Witnesses::default();
        for number in 0..3 * MOST {
            witnesses.met_failure(&format!("{number}").into(), ONE, at(0));
        }
        assert_eq!(witnesses.0.len(), MOST);
        witnesses.met_failure(&"later".into(), ONE, at(60));
        assert_eq!(witnesses.0.len(), 1);
    }
}
