//! What is wrong with a setting of TLS, or with the file that it names?

/// A setting of TLS that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFlaw {
    /// The setting's name.
    pub key: &'static str,
    /// What is wrong with it.
    pub message: String,
    /// What to do about it.
    pub hint: &'static str,
}

impl TlsFlaw {
    pub(super) fn new(key: &'static str, message: impl Into<String>, hint: &'static str) -> Self {
        Self { key, message: message.into(), hint }
    }
}
