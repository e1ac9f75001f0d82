//! When do two model names mean the same?
//!
//! A name without a tag means `:latest`, as in Ollama; apart from that, names
//! are compared as given.

const DEFAULT_TAG: &str = ":latest";

/// A name, and the one other spelling that means the same.
pub(super) struct Name<'a> {
    pub(super) given: &'a str,
    pub(super) other: Option<String>,
}

impl<'a> Name<'a> {
    pub(super) fn new(given: &'a str) -> Self {
        let other = if is_tagged(given) {
            given.strip_suffix(DEFAULT_TAG).filter(|bare| !is_tagged(bare)).map(str::to_owned)
        } else {
            Some([given, DEFAULT_TAG].concat())
        };
        Self { given, other }
    }
}

/// A colon before the last slash belongs to a registry's port.
fn is_tagged(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.contains(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(name: &str) -> Option<String> {
        Name::new(name).other
    }

    #[test]
    fn a_name_without_a_tag_means_latest() {
        assert_eq!(other("llama3").as_deref(), Some("llama3:latest"));
        assert_eq!(other("llama3:latest").as_deref(), Some("llama3"));
        assert_eq!(other("host:5000/llama3").as_deref(), Some("host:5000/llama3:latest"));
        assert_eq!(other("host:5000/llama3:latest").as_deref(), Some("host:5000/llama3"));
    }

    #[test]
    fn a_name_with_another_tag_means_itself_only() {
        assert_eq!(other("llama3:8b"), None);
        assert_eq!(other("a:b:latest"), None);
    }
}
