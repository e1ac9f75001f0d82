//! Which node takes a request?
//!
//! Nodes come into question in ranks: those without a doubt; those whose whole
//! memory is too small for the model; those that failed the request before and
//! may have it again; both. Only the best rank that has a live node is used,
//! even if all its slots are taken. Within it, of the nodes with a free slot:
//!
//! 1. the model is in memory, or being loaded;
//! 2. else it can be loaded without pushing another out;
//! 3. then the least load, as requests in flight over slots;
//! 4. then the fewest in flight;
//! 5. then the node that was given nothing for longest.

use std::{cmp::Ordering, sync::Arc};

use super::{
    event::{Model, NodeId, Time},
    name::Name,
    node::Node,
    queue::Class,
};

/// What can be done with the requests of a class.
#[derive(Clone, Eq, PartialEq, Debug)]
pub(super) enum Placement {
    /// There is a free slot.
    Now(Slot),
    /// A live node has the model, but no free slot.
    Later,
    /// No live node that may be used has the model.
    Never,
}

/// A place on a node.
#[derive(Clone, Eq, PartialEq, Debug)]
pub(super) struct Slot {
    pub(super) node: NodeId,
    /// The model's name as that node lists it.
    pub(super) listed: Arc<str>,
}

/// Less is worse.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd)]
enum Warmth {
    PushesOthersOut,
    HasRoom,
    Loaded,
}

#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd)]
struct Rank {
    has_failed: bool,
    is_too_small: bool,
}

/// Chooses a slot for the requests of `class`.
pub(super) fn place(nodes: &[Node], class: &Class, now: Time) -> Placement {
    let name = Name::new(&class.model);
    let mut best_rank = None;
    let mut best: Option<(Standing, Slot)> = None;
    for (index, node) in nodes.iter().enumerate().filter(|(_, node)| node.is_live()) {
        let Some((listed, model)) = node.find(&name) else {
            continue;
        };
        let id = NodeId(index);
        let Some(rank) = rank(node, id, model, class) else {
            continue;
        };
        if best_rank.is_none_or(|best_rank| rank < best_rank) {
            best_rank = Some(rank);
            best = None;
        }
        if best_rank != Some(rank) || !node.has_free_slot(listed, now) {
            continue;
        }
        let standing = Standing::of(node, listed, model);
        if best.as_ref().is_none_or(|(best, _)| standing.compare(best).is_lt()) {
            let listed = listed.clone();
            best = Some((standing, Slot { node: id, listed }));
        }
    }
    match (best, best_rank) {
        (Some((_, slot)), _) => Placement::Now(slot),
        (None, Some(_)) => Placement::Later,
        (None, None) => Placement::Never,
    }
}

/// `None` if the node is not to be used for this class at all.
fn rank(node: &Node, id: NodeId, model: &Model, class: &Class) -> Option<Rank> {
    let failed_on = class.failed_on.iter().find(|failed_on| failed_on.node == id);
    if failed_on.is_some_and(|failed_on| failed_on.is_barred) {
        return None;
    }
    Some(Rank { has_failed: failed_on.is_some(), is_too_small: !node.can_hold(model) })
}

/// What is compared between two nodes with a free slot.
struct Standing {
    warmth: Warmth,
    in_flight: u32,
    slots: u32,
    last_dispatch: u64,
}

impl Standing {
    fn of(node: &Node, listed: &str, model: &Model) -> Self {
        let warmth = if node.has_loaded(listed) {
            Warmth::Loaded
        } else if node.has_room_for(model) {
            Warmth::HasRoom
        } else {
            Warmth::PushesOthersOut
        };
        Self { warmth, in_flight: node.in_flight(), slots: node.slots(), last_dispatch: node.last_dispatch() }
    }

