//! What does one `GATEWAY__*` variable set?

use serde_json::Value;

use super::complaint::nearest;
use super::faults::{Fault, FaultKind};
use super::origin::Mistake;
use super::yaml::{child, is_within};

/// The prefix of all variables that set something.
pub const PREFIX: &str = "GATEWAY__";

/// An environment variable that sets something.
pub(super) struct Variable {
    pub name: String,
    pub keys: Vec<String>,
    pub path: String,
    pub raw: String,
    /// The value as JSON if the text is valid JSON, otherwise the text itself.
    pub value: Value,
    /// What is wrong with text that looks like JSON.
    broken: Option<String>,
}

impl Variable {
    /// Splits the name into keys, and parses the value as JSON if possible.
    pub fn read(name: String, raw: String) -> Result<Self, Mistake> {
        let keys: Vec<String> = name[PREFIX.len()..].split("__").map(str::to_lowercase).collect();
        let mistake = |message: &str, hint| {
            Err(Mistake { source: name.clone(), line: None, path: String::new(), message: message.to_owned(), hint })
        };
        let upper = name.to_uppercase();
        if upper != name {
            return mistake("the name must be in upper case", Some(format!("write `{upper}`")));
        }
        if keys.iter().any(String::is_empty) {
            return mistake("the name has an empty level", Some(format!("such as `{PREFIX}SERVER__BIND`")));
        }
        let path = keys.join(".");
        let (value, broken) = match serde_json::from_str(&raw) {
            Ok(value) => (value, None),
            Err(error) => {
                let looks_like_json = raw.trim_start().starts_with(['[', '{']);
                (Value::String(raw.clone()), looks_like_json.then(|| error.to_string()))
            }
        };
        Ok(Self { name, keys, path, raw, value, broken })
    }

    /// Why the variable cannot be put into `tree`: something above it is not a group.
    pub fn obstacle(&self, tree: &Value) -> Option<Mistake> {
        let mut group = tree;
        for (depth, key) in self.keys.iter().enumerate() {
            let above = self.keys[..depth].join(".");
            let (message, hint) = match group {
                Value::Object(_) => {
                    group = group.get(key)?;
                    continue;
                }
                Value::Null => return None,
                Value::Array(_) => {
                    let list = format!("{PREFIX}{}", self.keys[..depth].join("__").to_uppercase());
                    let hint = format!("give the whole list as JSON: {list}='[…]'");
                    (format!("`{above}` is a list, whose elements cannot be set one by one"), Some(hint))
                }
                _ => (format!("`{above}` is a single setting, not a group of settings"), None),
            };
            return Some(Mistake { source: self.name.clone(), line: None, path: self.path.clone(), message, hint });
        }
        None
    }

    /// Whether the fault is in what this variable set.
    pub fn is_to_blame_for(&self, fault: &Fault) -> bool {
        fault.path == self.path || fault.kind == FaultKind::Unknown && is_within(&self.path, &fault.path)
    }

    /// The fault, restated for this variable; `known` are the names of existing variables, without the prefix.
    pub fn mistake(&self, fault: &Fault, known: &[String]) -> Mistake {
        let (mut message, mut hint) = (fault.message.clone(), fault.hint.clone());
        if let Some(error) = &self.broken {
            message = format!("{message}, and the value is not valid JSON: {error}");
        } else if message == "expected a list" {
            hint = Some(format!("give it as JSON: {}='[…]'", self.name));
        }
        if fault.kind == FaultKind::Unknown {
            let name = nearest(&self.name[PREFIX.len()..], known.iter().map(String::as_str));
            hint = name.map(|name| format!("did you mean `{PREFIX}{name}`?")).or(hint);
        }
        Mistake { source: self.name.clone(), line: None, path: fault.path.clone(), message, hint }
    }
}

/// The names, without the prefix, of all variables that could set something in `settings`.
pub(super) fn names(settings: &Value) -> Vec<String> {
    fn collect(group: &Value, path: &str, names: &mut Vec<String>) {
        for (key, value) in group.as_object().into_iter().flatten() {
            let path = child(path, key);
            names.push(path.to_uppercase().replace('.', "__"));
            collect(value, &path, names);
        }
    }
    let mut found = Vec::new();
    collect(settings, "", &mut found);
    found
}
