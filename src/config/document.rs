//! How do the defaults, a strict YAML file and `GATEWAY__*` variables become one value, and which of them gave which
//! part?
//!
//! Later sources win: defaults, then the file, then the environment. Every mistake in any of them is found at once,
//! with its place. No message contains a value that may be secret.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use figment::Figment;
use figment::providers::Serialized;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

mod complaint;
mod environment;
mod faults;
mod origin;
mod renamed;
#[cfg(test)]
mod tests;
mod yaml;

use environment::Variable;
use faults::{FaultKind, Findings, examine};
use origin::{DEFAULTS, Origin, Origins};
use yaml::{child, is_within};

pub use environment::PREFIX;
pub use origin::Mistake;
pub use renamed::Renamed;

/// A configuration without mistakes, and the source of each part.
pub struct Document<T> {
    /// The merged settings.
    pub value: T,
    origins: Origins,
    overrides: Vec<String>,
    notes: Vec<Mistake>,
}

impl<T> Document<T> {
    /// Hints that are no mistakes: settings that are still given under their old names.
    pub fn notes(&self) -> &[Mistake] {
        &self.notes
    }

    /// The source of the value at `path`, and the line if the source is the file. If nobody gave that path, the source
    /// of the nearest group or list around it.
    pub fn locate(&self, path: &str) -> (String, Option<usize>) {
        let origin = self.origins.of(path);
        (origin.source, origin.line)
    }

    /// A mistake that the caller found in a readable value; `message` and `hint` must not contain secrets.
    pub fn mistake(&self, path: &str, message: impl Into<String>, hint: Option<String>) -> Mistake {
        self.origins.mistake(path, message.into(), hint)
    }

    /// The names of the environment variables that were used, sorted.
    pub fn overrides(&self) -> &[String] {
        &self.overrides
    }
}

// Not derived, because the value may contain secrets.
impl<T> fmt::Debug for Document<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Document").field("overrides", &self.overrides).finish_non_exhaustive()
    }
}

/// Merges the defaults of `T`, the file (its name for messages, and its text) and the variables that start with
/// [`PREFIX`]. `check` then checks the whole for what types cannot express. Settings in `renamed` may be given under
/// their old names.
///
/// # Errors
/// Every mistake of every source: those of the file in the order of its lines, then those of the environment.
pub fn load<T: Serialize + DeserializeOwned + Default>(
    file: Option<(&str, &str)>,
    environment: impl IntoIterator<Item = (String, String)>,
    renamed: &[Renamed],
    check: impl FnOnce(&Document<T>) -> Vec<Mistake>,
) -> Result<Document<T>, Vec<Mistake>> {
    let defaults = layer(&Value::Object(Map::new()), &T::default()).map_err(|mistake| vec![mistake])?;
    let mut loading = Loading::new(defaults, renamed);
    if let Some((name, text)) = file {
        loading.read_file::<T>(name, text);
    }
    loading.read_environment(environment);
    let value = loading.finish::<T>();

    let Loading { mut mistakes, origins, variables, notes, .. } = loading;
    let overrides = variables.into_iter().map(|variable| variable.name).collect::<BTreeSet<_>>();
    let document = value.map(|value| Document { value, origins, overrides: overrides.into_iter().collect(), notes });
    if let Some(document) = &document {
        // Where a mistake was mended, the checks do not see what was written.
        let found = check(document).into_iter().filter(|found| !mistakes.iter().any(|known| hides(known, found)));
        let found: Vec<Mistake> = found.collect();
        mistakes.extend(found);
    }
    match document {
        Some(document) if mistakes.is_empty() => Ok(document),
        _ => {
            let file = file.map(|(name, _)| name);
            mistakes.sort_by_cached_key(|mistake| {
                let other = Some(mistake.source.clone()).filter(|source| Some(source.as_str()) != file);
                (other, mistake.line)
            });
            Err(mistakes)
        }
    }
}

/// Whether `found` may only be a consequence of `known`: at or around the same place, or in a list from which an
/// incomplete entry was removed.
fn hides(known: &Mistake, found: &Mistake) -> bool {
    let list = found.path.split_once('[').map(|(list, _)| list);
    let incomplete = known.path.contains('[') && known.message == faults::REQUIRED;
    is_within(&found.path, &known.path)
        || is_within(&known.path, &found.path)
        || (incomplete && list.is_some_and(|list| is_within(&known.path, list)))
}

/// The state between two sources.
struct Loading<'a> {
    renamed: &'a [Renamed],
    defaults: Value,
    /// Everything merged so far. Mistakes of the file are mended here, so that they do not hide mistakes of the
    /// environment.
    tree: Value,
    origins: Origins,
    variables: Vec<Variable>,
    mistakes: Vec<Mistake>,
    notes: Vec<Mistake>,
}

impl<'a> Loading<'a> {
    fn new(defaults: Value, renamed: &'a [Renamed]) -> Self {
        let origins = Origins::of_defaults(&defaults);
        let (variables, mistakes, notes) = (Vec::new(), Vec::new(), Vec::new());
        Self { renamed, tree: defaults.clone(), defaults, origins, variables, mistakes, notes }
    }

