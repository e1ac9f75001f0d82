//! What is wrong with a setting, or with the file that it names?
use std::fmt;

/// A setting that cannot be used. The message never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// The setting's name within its group, such as `ca_file` of a node.
    pub key: &'static str,
    /// What is wrong with it.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: &'static str,
}

impl Flaw {
    pub(crate) fn new(key: &'static str, message: impl Into<String>, hint: &'static str) -> Self {
        Self { key, message: message.into(), hint }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.key, self.message)
    }
}
