//! Is this worth telling, or is it the same again? A few of a kind are told in a minute; of the others the last one is told at
//! the end of the minute, with their number.
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a minute is.
const WINDOW: Duration = Duration::from_secs(60);
/// Of one kind within that time.
const TOLD: u32 = 5;
/// Kinds that are remembered. What comes beyond those is told, as there is nothing to count it by.
const KINDS: usize = 4_096;

/// What was told within the last minute, by kind.
#[derive(Debug)]
pub(crate) struct Floods<K, V> {
    kinds: BTreeMap<K, Kind<V>>,
}

#[derive(Debug)]
struct Kind<V> {
    since: Duration,
    told: u32,
    folded: u64,
    last: Option<V>,
}

/// What stands for many.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Folded<V> {
    /// The last of them.
    pub(crate) last: V,
    /// How many there were, the last one included.
    pub(crate) count: u64,
}

impl<K, V> Default for Floods<K, V> {
    fn default() -> Self {
        Self { kinds: BTreeMap::new() }
    }
}

impl<K: Ord, V> Floods<K, V> {
    /// Gives `value` back if it is to be told now.
    pub(crate) fn admit(&mut self, kind: K, value: V, now: Duration) -> Option<V> {
        if self.kinds.len() >= KINDS && !self.kinds.contains_key(&kind) {
            return Some(value);
        }
        let known = self.kinds.entry(kind).or_insert(Kind { since: now, told: 0, folded: 0, last: None });
        if known.told < TOLD {
            known.told += 1;
            return Some(value);
        }
        known.folded += 1;
        known.last = Some(value);
        None
    }

    /// Forgets the kinds whose minute is over, and tells of those that something was folded of.
    pub(crate) fn due(&mut self, now: Duration) -> Vec<Folded<V>> {
        let over = self.kinds.extract_if(.., |_, kind| now >= kind.since + WINDOW);
        over.filter_map(|(_, kind)| Some(Folded { last: kind.last?, count: kind.folded })).collect()
    }

    /// When [`Self::due`] has something to tell.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.kinds.values().filter(|kind| kind.folded > 0).map(|kind| kind.since + WINDOW).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn of_a_flood_five_are_told_and_then_the_last_with_the_number_of_the_rest() {
        let mut floods = Floods::default();
        let told: Vec<u64> = (0..40).filter_map(|second| floods.admit("down", second, at(second))).collect();
        assert_eq!(told, [0, 1, 2, 3, 4]);
        assert_eq!(floods.admit("up", 40, at(40)), Some(40), "another kind is no part of it");
        assert_eq!((floods.due(at(59)), floods.next_due()), (vec![], Some(at(60))));
        assert_eq!(floods.due(at(60)), [Folded { last: 39, count: 35 }]);
        assert_eq!((floods.admit("down", 61, at(61)), floods.next_due()), (Some(61), None));
    }

    #[test]
    fn what_was_told_in_full_is_forgotten_without_a_word() {
        let mut floods = Floods::default();
        floods.admit("up", 0, at(0));
        assert_eq!(floods.due(at(60)), []);
        assert!(floods.kinds.is_empty());
    }

    #[test]
    fn kinds_beyond_those_that_are_remembered_are_told() {
        let mut floods = Floods::default();
        for kind in 0..KINDS {
            floods.admit(kind, (), at(0));
        }
        for _ in 0..10 {
            assert!(floods.admit(KINDS, (), at(1)).is_some());
        }
        assert_eq!(floods.kinds.len(), KINDS);
    }
}
