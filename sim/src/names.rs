//! Which names mean the same model? Read as in Ollama's `types/model/name.go`: host, namespace, model and tag, with
//! defaults for missing parts and without regard to case.

const DEFAULT_HOST: &str = "registry.ollama.ai";
const DEFAULT_NAMESPACE: &str = "library";
const DEFAULT_TAG: &str = "latest";

/// A model's name in its four parts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelName<'a> {
    host: &'a str,
    namespace: &'a str,
    model: &'a str,
    tag: &'a str,
}

impl<'a> ModelName<'a> {
    /// The parts of a name in a request; `None` if Ollama calls the name invalid.
    pub(crate) fn parse(name: &'a str) -> Option<Self> {
        let (path, tag) = split_tag(name.trim());
        let mut segments = path.rsplitn(3, '/');
        let model = segments.next().unwrap_or_default();
        let namespace = segments.next().unwrap_or(DEFAULT_NAMESPACE);
        let host = segments.next().unwrap_or(DEFAULT_HOST);
        let host = host.split_once("://").map_or(host, |(_, host)| host);
        let name = Self { host, namespace, model, tag: tag.unwrap_or(DEFAULT_TAG) };
        name.is_valid().then_some(name)
    }

    /// Whether both mean the same model.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.host.eq_ignore_ascii_case(other.host)
            && self.namespace.eq_ignore_ascii_case(other.namespace)
            && self.model.eq_ignore_ascii_case(other.model)
            && self.tag.eq_ignore_ascii_case(other.tag)
    }

    fn is_valid(&self) -> bool {
        let is_part = |part: &str, most: usize, marks: &[char]| {
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            (1..=most).contains(&part.len())
                && part.starts_with(word)
                && part.chars().all(|c| word(c) || c == '-' || marks.contains(&c))
        };
        is_part(self.host, 350, &['.', ':'])
            && is_part(self.namespace, 80, &[])
            && is_part(self.model, 80, &['.'])
            && is_part(self.tag, 80, &['.'])
    }
}

/// A name with its tag, which is `latest` if it has none.
pub(crate) fn with_tag(name: &str) -> String {
    if split_tag(name).1.is_some() { name.to_owned() } else { format!("{name}:{DEFAULT_TAG}") }
}

/// A name without `:local`, by which a request insists on a model on the node itself.
pub(crate) fn without_source(name: &str) -> &str {
    let suffix = name.len().checked_sub(":local".len()).and_then(|at| name.split_at_checked(at));
    suffix.filter(|(_, suffix)| suffix.eq_ignore_ascii_case(":local")).map_or(name, |(name, _)| name)
}

/// A colon before the last slash belongs to the host.
fn split_tag(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_same(one: &str, other: &str) -> bool {
        ModelName::parse(one).unwrap().is_same(&ModelName::parse(other).unwrap())
    }

    #[test]
    fn defaults_and_case_make_no_difference() {
        for name in [
            "llama3.2",
            "Llama3.2",
            "llama3.2:LATEST",
            "library/llama3.2",
            "registry.ollama.ai/library/llama3.2:latest",
            "https://Registry.Ollama.ai/Library/llama3.2",
            " llama3.2 ",
        ] {
            assert!(is_same(name, "llama3.2:latest"), "{name}");
        }
        for name in ["llama3.2:1b", "mine/llama3.2", "example.com/library/llama3.2", "llama3"] {
            assert!(!is_same(name, "llama3.2:latest"), "{name}");
        }
    }

    #[test]
    fn a_port_is_no_tag() {
        assert!(is_same("example.com:5000/a/b", "example.com:5000/a/b:latest"));
        assert_eq!(with_tag("example.com:5000/a/b"), "example.com:5000/a/b:latest");
    }

    #[test]
    fn other_names_are_invalid() {
        for name in ["", ":", "a:", "/a", "a//b", "-a", "a b", "a.b/c", "é", &"x".repeat(81)] {
            assert!(ModelName::parse(name).is_none(), "{name}");
        }
    }

    #[test]
    fn only_the_suffix_local_is_cut() {
        assert_eq!(without_source("a:1b:Local"), "a:1b");
        assert_eq!(without_source("a:1b"), "a:1b");
        assert_eq!(without_source("é"), "é");
    }
}
