//! When do two model names mean the same model? A name without a tag means `:latest`, as in Ollama; otherwise names are
//! compared as given.

use std::borrow::Cow;

const DEFAULT_TAG: &str = ":latest";

/// The name with its tag.
pub(crate) fn canonical(given: &str) -> Cow<'_, str> {
    // A colon before the last slash belongs to a registry's port.
    let last = given.rsplit('/').next().unwrap_or(given);
    if last.contains(':') { Cow::Borrowed(given) } else { Cow::Owned([given, DEFAULT_TAG].concat()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_tag_means_latest_and_another_means_itself() {
        assert_eq!(canonical("llama3"), "llama3:latest");
        assert_eq!(canonical("llama3:latest"), "llama3:latest");
        assert_eq!(canonical("host:5000/llama3"), "host:5000/llama3:latest");
        assert_eq!(canonical("llama3:8b"), "llama3:8b");
        assert_eq!(canonical("a:b:latest"), "a:b:latest");
    }
}
