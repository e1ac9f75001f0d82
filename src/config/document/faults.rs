//! What is wrong with a tree of settings? All of it at once.
//!
//! `serde` stops at the first mistake. So each mistake is recorded and mended with a default or a stand-in, and the
//! tree is read again, until it is readable or nothing is left to mend.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;

use super::complaint::{Complaint, hint_for_unknown};
use super::yaml::{child, element, is_within};

/// The message for a missing key that has no default.
pub(super) const REQUIRED: &str = "a value is required";

/// How a setting is wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// The key does not exist.
    Unknown,
    /// The key is required and was not given.
    Missing,
    /// The value is not valid for the key.
    Wrong,
}

/// One mistake; its texts never contain a value that may be secret.
pub(super) struct Fault {
    pub kind: FaultKind,
    pub path: String,
    pub message: String,
    pub hint: Option<String>,
}

/// Everything that one examination found.
pub(super) struct Findings<T> {
    /// The settings, mended if necessary; absent if mending failed.
    pub value: Option<T>,
    /// The mended tree, without the required keys that nobody gave.
    pub tree: Value,
    /// In the order in which they were found.
    pub faults: Vec<Fault>,
}

/// Reads `tree` as a `T` and finds every mistake. `readings` contains, by path, an alternative value, used if the first
/// one does not fit.
pub(super) fn examine<T: Serialize + DeserializeOwned>(
    tree: Value,
    defaults: &Value,
    readings: BTreeMap<String, Value>,
) -> Findings<T> {
    // serde stops at the first mistake. So each round mends one and reads again; the bound is several times what
    // mending every value would take.
    let rounds = 8 * count(&tree) + 64;
    let readings = readings.into_iter().map(|(path, value)| (path, Some(value))).collect();
    let mut examination = Examination::new(tree, defaults, readings);
    let mut value = None;
    for _ in 0..rounds {
        let is_mended = match serde_path_to_error::deserialize::<_, T>(&examination.tree) {
            Ok(settings) => match list_for_group(&examination.tree, &settings) {
                Some(steps) => examination.wrong(&steps, &Complaint::expecting("a map")),
                None => {
                    value = Some(settings);
                    break;
                }
            },
            Err(error) => {
                let steps = existing_steps(&examination.tree, error.path());
                examination.note(steps, &error.inner().to_string())
            }
        };
        if !is_mended {
            break;
        }
    }
    // The stand-ins were there for serde only: checks that follow must not see them.
    for steps in std::mem::take(&mut examination.absent) {
        remove(&mut examination.tree, &steps);
    }
    Findings { value, tree: examination.tree, faults: examination.faults }
}

#[derive(Clone)]
enum KeyOrIndex {
    Key(String),
    Index(usize),
}

struct Examination<'a> {
    tree: Value,
    defaults: &'a Value,
    /// The alternative reading of a value; `None` once it was used, or once the value was asked for its names.
    readings: BTreeMap<String, Option<Value>>,
    faults: Vec<Fault>,
    /// How often each path was mended. A fault at, above or below such a path is a consequence of the mending.
    mended: BTreeMap<String, usize>,
    /// By the path of a list, the indices that were removed from it.
    dropped: BTreeMap<String, Vec<usize>>,
    /// Required keys outside lists that contain a stand-in.
    absent: Vec<Vec<KeyOrIndex>>,
}

impl<'a> Examination<'a> {
    fn new(tree: Value, defaults: &'a Value, readings: BTreeMap<String, Option<Value>>) -> Self {
        Self {
            tree,
            defaults,
            readings,
            faults: Vec::new(),
            mended: BTreeMap::new(),
            dropped: BTreeMap::new(),
            absent: Vec::new(),
        }
    }