    /// Less is better.
    fn compare(&self, other: &Self) -> Ordering {
        // Fractions compared crosswise, so exactly.
        let load = u64::from(self.in_flight) * u64::from(other.slots);
        let other_load = u64::from(other.in_flight) * u64::from(self.slots);
        other
            .warmth
            .cmp(&self.warmth)
            .then(load.cmp(&other_load))
            .then(self.in_flight.cmp(&other.in_flight))
            .then(self.last_dispatch.cmp(&other.last_dispatch))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            event::{Failure, Loaded, NodeSpec, RequestId},
            queue::FailedOn,
        },
        *,
    };

    const NOW: Time = Time::ZERO;

    /// A live node with models `m` of 5 bytes and `n` of 2.
    fn node(slots: u32, vram_bytes: Option<u64>) -> Node {
        let model =
            |name: &str, size_bytes| Model { name: name.into(), size_bytes, digest: String::new(), modified_unix: 0 };
        let mut node = Node::new(NodeSpec { name: "gpu".into(), slots, vram_bytes });
        node.answered(NOW);
        node.list(vec![model("m:latest", 5), model("n:latest", 2)]);
        node
    }

    fn load(node: &mut Node, name: &str, vram_bytes: u64) {
        let name = name.into();
        node.reside(vec![Loaded { name, vram_bytes }]);
    }

    /// Runs requests for `n` there.
    fn occupy(node: &mut Node, count: u64) {
        for each in 0..count {
            node.occupy(RequestId(each), &"n:latest".into(), each + 1);
        }
    }

    fn class(failed_on: &[(usize, bool)]) -> Class {
        let failed_on =
            failed_on.iter().map(|(node, is_barred)| FailedOn { node: NodeId(*node), is_barred: *is_barred });
        Class { model: "m".into(), failed_on: failed_on.collect() }
    }

    fn chosen(nodes: &[Node]) -> Option<usize> {
        chosen_after(nodes, &[])
    }

    fn chosen_after(nodes: &[Node], failed_on: &[(usize, bool)]) -> Option<usize> {
        match place(nodes, &class(failed_on), NOW) {
            Placement::Now(slot) => Some(slot.node.0),
            _ => None,
        }
    }

    #[test]
    fn a_node_with_the_model_loaded_is_preferred_even_if_it_has_more_to_do() {
        let mut nodes = [node(4, None), node(4, None)];
        load(&mut nodes[1], "m:latest", 5);
        occupy(&mut nodes[1], 3);
        assert_eq!(chosen(&nodes), Some(1));
    }

    #[test]
    fn a_node_with_room_is_preferred_to_one_that_must_push_another_out() {
        let mut nodes = [node(4, Some(8)), node(4, Some(8))];
        load(&mut nodes[0], "other", 4);
        occupy(&mut nodes[1], 2);
        assert_eq!(chosen(&nodes), Some(1));
        load(&mut nodes[1], "other", 4);
        assert_eq!(chosen(&nodes), Some(0));
    }

    #[test]
    fn load_is_relative_to_slots_and_compared_exactly() {
        let mut nodes = [node(2, None), node(4, None)];
        occupy(&mut nodes[0], 1);
        occupy(&mut nodes[1], 1);
        assert_eq!(chosen(&nodes), Some(1));
        // Equal halves: the fewest in flight.
        let mut nodes = [node(4, None), node(2, None)];
        occupy(&mut nodes[0], 2);
        nodes[1].occupy(RequestId(9), &"n:latest".into(), 9);
        assert_eq!(chosen(&nodes), Some(1));
    }

    #[test]
    fn among_equals_the_longest_unused_goes_first() {
        let mut nodes = [node(1, None), node(1, None)];
        occupy(&mut nodes[0], 1);
        nodes[0].vacate(RequestId(0), "n:latest");
        assert_eq!(chosen(&nodes), Some(1));
    }

    #[test]
    fn a_node_too_small_for_the_model_is_used_only_when_it_is_the_only_one() {
        let mut nodes = [node(4, Some(3)), node(1, Some(8))];
        assert_eq!(chosen(&nodes), Some(1));
        nodes[1].occupy(RequestId(9), &"m:latest".into(), 1);
        assert_eq!(place(&nodes, &class(&[]), NOW), Placement::Later);
        assert_eq!(chosen(&nodes[..1]), Some(0));
    }

    #[test]
    fn a_node_that_failed_the_request_is_used_again_only_when_no_other_is_left() {
        let mut nodes = [node(1, None), node(1, None)];
        assert_eq!(chosen_after(&nodes, &[(0, false)]), Some(1));
        nodes[1].occupy(RequestId(9), &"m:latest".into(), 1);
        assert_eq!(place(&nodes, &class(&[(0, false)]), NOW), Placement::Later);
        nodes[1].silent("refused".into(), NOW);
        nodes[1].silent("refused".into(), NOW);
        assert_eq!(chosen_after(&nodes, &[(0, false)]), Some(0));
        assert_eq!(place(&nodes, &class(&[(0, true)]), NOW), Placement::Never);
    }

    #[test]
    fn a_down_node_and_one_without_slots_never_come_into_question() {
        assert_eq!(place(&[node(0, None)], &class(&[]), NOW), Placement::Never);
        let mut nodes = [node(1, None)];
        let epoch = nodes[0].occupy(RequestId(1), &"m:latest".into(), 1);
        nodes[0].vacate(RequestId(1), "m:latest");
        nodes[0].failed("m:latest", Failure::Unreachable, epoch, NOW);
        assert_eq!(place(&nodes, &class(&[]), NOW), Placement::Never);
    }
}
