//! Which nodes are the same engine under another name or address? Such nodes promise its slots twice. Looked for while
//! the gateway runs, and once by `check` before any runs.
//!
//! An engine says until when each model stays in its memory, to the nanosecond, and sets that moment anew whenever the
//! model becomes idle. Engines that know nothing of each other have no such moment in common, whatever image they were
//! made from. One moment in common may come from a restored copy of a machine; two are seen only if both names lead to
//! the same engine.
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use scheduler::NodeId;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::endpoint::NodeEndpoint;
use super::inquiry::Inquiry;
use super::listing::Said;
use super::settings::{Discover, NodeSettings};
use super::upstream::Upstream;

/// For the log.
pub(super) const SAME_ENGINE: &str = "two nodes are the same engine, which gets twice the requests that it has slots for: \
    remove one of them";
/// Moments that are kept of each node, the newest.
const KEPT: usize = 16;
/// Moments that two nodes must have in common.
const ENOUGH: usize = 2;

/// Until when a model stays in memory, in Unix nanoseconds.
type Expiry = i128;

/// What was seen of the nodes, and which of them are one.
#[derive(Debug, Default)]
pub(super) struct Twins {
    seen: BTreeMap<NodeId, VecDeque<Expiry>>,
    /// Which nodes showed a moment.
    holders: HashMap<Expiry, BTreeSet<NodeId>>,
    /// Both ways.
    known: BTreeMap<NodeId, BTreeSet<NodeId>>,
}

impl Twins {
    /// A node listed the models in its memory. Returns the nodes that are now known to be the same engine.
    pub(super) fn hear(&mut self, node: NodeId, loaded: &[Said]) -> Vec<NodeId> {
        for expiry in expiries(loaded) {
            self.see(node, expiry);
        }
        let mut in_common: BTreeMap<NodeId, usize> = BTreeMap::new();
        for expiry in self.seen.get(&node).into_iter().flatten() {
            for other in self.holders.get(expiry).into_iter().flatten().filter(|other| **other != node) {
                *in_common.entry(*other).or_default() += 1;
            }
        }
        let twins = in_common.into_iter().filter(|(_, count)| *count >= ENOUGH).map(|(other, _)| other);
        twins.collect::<Vec<_>>().into_iter().filter(|other| self.join(node, *other)).collect()
    }

    /// Both have the same address, or are the same engine for another reason. Returns whether that is news.
    pub(super) fn join(&mut self, one: NodeId, other: NodeId) -> bool {
        self.known.entry(other).or_default().insert(one);
        self.known.entry(one).or_default().insert(other)
    }

    /// The other nodes that are the same engine.
    pub(super) fn of(&self, node: NodeId) -> Vec<NodeId> {
        self.known.get(&node).into_iter().flatten().copied().collect()
    }

    /// A node left.
    pub(super) fn forget(&mut self, node: NodeId) {
        for expiry in self.seen.remove(&node).into_iter().flatten() {
            self.release(node, expiry);
        }
        for other in self.known.remove(&node).into_iter().flatten() {
            if let Some(twins) = self.known.get_mut(&other) {
                twins.remove(&node);
            }
        }
    }

    fn see(&mut self, node: NodeId, expiry: Expiry) {
        let seen = self.seen.entry(node).or_default();
        if seen.contains(&expiry) {
            return;
        }
        seen.push_back(expiry);
        let oldest = if seen.len() > KEPT { seen.pop_front() } else { None };
        self.holders.entry(expiry).or_default().insert(node);
        if let Some(oldest) = oldest {
            self.release(node, oldest);
        }
    }

    fn release(&mut self, node: NodeId, expiry: Expiry) {
        if let Some(holders) = self.holders.get_mut(&expiry) {
            holders.remove(&node);
            if holders.is_empty() {
                self.holders.remove(&expiry);
            }
        }
    }
}

/// The moments in a node's list of loaded models that are exact enough to be its own.
pub(super) fn expiries(loaded: &[Said]) -> impl Iterator<Item = Expiry> {
    loaded.iter().take(KEPT).filter_map(|said| {
        let moment = OffsetDateTime::parse(said.value()["expires_at"].as_str()?, &Rfc3339).ok()?;
        // A server that only imitates Ollama may always give the same round moment.
        (moment.nanosecond() % 1_000_000 != 0).then(|| moment.unix_timestamp_nanos())
    })
}

/// The longest wait for one node, and for all of them.
const PATIENCE: Duration = Duration::from_secs(2);
const PATIENCE_WITH_ALL: Duration = Duration::from_secs(5);
/// Nodes that are asked at a time.
const AT_A_TIME: usize = 32;

