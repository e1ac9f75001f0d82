//! Which settings have a new name, and who still uses the old one?
use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::environment::Variable;
use super::origin::Mistake;

/// A setting's old path and its new one. Both are in the same group, and neither is part of a list.
pub type Renamed = (&'static str, &'static str);

/// Moves a file's settings from their old names to the new ones. The first list contains notes for the operator, the
/// second conflicts: settings that are given under both names.
pub(super) fn of_file(
    renamed: &[Renamed],
    source: &str,
    tree: &mut Map<String, Value>,
    lines: &mut BTreeMap<String, usize>,
) -> (Vec<Mistake>, Vec<Mistake>) {
    let (mut notes, mut conflicts) = (Vec::new(), Vec::new());
    for (old, new) in renamed {
        let (Some((group, old_key)), Some((_, new_key))) = (old.rsplit_once('.'), new.rsplit_once('.')) else {
            continue;
        };
        let group = group.split('.').try_fold(&mut *tree, |tree, key| tree.get_mut(key)?.as_object_mut());
        let Some((group, value)) = group.and_then(|group| group.remove(old_key).map(|value| (group, value))) else {
            continue;
        };
        let line = lines.remove(*old);
        if group.contains_key(new_key) {
            conflicts.push(both(source, line, old, new));
            continue;
        }
        group.insert(new_key.to_owned(), value);
        lines.extend(line.map(|line| ((*new).to_owned(), line)));
        notes.push(note(source, line, old, new));
    }
    (notes, conflicts)
}

/// The same for variables.
pub(super) fn of_variables(renamed: &[Renamed], variables: &mut [Variable]) -> (Vec<Mistake>, Vec<Mistake>) {
    let (mut notes, mut conflicts) = (Vec::new(), Vec::new());
    for (old, new) in renamed {
        let is_given_twice = variables.iter().any(|variable| variable.path == *new);
        for variable in variables.iter_mut().filter(|variable| variable.path == *old) {
            if is_given_twice {
                conflicts.push(both(&variable.name, None, old, new));
            } else {
                notes.push(note(&variable.name, None, old, new));
            }
            variable.path = (*new).to_owned();
            variable.keys = new.split('.').map(str::to_owned).collect();
        }
    }
    (notes, conflicts)
}

fn note(source: &str, line: Option<usize>, old: &str, new: &str) -> Mistake {
    let message = format!("the setting is called `{new}` now; its old name still works");
    Mistake { source: source.to_owned(), line, path: old.to_owned(), message, hint: None }
}

fn both(source: &str, line: Option<usize>, old: &str, new: &str) -> Mistake {
    let message = format!("its new name `{new}` is given as well");
    Mistake {
        source: source.to_owned(),
        line,
        path: old.to_owned(),
        message,
        hint: Some("keep only the new name".to_owned()),
    }
}