    /// Records what `serde` says about the value at `steps` and mends it; false if that is impossible.
    fn note(&mut self, mut steps: Vec<KeyOrIndex>, message: &str) -> bool {
        let complaint = Complaint::read(message);
        match &complaint {
            Complaint::Unknown { field, known } => {
                let is_named = |step: &KeyOrIndex| matches!(step, KeyOrIndex::Key(key) if key == field);
                if !steps.last().is_some_and(is_named) {
                    steps.push(KeyOrIndex::Key(field.clone()));
                }
                let path = self.path(&steps);
                self.record(FaultKind::Unknown, path, "unknown key".to_owned(), hint_for_unknown(field, known));
                self.take_out(&steps)
            }
            Complaint::Missing { field } => {
                steps.push(KeyOrIndex::Key(field.clone()));
                let path = self.path(&steps);
                self.record(FaultKind::Missing, path.clone(), REQUIRED.to_owned(), None);
                self.mended.entry(path).or_default();
                if !steps.iter().any(|step| matches!(step, KeyOrIndex::Index(_))) {
                    self.absent.push(steps.clone());
                }
                put(&mut self.tree, &steps, Value::Null)
            }
            Complaint::Wrong { .. } => self.wrong(&steps, &complaint),
        }
    }

    fn wrong(&mut self, steps: &[KeyOrIndex], complaint: &Complaint) -> bool {
        let path = self.path(steps);
        if let Some(reading) = self.readings.get_mut(&path).and_then(Option::take) {
            return put(&mut self.tree, steps, reading);
        }
        if complaint.hides_the_names() && !self.readings.contains_key(&path) {
            self.readings.insert(path, None);
            // An empty text makes serde list the names that it knows.
            return put(&mut self.tree, steps, Value::from(""));
        }
        let value = at(&self.tree, steps).cloned().unwrap_or_default();
        let message = complaint.message(&path, &value);
        // With two readings, the value has no single type that a hint could refer to.
        let hint = if self.readings.contains_key(&path) { None } else { complaint.hint(&path, &value) };
        self.record(FaultKind::Wrong, path, message, hint);
        self.mend(steps, complaint)
    }

    fn record(&mut self, kind: FaultKind, path: String, message: String, hint: Option<String>) {
        let is_consequence = self.mended.keys().any(|mended| is_within(&path, mended) || is_within(mended, &path));
        if !is_consequence {
            self.faults.push(Fault { kind, path, message, hint });
        }
    }

    /// Tries the default, then a stand-in of the expected type, then removal, then the same one level up.
    fn mend(&mut self, steps: &[KeyOrIndex], complaint: &Complaint) -> bool {
        let path = self.path(steps);
        loop {
            let attempts = self.mended.entry(path.clone()).or_default();
            *attempts += 1;
            let replacement = match *attempts {
                1 => at(self.defaults, steps).cloned(),
                // Twice, because only the second complaint about an enum lists its names.
                2 | 3 => complaint.stand_in(),
                4 if !steps.is_empty() => return self.take_out(steps),
                _ => break,
            };
            if let Some(replacement) = replacement {
                return put(&mut self.tree, steps, replacement);
            }
        }
        steps.split_last().is_some_and(|(_, parent)| self.mend(parent, &Complaint::expecting("")))
    }

    fn take_out(&mut self, steps: &[KeyOrIndex]) -> bool {
        if let Some((KeyOrIndex::Index(_), parent)) = steps.split_last() {
            let (list, index) = (self.path(parent), self.original_index(steps));
            self.dropped.entry(list).or_default().extend(index);
        }
        remove(&mut self.tree, steps)
    }

    /// The path as the author of the settings knows it: removed elements still count.
    fn path(&self, steps: &[KeyOrIndex]) -> String {
        let mut path = String::new();
        for (position, step) in steps.iter().enumerate() {
            path = match step {
                KeyOrIndex::Key(key) => child(&path, key),
                KeyOrIndex::Index(index) => {
                    let original = self.original_index(&steps[..=position]);
                    element(&path, original.unwrap_or(*index))
                }
            };
        }
        path
    }

