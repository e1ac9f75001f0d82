//! What does a node say of one model, in its own words?
use serde_json::Value;

/// One entry of a node's list. Kept as text, because its value takes several times the memory, with an allocation for
/// every member: a node may list thousands of models, and clients rarely ask for them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Said {
    name: Box<str>,
    text: Box<str>,
}

impl Said {
    /// An entry with its member `name`.
    pub(crate) fn new(entry: &Value) -> Self {
        Self { name: entry["name"].as_str().unwrap_or_default().into(), text: entry.to_string().into() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The entry, read anew.
    pub(crate) fn value(&self) -> Value {
        // It was written from a value, so it can be read as one.
        serde_json::from_str(&self.text).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_node_says_takes_the_memory_of_its_text_and_is_read_as_it_was() {
        let entry = json!({"name": "m", "details": {"families": vec![[(); 0]; 10_000]}});
        let said = Said::new(&entry);
        let kept = size_of::<Said>() + said.name.len() + said.text.len();
        assert!(kept < entry.to_string().len() + 50, "{kept} bytes");
        assert_eq!((said.name(), said.value()), ("m", entry));
        assert_eq!(Said::new(&json!(null)).name(), "");
    }
}
