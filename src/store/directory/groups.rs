//! Which groups are there, and whose accounts are in them? Few, and always awake.
use std::collections::BTreeMap;
use std::sync::Arc;

use super::Directory;
use crate::store::group::{GroupEntry, UserGroup};

impl Directory {
    /// A group, by its name.
    pub(in crate::store) fn group(&self, name: &str) -> Option<&Arc<UserGroup>> {
        self.groups.get(name)
    }

    /// The group that usage knows by this id, unless the name is another group's by now.
    pub(in crate::store) fn group_of_usage(&self, usage_id: &str) -> Option<&Arc<UserGroup>> {
        self.groups.values().find(|group| **group.usage_id() == *usage_id)
    }

    /// All groups, by name.
    pub(in crate::store) fn groups(&self) -> impl Iterator<Item = &Arc<UserGroup>> {
        self.groups.values()
    }

    /// The group's users are in none from now on.
    pub(in crate::store) fn release_users_of(&mut self, group: &str) {
        for record in self.users.iter_mut().flatten() {
            if record.entry.group.as_deref() == Some(group) {
                record.entry.group = None;
            }
        }
    }

    /// Takes up what groups there are. Those that are known keep what is used of them; `make` makes the others.
    pub(in crate::store) fn set_groups(
        &mut self,
        entries: &[GroupEntry],
        make: impl Fn(&GroupEntry) -> Arc<UserGroup>,
    ) {
        let known = std::mem::take(&mut self.groups);
        let group = |entry: &GroupEntry| {
            let same = known.get(&entry.name).filter(|group| **group.usage_id() == *entry.usage_id());
            same.inspect(|group| group.set_terms(&entry.terms)).cloned().unwrap_or_else(|| make(entry))
        };
        self.groups = entries.iter().map(|entry| (entry.name.clone(), group(entry))).collect::<BTreeMap<_, _>>();
        for index in &self.awake_users {
            let Some(record) = self.users[*index as usize].as_ref() else { continue };
            if let Some(account) = &record.awake {
                let name = record.entry.group.as_ref();
                account.set_group(name.and_then(|name| self.groups.get(name)).cloned());
            }
        }
    }
}
