//! Which source gave each setting, and how is a mistake in it shown?

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::yaml::{child, element, is_within};

/// The source of everything that neither the file nor the environment gave.
pub(super) const DEFAULTS: &str = "defaults";

/// One mistake in the configuration, shown as `gateway.yaml:12: nodes[1].slots: expected a list (hint)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The name of the file, the name of the environment variable, or `defaults`.
    pub source: String,
    /// The line in the file, counted from 1; absent for other sources.
    pub line: Option<usize>,
    /// The key, such as `nodes[1].slots`; empty if the mistake concerns no key.
    pub path: String,
    /// What is wrong; never contains a value that may be secret.
    pub message: String,
    /// How to correct it.
    pub hint: Option<String>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:", self.source)?;
        if let Some(line) = self.line {
            write!(formatter, "{line}:")?;
        }
        if !self.path.is_empty() {
            write!(formatter, " {}:", self.path)?;
        }
        write!(formatter, " {}", self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(formatter, " ({hint})"))
    }
}

impl std::error::Error for Mistake {}

/// The source of one value.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub source: String,
    /// Starts at 1; absent unless the source is a file.
    pub line: Option<usize>,
}

/// The source of every path that has a value.
pub(super) struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Everything comes from the defaults.
    pub fn of_defaults(defaults: &Value) -> Self {
        let mut origins = Self(BTreeMap::new());
        origins.overlay("", defaults, &|_| Origin { source: DEFAULTS.to_owned(), line: None });
        origins
    }

    /// Records that a group at `path` exists because of something below it.
    pub fn open(&mut self, path: &str, origin: Origin) {
        self.0.insert(path.to_owned(), origin);
    }

    /// Records that `value` was merged in at `path`.
    pub fn overlay(&mut self, path: &str, value: &Value, origin: &dyn Fn(&str) -> Origin) {
        if !value.is_object() {
            self.0.retain(|known, _| !is_within(known, path));
        }
        self.0.insert(path.to_owned(), origin(path));
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| self.overlay(&child(path, key), value, origin)),
            Value::Array(list) => {
                list.iter().enumerate().for_each(|(index, item)| self.overlay(&element(path, index), item, origin));
            }
            _ => {}
        }
    }

    /// The origin of `path`, or of the nearest group or list around it.
    pub fn of(&self, path: &str) -> Origin {
        let mut path = path;
        loop {
            if let Some(origin) = self.0.get(path) {
                return origin.clone();
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None if path.is_empty() => return Origin { source: DEFAULTS.to_owned(), line: None },
                None => path = "",
            }
        }
    }

    /// A mistake in the value at `path`.
    pub fn mistake(&self, path: &str, message: String, hint: Option<String>) -> Mistake {
        let Origin { source, line } = self.of(path);
        Mistake { source, line, path: path.to_owned(), message, hint }
    }
}