    fn read_file<T: Serialize + DeserializeOwned>(&mut self, name: &str, text: &str) {
        let yaml::Tree { mut tree, mut lines, flaws } = yaml::read(text);
        let (notes, conflicts) = renamed::of_file(self.renamed, name, &mut tree, &mut lines);
        self.notes.extend(notes);
        self.mistakes.extend(conflicts);
        let tree = Value::Object(tree);
        self.origins.overlay("", &tree, &|path| Origin { source: name.to_owned(), line: lines.get(path).copied() });
        let merged = self.merged(&tree);
        let Findings { value, tree, faults } = examine::<T>(merged, &self.defaults, BTreeMap::new());
        for fault in faults {
            // The environment may still supply a missing value, but never a part of a list.
            let may_follow = fault.kind == FaultKind::Missing && !fault.path.contains('[');
            let is_consequence = flaws.iter().any(|flaw| !flaw.path.is_empty() && is_within(&fault.path, &flaw.path));
            if !may_follow && !is_consequence {
                self.mistakes.push(self.origins.mistake(&fault.path, fault.message, fault.hint));
            }
        }
        for flaw in flaws {
            let (source, line, hint) = (name.to_owned(), Some(flaw.line), flaw.hint.map(str::to_owned));
            self.mistakes.push(Mistake { source, line, path: flaw.path, message: flaw.message, hint });
        }
        self.tree = if value.is_some() { tree } else { self.defaults.clone() };
    }

    fn read_environment(&mut self, environment: impl IntoIterator<Item = (String, String)>) {
        let mut variables = Vec::new();
        for (name, raw) in environment.into_iter().filter(|(name, _)| name.starts_with(PREFIX)) {
            match Variable::read(name, raw) {
                Ok(variable) => variables.push(variable),
                Err(mistake) => self.mistakes.push(mistake),
            }
        }
        let (notes, conflicts) = renamed::of_variables(self.renamed, &mut variables);
        self.notes.extend(notes);
        self.mistakes.extend(conflicts);
        // Groups come before their members, so that the more specific variable wins.
        variables.sort_by(|left, right| (left.keys.len(), &left.name).cmp(&(right.keys.len(), &right.name)));
        for variable in variables {
            match variable.obstacle(&self.tree) {
                Some(mistake) => self.mistakes.push(mistake),
                None => self.apply(variable),
            }
        }
    }

    fn apply(&mut self, variable: Variable) {
        let origin = Origin { source: variable.name.clone(), line: None };
        let mut path = String::new();
        let mut group = Some(&self.tree);
        for key in &variable.keys[..variable.keys.len() - 1] {
            path = child(&path, key);
            group = group.and_then(|group| group.get(key));
            if !group.is_some_and(Value::is_object) {
                self.origins.open(&path, origin.clone());
            }
        }
        self.origins.overlay(&variable.path, &variable.value, &|_| origin.clone());
        let nested = variable.keys.iter().rev().fold(variable.value.clone(), |value, key| {
            let entry = (key.clone(), value);
            Value::Object(Map::from_iter([entry]))
        });
        self.tree = self.merged(&nested);
        self.variables.push(variable);
    }

    /// Reads the merged tree. Anything wrong with it now comes from the environment, or is missing altogether.
    fn finish<T: Serialize + DeserializeOwned>(&mut self) -> Option<T> {
        let as_written = |variable: &Variable| (variable.path.clone(), Value::String(variable.raw.clone()));
        let is_ambiguous = |variable: &&Variable| !variable.value.is_string();
        let readings = self.variables.iter().filter(is_ambiguous).map(as_written).collect();
        let findings = examine::<T>(std::mem::take(&mut self.tree), &self.defaults, readings);
        let known = environment::names(&self.defaults);
        for fault in findings.faults {
            let culprits = self.variables.iter().filter(|variable| variable.is_to_blame_for(&fault));
            let found: Vec<_> = culprits.map(|variable| variable.mistake(&fault, &known)).collect();
            if found.is_empty() {
                self.mistakes.push(self.origins.mistake(&fault.path, fault.message, fault.hint));
            }
            self.mistakes.extend(found);
        }
        if findings.value.is_none() && self.mistakes.is_empty() {
            let message = "the settings cannot be read".to_owned();
            self.mistakes.push(self.origins.mistake("", message, None));
        }
        findings.value
    }

    fn merged(&mut self, above: &Value) -> Value {
        layer(&self.tree, above).unwrap_or_else(|mistake| {
            self.mistakes.push(mistake);
            self.tree.clone()
        })
    }
}

/// Merges by figment's rules: groups key by key, everything else as a whole.
fn layer(below: &Value, above: &impl Serialize) -> Result<Value, Mistake> {
    let figment = Figment::from(Serialized::defaults(below)).merge(Serialized::defaults(above));
    // figment's own message is dropped, because it contains the value.
    figment.extract().map_err(|_| Mistake {
        source: DEFAULTS.to_owned(),
        line: None,
        path: String::new(),
        message: "the settings are not a group of keys and values".to_owned(),
        hint: None,
    })
}
