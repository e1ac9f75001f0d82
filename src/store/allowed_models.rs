//! Which models may a key, or a group, be used for?
use std::sync::Arc;

use protocol::ModelName;

/// The models that a key, or a group, may ask for, by the names that nodes list or by the operator's aliases, matched as Ollama matches
/// names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedModels(Arc<[String]>);

impl AllowedModels {
    /// Allows exactly these names.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().collect())
    }

    /// The names, as the operator gave them.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// As the database has them.
    pub(super) fn to_text(&self) -> String {
        serde_json::json!(self.names()).to_string()
    }

    /// Whether `name` is among them.
    pub fn allow(&self, name: &str) -> bool {
        self.0.iter().any(|allowed| ModelName::same(allowed, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_allowed_with_and_without_its_usual_tag() {
        let models = AllowedModels::new(["llama3.2".to_owned(), "llava:latest".to_owned(), "qwen3:8b".to_owned()]);
        for good in ["llama3.2", "llama3.2:latest", "llava", "llava:latest", "qwen3:8b", "LLAMA3.2"] {
            assert!(models.allow(good), "{good}");
        }
        for bad in ["llama3.2:1b", "llama3", "qwen3", "qwen3:8", "", ":latest"] {
            assert!(!models.allow(bad), "{bad}");
        }
        assert!(!AllowedModels::new([]).allow("llama3.2"));
    }
}
