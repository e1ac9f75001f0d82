//! Which part of a prompt does a node still have in a cache?
//!
//! A runner keeps the prompts that its slots served last, and saves to the host's memory what a new prompt pushes out
//! of a slot. So it remembers one prompt for each slot, and [`HOST_TOKENS`] tokens more. The gateway cannot see that.
//! It remembers what it sent, and expects a prompt to be read only from the point where it differs from all of those.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{ids::NodeId, lookup::Lookup};

/// The host cache holds 8 GiB for each runner: about this many tokens of an 8B model, less a margin.
const HOST_TOKENS: f64 = 50_000.0;
/// Prompts remembered for one model on one node.
const MOST_KEPT: usize = 32;
/// A prefix that more nodes have read than this is common, like a system prompt.
const FEW: usize = 8;
/// A runner that continues at least this share of a kept prompt overwrites it; below that it keeps a copy.
const CONSUMED_SHARE: f64 = 0.5;

/// A prompt up to the end of one of its messages. The digest covers everything before that point, so two prompts with
/// the same digest share that whole beginning.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
pub struct Prefix {
    /// Seeded differently in each process, so it reveals nothing outside this one.
    pub digest: u64,
    /// Estimated tokens up to that point.
    pub tokens: u32,
}

/// A prompt that a node has kept.
#[derive(Clone, Debug)]
struct Kept {
    prefixes: Arc<[Prefix]>,
    /// Tokens of the prompt and its answer.
    tokens: f64,
    /// Larger for a prompt that was used later.
    used: u64,
}

/// What a node has kept of one model's prompts.
#[derive(Clone, Debug, Default)]
struct Shelf {
    /// Newest first.
    prompts: VecDeque<Kept>,
    slots: usize,
}

/// A node that has read a prefix.
#[derive(Copy, Clone, Debug)]
struct Holder {
    node: NodeId,
    /// Prompts kept there that begin with it.
    prompts: u32,
    /// Tokens of the longest prompt that ends with this prefix, including the answer; 0 if none does.
    whole: f64,
    /// When the newest prompt that begins with it was used, as in [`Kept`].
    used: u64,
}

/// The nodes that have read one prefix.
#[derive(Clone, Debug, Default)]
struct Holders {
    /// In the order of node ids.
    holders: Vec<Holder>,
    /// At least the `whole` of every holder. It does not shrink until the last holder is gone.
    longest: f64,
}

/// The nodes that have read the beginning of a prompt.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trail<'a> {
    /// For each known prefix, the shortest first. Who has read one has read those before it.
    steps: Vec<TrailStep<'a>>,
    prompt: f64,
}

#[derive(Copy, Clone, Debug)]
struct TrailStep<'a> {
    /// In the order of node ids.
    holders: &'a [Holder],
    /// Of the prefix.
    tokens: f64,
    /// Tokens up to the end of the next one.
    next: f64,
    /// As in [`Holders`].
    longest: f64,
}

impl Trail<'_> {
    /// Prompt tokens that a node need not read again, and when the newest prompt that begins like this one was used
    /// there, to be compared with [`PrefixMemory::in_slots_since`]; 0 if none was.
    pub(crate) fn on(&self, node: NodeId) -> (f64, u64) {
        let (mut most, mut used) = (0.0_f64, 0);
        for step in &self.steps {
            let Ok(place) = step.holders.binary_search_by_key(&node, |holder| holder.node) else { break };
            let holder = &step.holders[place];
            let tokens = if holder.whole > 0.0 { holder.whole.min(step.next) } else { step.tokens };
            // A runner always reads at least one token, to have something to continue from.
            most = most.max(tokens.min(self.prompt - 1.0));
            used = holder.used;
        }
        (most, used)
    }

    /// The few nodes that have read more of the prompt than the many, and the most tokens that any other node has.
    pub(crate) fn few(&self) -> (impl Iterator<Item = NodeId> + '_, f64) {
        let split = self.steps.iter().position(|step| step.holders.len() <= FEW).unwrap_or(self.steps.len());
        let (many, few) = self.steps.split_at(split);
        let most = many.iter().map(|step| step.longest.min(step.next).max(step.tokens)).fold(0.0, f64::max);
        let nodes = few.first().map_or(&[][..], |step| step.holders).iter().map(|holder| holder.node);
        (nodes, most.min(self.prompt - 1.0).max(0.0))
    }
}

/// What the nodes remember of one model's prompts.
#[derive(Clone, Debug, Default)]
pub(crate) struct PrefixMemory {
    shelves: BTreeMap<NodeId, Shelf>,
    holders: Lookup<u64, Holders>,
    uses: u64,
    /// Memory of those that are gone, for the next ones.
    spare: Vec<Vec<Holder>>,
}

/// Memory that is kept for later: about as much as the prefixes of one prompt need, each with a few nodes.
const MOST_SPARED: usize = 16;