    fn original_index(&self, steps: &[KeyOrIndex]) -> Option<usize> {
        let (KeyOrIndex::Index(index), parent) = steps.split_last()? else { return None };
        let dropped = self.dropped.get(&self.path(parent));
        (0..).filter(|original| dropped.is_none_or(|dropped| !dropped.contains(original))).nth(*index)
    }
}

/// A list in place of a group: `serde` would take its elements for the fields, in the order of the source code.
fn list_for_group<T: Serialize>(tree: &Value, settings: &T) -> Option<Vec<KeyOrIndex>> {
    fn search(given: &Value, read: &Value, steps: &mut Vec<KeyOrIndex>) -> bool {
        let mut descend = |step: KeyOrIndex, given: &Value, read: Option<&Value>| {
            steps.push(step);
            let is_found = read.is_some_and(|read| search(given, read, steps));
            if !is_found {
                steps.pop();
            }
            is_found
        };
        match (given, read) {
            (Value::Array(_), Value::Object(_)) => true,
            (Value::Object(given), Value::Object(read)) => {
                given.iter().any(|(key, value)| descend(KeyOrIndex::Key(key.clone()), value, read.get(key)))
            }
            (Value::Array(given), Value::Array(read)) => {
                given.iter().enumerate().any(|(index, value)| descend(KeyOrIndex::Index(index), value, read.get(index)))
            }
            _ => false,
        }
    }
    let mut steps = Vec::new();
    let read = serde_json::to_value(settings).ok()?;
    search(tree, &read, &mut steps).then_some(steps)
}

/// The part of the reported path that exists: the rest may come from a value, such as the name of a variant.
fn existing_steps(tree: &Value, path: &serde_path_to_error::Path) -> Vec<KeyOrIndex> {
    let mut steps = Vec::new();
    for segment in path {
        steps.push(match segment {
            Segment::Seq { index } => KeyOrIndex::Index(*index),
            Segment::Map { key } | Segment::Enum { variant: key } => KeyOrIndex::Key(key.clone()),
            Segment::Unknown => break,
        });
        if at(tree, &steps).is_none() {
            steps.pop();
            break;
        }
    }
    steps
}

fn at<'v>(tree: &'v Value, steps: &[KeyOrIndex]) -> Option<&'v Value> {
    steps.iter().try_fold(tree, |value, step| match step {
        KeyOrIndex::Key(key) => value.get(key),
        KeyOrIndex::Index(index) => value.get(index),
    })
}

fn at_mut<'v>(tree: &'v mut Value, steps: &[KeyOrIndex]) -> Option<&'v mut Value> {
    steps.iter().try_fold(tree, |value, step| match step {
        KeyOrIndex::Key(key) => value.get_mut(key),
        KeyOrIndex::Index(index) => value.get_mut(index),
    })
}

fn put(tree: &mut Value, steps: &[KeyOrIndex], value: Value) -> bool {
    if let Some((KeyOrIndex::Key(key), parent)) = steps.split_last()
        && let Some(Value::Object(map)) = at_mut(tree, parent)
    {
        map.insert(key.clone(), value);
        return true;
    }
    at_mut(tree, steps).map(|place| *place = value).is_some()
}

fn remove(tree: &mut Value, steps: &[KeyOrIndex]) -> bool {
    let Some((last, parent)) = steps.split_last() else { return false };
    match (at_mut(tree, parent), last) {
        (Some(Value::Object(map)), KeyOrIndex::Key(key)) => map.remove(key).is_some(),
        (Some(Value::Array(list)), KeyOrIndex::Index(index)) if *index < list.len() => {
            list.remove(*index);
            true
        }
        _ => false,
    }
}

fn count(value: &Value) -> usize {
    match value {
        Value::Object(map) => 1 + map.values().map(count).sum::<usize>(),
        Value::Array(list) => 1 + list.iter().map(count).sum::<usize>(),
        _ => 1,
    }
}
