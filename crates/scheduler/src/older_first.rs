//! Names of the same weights compete for the same slots. Which of them is planned first, if they are equally entitled? The
//! one with the oldest request, as if all requests asked for one name.
//!
//! Names are the same if they have the same main name on some node, or each is the same as a third. The names of a class
//! share the places that the class has in the order of models. Each node is asked once for each name, as one user may wait for
//! hundreds of names.

use std::collections::{BTreeMap, btree_map::Entry};

use crate::model::ModelId;

/// Puts the names of each class in order of age; `main` tells a name's main name on a node.
pub(crate) fn put_older_first<Node: Copy, Age: Ord>(
    models: &mut [ModelId],
    nodes: impl Iterator<Item = Node>,
    main: impl Fn(Node, ModelId) -> ModelId,
    age: impl Fn(ModelId) -> Age,
) {
    let mut places: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (place, class) in classes(models, nodes, main).into_iter().enumerate() {
        places.entry(class).or_default().push(place);
    }
    for places in places.values().filter(|places| places.len() > 1) {
        let mut names: Vec<ModelId> = places.iter().map(|place| models[*place]).collect();
        names.sort_by_cached_key(|model| age(*model));
        places.iter().zip(names).for_each(|(place, model)| models[*place] = model);
    }
}

/// The class of each name: the place of its first one.
fn classes<Node: Copy>(
    models: &[ModelId],
    nodes: impl Iterator<Item = Node>,
    main: impl Fn(Node, ModelId) -> ModelId,
) -> Vec<usize> {
    let mut parents: Vec<usize> = (0..models.len()).collect();
    let mut count = models.len();
    for node in nodes {
        if count <= 1 {
            break;
        }
        let mut first: BTreeMap<ModelId, usize> = BTreeMap::new();
        for (place, model) in models.iter().enumerate() {
            match first.entry(main(node, *model)) {
                Entry::Vacant(entry) => _ = entry.insert(place),
                Entry::Occupied(entry) => count -= usize::from(join(&mut parents, *entry.get(), place)),
            }
        }
    }
    (0..models.len()).map(|place| root(&mut parents, place)).collect()
}

/// Makes one class of two; false if they were one.
fn join(parents: &mut [usize], one: usize, other: usize) -> bool {
    let (one, other) = (root(parents, one), root(parents, other));
    parents[one.max(other)] = one.min(other);
    one != other
}

/// The first place of a class. The way there gets shorter for the next time.
fn root(parents: &mut [usize], mut place: usize) -> usize {
    while parents[place] != place {
        parents[place] = parents[parents[place]];
        place = parents[place];
    }
    place
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    fn order(models: usize, mains: &[Vec<usize>], ages: &[u64]) -> Vec<usize> {
        let mut models: Vec<ModelId> = (0..models).map(ModelId).collect();
        let main = |node: usize, model: ModelId| ModelId(mains[node][model.0]);
        put_older_first(&mut models, 0..mains.len(), main, |model| ages[model.0]);
        models.into_iter().map(|model| model.0).collect()
    }

    /// The same, by comparing each with each.
    fn in_pairs(models: usize, mains: &[Vec<usize>], ages: &[u64]) -> Vec<usize> {
        let mut models: Vec<usize> = (0..models).collect();
        for index in 0..models.len() {
            for other in index + 1..models.len() {
                let (one, two) = (models[index], models[other]);
                if mains.iter().any(|main| main[one] == main[two]) && ages[two] < ages[one] {
                    models.swap(index, other);
                }
            }
        }
        models
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_comparing_each_with_each(
            classes in prop::collection::vec(0_usize..4, 1..12),
            knows in prop::collection::vec(any::<bool>(), 3),
            ages in Just((0..12).collect::<Vec<u64>>()).prop_shuffle(),
        ) {
            // A node knows all names of the same weights, or none of them as such.
            let count = classes.len();
            let first = |model: usize| classes.iter().position(|class| *class == classes[model]).unwrap();
            let mains: Vec<Vec<usize>> =
                knows.iter().map(|knows| (0..count).map(|model| if *knows { first(model) } else { model }).collect()).collect();
            prop_assert_eq!(order(count, &mains, &ages), in_pairs(count, &mains, &ages));
        }
    }

    #[test]
    fn names_that_are_the_same_as_a_third_are_the_same() {
        // On the one node 0 and 1 are the same, on the other 1 and 2.
        let mains = [vec![0, 0, 2, 3], vec![0, 1, 1, 3]];
        assert_eq!(order(4, &mains, &[9, 8, 7, 0]), [2, 1, 0, 3], "and 3 stays where it is");
    }

    #[test]
    fn each_node_is_asked_once_for_each_name() {
        let (names, nodes) = (400, 8);
        let asked = Cell::new(0);
        let mut models: Vec<ModelId> = (0..names).map(ModelId).collect();
        // Pairs of the same weights.
        let main = |_: usize, model: ModelId| {
            asked.set(asked.get() + 1);
            ModelId(model.0 / 2)
        };
        let aged = Cell::new(0);
        let age = |model: ModelId| {
            aged.set(aged.get() + 1);
            names - model.0
        };
        put_older_first(&mut models, 0..nodes, main, age);
        assert!(asked.get() <= names * nodes && aged.get() <= names, "{} and {}", asked.get(), aged.get());
        assert_eq!(models[..4], [1, 0, 3, 2].map(ModelId));
    }
}