/// Pairs of nodes that have the same address, or keep a model until the same nanosecond, by name. Nodes that do not answer
/// within seconds are known by their addresses only, and discovered ones not at all.
pub async fn twins_now(nodes: &[NodeSettings]) -> BTreeSet<(String, String)> {
    let endpoints: Vec<Arc<NodeEndpoint>> = nodes
        .iter()
        .filter(|settings| settings.discover != Discover::Dns)
        .filter_map(|settings| NodeEndpoint::new(settings).ok().map(Arc::new))
        .collect();
    let mut marks: BTreeMap<String, Vec<Arc<str>>> = BTreeMap::new();
    for endpoint in &endpoints {
        marks.entry(endpoint.place()).or_default().push(endpoint.name.clone());
    }
    let upstream = Upstream::new(PATIENCE);
    let looking = futures_util::stream::iter(endpoints)
        .map(|endpoint| {
            let name = endpoint.name.clone();
            let inquiry =
                Inquiry { upstream: upstream.clone(), endpoint, probe_timeout: PATIENCE, listing_timeout: PATIENCE };
            async move { (name, inquiry.loaded().await) }
        })
        .buffer_unordered(AT_A_TIME)
        .for_each(|(name, loaded)| {
            for expiry in loaded.iter().flat_map(|listing| expiries(&listing.said)) {
                marks.entry(expiry.to_string()).or_default().push(name.clone());
            }
            std::future::ready(())
        });
    // Whoever has not answered by then is left out.
    drop(tokio::time::timeout(PATIENCE_WITH_ALL, looking).await);
    let pairs = marks.values().flat_map(|names| names.windows(2)).filter(|pair| pair[0] != pair[1]);
    pairs
        .map(|pair| if pair[0] < pair[1] { (&pair[0], &pair[1]) } else { (&pair[1], &pair[0]) })
        .map(|(one, other)| (one.to_string(), other.to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const A: NodeId = NodeId(0);
    const B: NodeId = NodeId(1);
    const C: NodeId = NodeId(2);

    fn until(moments: &[&str]) -> Vec<Said> {
        moments.iter().map(|moment| Said::new(&json!({"name": "m", "expires_at": moment}))).collect()
    }

    #[test]
    fn nodes_that_show_two_exact_moments_in_common_are_one_and_that_is_told_once() {
        let mut twins = Twins::default();
        let (first, second) = ("2026-11-27T20:00:00.123456789Z", "2026-11-27T20:01:00.987654321Z");
        assert_eq!(twins.hear(A, &until(&[first])), []);
        assert_eq!(twins.hear(B, &until(&[first])), [], "a copy of a machine shares what was before");
        assert_eq!(twins.hear(A, &until(&["2026-11-27T21:01:00.987654321+01:00"])), []);
        assert_eq!(twins.hear(C, &until(&["2026-11-27T20:01:00.987654322Z"])), []);
        assert_eq!(twins.hear(B, &until(&[second])), [A]);
        assert_eq!(twins.hear(A, &until(&[second])), [], "it is known");
        assert_eq!((twins.of(A), twins.of(B), twins.of(C)), (vec![B], vec![A], vec![]));
        twins.forget(A);
        assert_eq!(twins.of(B), []);
        assert_eq!(twins.hear(B, &until(&[second])), []);
    }

    #[test]
    fn equal_lists_of_round_odd_or_missing_moments_say_nothing() {
        let mut twins = Twins::default();
        let odd = ["0001-01-01T00:00:00Z", "2036-08-20T10:11:12Z", "2026-11-27T20:00:00.5Z", "soon", ""];
        for _ in 0..3 {
            for node in [A, B] {
                assert_eq!(twins.hear(node, &until(&odd)), []);
                assert_eq!(
                    twins.hear(node, &[json!(null), json!({"expires_at": 7})].map(|entry| Said::new(&entry))),
                    []
                );
            }
        }
        assert!(twins.holders.is_empty());
    }

    #[test]
    fn only_the_newest_moments_are_kept() {
        let mut twins = Twins::default();
        for number in 0..1_000 {
            twins.hear(A, &until(&[&format!("2026-11-27T20:00:00.{number:03}001Z")]));
        }
        assert_eq!((twins.seen[&A].len(), twins.holders.len()), (KEPT, KEPT));
        twins.forget(A);
        assert!(twins.seen.is_empty() && twins.holders.is_empty() && twins.known.is_empty());
    }
}
