//! What is wrong with a node's settings?
use std::fmt;

/// A setting of a node that cannot be used. The message never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// The setting's name.
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