impl PrefixMemory {
    /// Which nodes have read the beginning of this prompt, which has `prompt` tokens.
    pub(crate) fn trail(&self, prefixes: &[Prefix], prompt: f64) -> Trail<'_> {
        let mut steps = Vec::new();
        for (depth, prefix) in prefixes.iter().enumerate() {
            let Some(Holders { holders, longest }) = self.holders.get(&prefix.digest) else { break };
            // In the next turn a whole prompt is followed by its answer, which was never digested here.
            let next = prefixes.get(depth + 1).map_or(prompt, |next| f64::from(next.tokens));
            if steps.is_empty() {
                steps.reserve_exact(prefixes.len());
            }
            steps.push(TrailStep { holders, tokens: f64::from(prefix.tokens), next, longest: *longest });
        }
        Trail { steps, prompt }
    }

    /// Prompts used before then are in the host's memory only: the slots have served others since.
    pub(crate) fn in_slots_since(&self, node: NodeId) -> u64 {
        let Some(shelf) = self.shelves.get(&node) else { return 0 };
        match shelf.slots.checked_sub(1) {
            Some(last) => shelf.prompts.get(last).map_or(0, |oldest| oldest.used),
            None => u64::MAX,
        }
    }

    /// A prompt is sent to a node that had `cached` of its tokens.
    pub(crate) fn consume(&mut self, node: NodeId, prefixes: &[Prefix], cached: f64) {
        let Some(shelf) = self.shelves.get_mut(&node).filter(|_| cached > 0.0) else { return };
        // The newest of those that have the longest beginning in common. Most prompts need no look: if one of them has a
        // prefix, the node is among its holders.
        let is_held = |prefix: &&Prefix| {
            let holders = self.holders.get(&prefix.digest).map_or(&[][..], |it| &it.holders);
            holders.binary_search_by_key(&node, |holder| holder.node).is_ok()
        };
        let newest = |prefix: &Prefix| shelf.prompts.iter().position(|each| each.prefixes.contains(prefix));
        let Some(place) = prefixes.iter().rev().filter(is_held).find_map(newest) else { return };
        let Some(mut kept) = shelf.prompts.remove(place) else { return };
        if cached >= CONSUMED_SHARE * kept.tokens {
            return self.withdraw(node, &kept);
        }
        self.uses += 1;
        kept.used = self.uses;
        for prefix in kept.prefixes.iter() {
            if let Some(holder) = self.holder_mut(node, prefix) {
                holder.used = kept.used;
            }
        }
        self.shelves.entry(node).or_default().prompts.push_front(kept);
    }

    /// A node with this many slots has read a prompt and written its answer; `tokens` counts both.
    pub(crate) fn keep(&mut self, node: NodeId, prefixes: &Arc<[Prefix]>, tokens: f64, slots: usize) {
        if prefixes.is_empty() {
            return;
        }
        self.uses += 1;
        let new = Kept { prefixes: prefixes.clone(), tokens, used: self.uses };
        self.enter(node, &new);
        let shelf = self.shelves.entry(node).or_default();
        shelf.slots = slots;
        shelf.prompts.push_front(new);
        let mut in_host = 0.0;
        let stays = |(place, each): (usize, &Kept)| {
            in_host += if place < slots { 0.0 } else { each.tokens };
            place < MOST_KEPT && in_host <= HOST_TOKENS
        };
        let count = shelf.prompts.iter().enumerate().map(stays).take_while(|stays| *stays).count();
        let forgotten: Vec<Kept> = shelf.prompts.drain(count.max(1)..).collect();
        forgotten.iter().for_each(|each| self.withdraw(node, each));
    }

    /// The model has left a node's memory, and its caches with it.
    pub(crate) fn forget(&mut self, node: NodeId) {
        let Some(shelf) = self.shelves.remove(&node) else { return };
        shelf.prompts.iter().for_each(|each| self.withdraw(node, each));
    }

    fn holder_mut(&mut self, node: NodeId, prefix: &Prefix) -> Option<&mut Holder> {
        let holders = &mut self.holders.get_mut(&prefix.digest)?.holders;
        let place = holders.binary_search_by_key(&node, |holder| holder.node).ok()?;
        holders.get_mut(place)
    }

    fn enter(&mut self, node: NodeId, kept: &Kept) {
        for (depth, prefix) in kept.prefixes.iter().enumerate() {
            let whole = if depth + 1 == kept.prefixes.len() { kept.tokens } else { 0.0 };
            let Holders { holders, longest } = self.holders.get_or_default(prefix.digest);
            if holders.capacity() == 0 {
                *holders = self.spare.pop().unwrap_or_default();
            }
            *longest = longest.max(whole);
            match holders.binary_search_by_key(&node, |holder| holder.node) {
                Ok(place) => {
                    holders[place].prompts += 1;
                    holders[place].whole = holders[place].whole.max(whole);
                    holders[place].used = kept.used;
                }
                Err(place) => holders.insert(place, Holder { node, prompts: 1, whole, used: kept.used }),
            }
        }
    }

    /// A prompt is no longer kept on a node.
    fn withdraw(&mut self, node: NodeId, kept: &Kept) {
        let last = kept.prefixes.last().map(|prefix| prefix.digest);
        for prefix in kept.prefixes.iter() {
            let Some(Holders { holders, .. }) = self.holders.get_mut(&prefix.digest) else { continue };
            let Ok(place) = holders.binary_search_by_key(&node, |holder| holder.node) else { continue };
            let rest = || self.shelves.get(&node).into_iter().flat_map(|shelf| &shelf.prompts);
            holders[place].prompts -= 1;
            if holders[place].prompts == 0 {
                holders.remove(place);
            } else {
                // Only whole prompts that end at this prefix decide its `whole`, so the others need no look.
                if last == Some(prefix.digest) {
                    let ends_here = rest().filter(|each| each.prefixes.last().map(|prefix| prefix.digest) == last);
                    holders[place].whole = ends_here.map(|each| each.tokens).fold(0.0, f64::max);
                }
                // The newest of the others, as prompts are kept newest first.
                if holders[place].used == kept.used {
                    let newest = rest().find(|each| each.prefixes.contains(prefix));
                    holders[place].used = newest.map_or(0, |each| each.used);
                }
            }
            if holders.is_empty()
                && let Some(gone) = self.holders.remove(&prefix.digest)
                && self.spare.len() < MOST_SPARED
                && gone.holders.capacity() <= FEW
            {
                self.spare.push(gone.holders);
            }
        }
    }

    /// Asserts what must hold after every step.
    #[cfg(test)]
    fn check(&self) {
        let kept = || self.shelves.values().flat_map(|shelf| &shelf.prompts);
        debug_assert!(self.shelves.values().all(|shelf| shelf.prompts.len() <= MOST_KEPT));
        debug_assert!(self.shelves.values().all(|shelf| shelf.prompts.iter().is_sorted_by(|a, b| a.used > b.used)));
        debug_assert_eq!(
            kept().map(|kept| kept.prefixes.len()).sum::<usize>(),
            self.holders.values().flat_map(|each| &each.holders).map(|holder| holder.prompts as usize).sum::<usize>()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(3);

    fn chain(digests: &[u64]) -> Arc<[Prefix]> {
        let prefix = |(index, digest): (usize, &u64)| Prefix { digest: *digest, tokens: 100 * (index as u32 + 1) };
        digests.iter().enumerate().map(prefix).collect()
    }

    fn cached(memory: &PrefixMemory, digests: &[u64], prompt: f64) -> Vec<(NodeId, f64)> {
        memory.check();
        let prefixes = chain(digests);
        let trail = memory.trail(&prefixes, prompt);
        let on = |node| Some((node, trail.on(node).0)).filter(|(_, tokens)| *tokens > 0.0);
        memory.shelves.keys().copied().filter_map(on).collect()
    }

    #[test]
    fn the_deepest_common_prefix_counts_and_the_answer_with_a_whole_prompt() {
        let mut memory = PrefixMemory::default();
        memory.keep(NODE, &chain(&[1, 2]), 230.0, 4);
        memory.keep(NodeId(1), &chain(&[1, 7]), 250.0, 4);
        assert_eq!(cached(&memory, &[1, 9], 250.0), [(NodeId(1), 100.0), (NODE, 100.0)]);
        assert_eq!(cached(&memory, &[1, 2, 3, 4], 450.0), [(NodeId(1), 100.0), (NODE, 230.0)]);
        // The answer was cut short before the next turn came.
        assert_eq!(cached(&memory, &[1, 2], 210.0)[1], (NODE, 209.0));
        assert_eq!(cached(&memory, &[8], 210.0), []);
    }

    #[test]
    fn what_is_continued_is_overwritten_and_what_is_only_begun_alike_stays() {
        let mut memory = PrefixMemory::default();
        memory.keep(NODE, &chain(&[1, 2]), 230.0, 4);
        memory.consume(NODE, &chain(&[1, 5]), 100.0);
        assert_eq!(cached(&memory, &[1, 2, 3], 400.0), [(NODE, 230.0)]);
        memory.consume(NODE, &chain(&[1, 2, 3]), 230.0);
        assert_eq!(cached(&memory, &[1, 2, 3], 400.0), []);
    }

    #[test]
    fn a_node_remembers_as_many_prompts_as_it_has_slots_and_what_fits_into_the_hosts_memory() {
        let mut memory = PrefixMemory::default();
        for digest in 0..5 {
            memory.keep(NODE, &chain(&[digest]), 30_000.0, 2);
        }
        // Two in slots, and one in the host's memory.
        let known = |memory: &PrefixMemory, digest| !cached(memory, &[digest], 1e6).is_empty();
        assert_eq!((0..5).filter(|digest| known(&memory, *digest)).collect::<Vec<_>>(), [2, 3, 4]);
        let is_in_host = [2, 3, 4].map(|digest| {
            let used = memory.trail(&chain(&[digest]), 1e6).on(NODE).1;
            used < memory.in_slots_since(NODE)
        });
        assert_eq!(is_in_host, [true, false, false]);
        for digest in 10..100 {
            memory.keep(NODE, &chain(&[digest]), 1.0, 2);
        }
        assert_eq!((0..100).filter(|digest| known(&memory, *digest)).count(), MOST_KEPT);
        memory.forget(NODE);
        assert!(memory.holders.is_empty() && memory.shelves.is_empty());
    }
}
