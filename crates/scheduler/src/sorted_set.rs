//! A set in order, for what changes with every event and has few members: it lies in one piece of memory, which it keeps
//! while it is empty.

use std::ops::Deref;

/// Read it as a slice in ascending order without duplicates.
#[derive(Clone, Debug)]
pub(crate) struct SortedSet<T>(Vec<T>);

impl<T> Default for SortedSet<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> SortedSet<T> {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

impl<T: Ord> SortedSet<T> {
    /// False if it was there before.
    pub(crate) fn insert(&mut self, member: T) -> bool {
        let place = self.0.binary_search(&member);
        if let Err(place) = place {
            self.0.insert(place, member);
        }
        place.is_err()
    }

    /// False if it was not there.
    pub(crate) fn remove(&mut self, member: &T) -> bool {
        let place = self.0.binary_search(member);
        if let Ok(place) = place {
            self.0.remove(place);
        }
        place.is_ok()
    }

    /// Makes it a member or none.
    pub(crate) fn set(&mut self, member: T, is_in: bool) {
        if is_in {
            self.insert(member);
        } else {
            self.remove(&member);
        }
    }

    /// Takes all members of another set, which is empty then.
    pub(crate) fn append(&mut self, other: &mut Self) {
        if self.0.is_empty() {
            std::mem::swap(self, other);
        } else {
            self.extend(other.0.drain(..));
        }
    }
}

impl<T> Deref for SortedSet<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Ord> Extend<T> for SortedSet<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, members: I) {
        members.into_iter().for_each(|member| _ = self.insert(member));
    }
}

impl<'a, T> IntoIterator for &'a SortedSet<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_stay_in_order_and_each_is_there_once() {
        let mut set = SortedSet::default();
        assert!(set.insert(3) && set.insert(1) && !set.insert(3));
        let mut others = SortedSet::default();
        others.extend([2, 1, 5]);
        set.append(&mut others);
        assert_eq!((&set[..], others.len()), (&[1, 2, 3, 5][..], 0));
        assert!(set.remove(&2) && !set.remove(&2));
        set.set(4, true);
        set.set(1, false);
        assert_eq!(&set[..], [3, 4, 5]);
        others.append(&mut set);
        assert_eq!((&others[..], set.len()), (&[3, 4, 5][..], 0));
    }
}
