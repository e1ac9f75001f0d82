//! Where is what belongs to an id? A hash map that cannot be iterated over in production, so nothing depends on the
//! order of its entries.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hash, Hasher},
};

/// Finds values by ids. Neither clients nor nodes choose the ids, so the hash need not resist crafted ones, and it is the
/// same in every process.
#[derive(Clone, Debug)]
pub(crate) struct Lookup<K, V>(HashMap<K, V, BuildHasherDefault<IdHasher>>);

impl<K, V> Default for Lookup<K, V> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<K: Copy + Eq + Hash, V> Lookup<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn contains_key(&self, id: &K) -> bool {
        self.0.contains_key(id)
    }

    pub(crate) fn get(&self, id: &K) -> Option<&V> {
        self.0.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: &K) -> Option<&mut V> {
        self.0.get_mut(id)
    }

    /// Returns the value that the id had before.
    pub(crate) fn insert(&mut self, id: K, value: V) -> Option<V> {
        self.0.insert(id, value)
    }

    pub(crate) fn remove(&mut self, id: &K) -> Option<V> {
        self.0.remove(id)
    }

    pub(crate) fn get_or_default(&mut self, id: K) -> &mut V
    where
        V: Default,
    {
        self.0.entry(id).or_default()
    }

    /// In the order of ids.
    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)>
    where
        K: Ord,
    {
        let sorted: std::collections::BTreeMap<&K, &V> = self.0.iter().collect();
        sorted.into_iter()
    }

    /// In the order of ids.
    #[cfg(test)]
    pub(crate) fn values(&self) -> impl Iterator<Item = &V>
    where
        K: Ord,
    {
        self.iter().map(|(_, value)| value)
    }
}

/// Multiplies and folds, so that every bit of an id changes the whole hash.
#[derive(Clone, Default)]
pub(crate) struct IdHasher(u64);

impl IdHasher {
    /// The golden ratio's fraction; odd, and without a pattern in its bits.
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
}

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        let product = u128::from(self.0 ^ number ^ Self::FACTOR) * u128::from(Self::FACTOR);
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_u128(&mut self, number: u128) {
        self.write_u64(number as u64);
        self.write_u64((number >> 64) as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, hash::BuildHasher};

    use super::*;

    #[test]
    fn ids_that_differ_little_have_hashes_that_differ_at_both_ends() {
        // The map takes the place from the lowest bits, and tells neighbours apart by the highest seven.
        let build = BuildHasherDefault::<IdHasher>::default();
        let steps = [1_u128, 1 << 12, 1 << 64, 1 << 80, 1 << 120];
        for step in steps {
            let hashes: Vec<u64> = (0..256).map(|number| build.hash_one(number * step)).collect();
            let low: BTreeSet<u64> = hashes.iter().map(|hash| hash & 0x3ff).collect();
            let high: BTreeSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
            assert!(low.len() > 150 && high.len() > 90, "{step}: {} and {}", low.len(), high.len());
        }
    }
}
