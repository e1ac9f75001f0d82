//! Which routers is the scheduler compared with? Each binds a request to a node on arrival.

use std::collections::{BTreeMap, BTreeSet};

use crate::machine::Machine;
use crate::traffic::{Ask, Random};
use crate::world::Policy;

/// The state of such a router.
pub struct Router {
    policy: Policy,
    random: Random,
    /// By node: seconds for each token of the answer, as clients see them.
    latencies: Vec<f64>,
    /// By node and model: the prefixes that were sent there.
    sent: BTreeMap<(usize, usize), BTreeSet<u64>>,
}

impl Router {
    pub fn new(policy: Policy, nodes: usize) -> Self {
        Self { policy, random: Random(77), latencies: vec![0.01; nodes], sent: BTreeMap::new() }
    }

    /// A request has ended after this many seconds.
    pub fn done(&mut self, node: usize, seconds: f64, ask: &Ask) {
        self.latencies[node] += 0.1 * (seconds / ask.output - self.latencies[node]);
    }

    /// Chooses among the nodes whose memory can hold the model and that are not known to be dead.
    pub fn choose(&mut self, machines: &[Machine], nodes: &[usize], job: usize, ask: &Ask) -> usize {
        let model = ask.model;
        let is_free = |node: &usize| machines[*node].outstanding_of(model) < machines[*node].kind.slots;
        let is_loaded = |node: &usize| machines[*node].has_loaded(model);
        let least = |among: &mut dyn Iterator<Item = usize>| {
            among.min_by_key(|node| (machines[*node].outstanding(), tie(job, *node)))
        };
        let all = || nodes.iter().copied();
        let chosen = match self.policy {
            Policy::LoadedFree => least(&mut all().filter(|node| is_loaded(node) && is_free(node)))
                .or_else(|| least(&mut all().filter(is_free))),
            Policy::TwoChoices => {
                let warm = warm(machines, nodes, model);
                let mut pick = || warm[(self.random.next() % warm.len() as u64) as usize];
                let (a, b) = (pick(), pick());
                let cost = |node: usize| self.latencies[node] * (1.0 + machines[node].outstanding() as f64);
                Some(if cost(a) <= cost(b) { a } else { b })
            }
            Policy::CacheAware => Some(self.with_most_cached(machines, &warm(machines, nodes, model), job, ask)),
            _ => None,
        };
        chosen.or_else(|| least(&mut all())).expect("some node fits")
    }

    /// The node with most of the prompt cached, unless the load is uneven; otherwise the one with the fewest requests.
    fn with_most_cached(&mut self, machines: &[Machine], warm: &[usize], job: usize, ask: &Ask) -> usize {
        let loads = || warm.iter().map(|node| machines[*node].outstanding());
        let (most, fewest) = (loads().max().unwrap_or(0), loads().min().unwrap_or(0));
        let is_uneven = most - fewest > 4 && 2 * most > 3 * fewest;
        let depth = |node: usize| {
            let sent = self.sent.get(&(node, ask.model));
            let known = |prefix: &&scheduler::Prefix| sent.is_some_and(|sent| sent.contains(&prefix.digest));
            ask.prefixes.iter().take_while(known).last().map_or(0, |prefix| prefix.tokens)
        };
        let deepest = warm.iter().map(|node| (depth(*node), *node)).max();
        let least = || warm.iter().copied().min_by_key(|node| (machines[*node].outstanding(), tie(job, *node)));
        let chosen = match deepest {
            Some((depth, node)) if !is_uneven && f64::from(depth) > 0.3 * ask.prompt => node,
            _ => least().expect("there is a node"),
        };
        self.sent.entry((chosen, ask.model)).or_default().extend(ask.prefixes.iter().map(|prefix| prefix.digest));
        chosen
    }
}

/// The nodes that have the model and are not too full; all nodes if there are none.
fn warm(machines: &[Machine], nodes: &[usize], model: usize) -> Vec<usize> {
    let is_warm = |node: &usize| {
        machines[*node].has_loaded(model) && machines[*node].outstanding_of(model) < 2 * machines[*node].kind.slots
    };
    let warm: Vec<usize> = nodes.iter().copied().filter(is_warm).collect();
    if warm.is_empty() { nodes.to_vec() } else { warm }
}

/// Breaks ties pseudo-randomly, because the nodes are listed in order of speed.
fn tie(job: usize, node: usize) -> usize {
    (job.wrapping_mul(0x9E37_79B9) >> 7).wrapping_add(node * 0x85EB_CA6B) % 1009
}
