//! What does a node list in `/api/tags` and `/api/ps`? Read entry by entry, so that an odd entry does not hide the
//! others; members that the gateway can do without may have any type.
use std::collections::BTreeSet;

use serde_json::Value;
use serde_json::value::RawValue;

use super::json::Object;

/// The most entries that are read.
pub const MAX_LISTED: usize = 10_000;
/// The longest name, in characters.
const MAX_NAME: usize = 256;
/// The longest entry, in bytes.
const MAX_ENTRY: usize = 64 * 1024;

/// A listing, as far as it could be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing<T> {
    /// One entry for each name, in the node's order.
    pub entries: Vec<T>,
    /// Entries left out: without a usable name, duplicate, too large, or too many.
    pub skipped: usize,
}

/// A model on a node's disk.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedModel {
    /// Printable and at most 256 characters.
    pub name: String,
    /// In bytes; zero if the node does not say.
    pub size_bytes: u64,
    /// Digest of the manifest, which covers the weights and everything else; empty if the node does not say.
    pub digest: String,
    /// In RFC 3339, unchecked; empty if the node does not say.
    pub modified_at: String,
    /// Such as `llama`; empty if the node does not say.
    pub family: String,
    /// Whether it runs on a remote service.
    pub is_remote: bool,
    /// The entry as the node sent it, which is valid JSON. As text, because its value takes several times the memory.
    pub said: Box<str>,
}

/// A model in a node's memory.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedProcess {
    /// Printable and at most 256 characters.
    pub name: String,
    /// In bytes, over all memories; zero if the node does not say.
    pub size_bytes: u64,
    /// Bytes on the GPUs; zero also if there are none.
    pub vram_bytes: u64,
    /// The context length in tokens; `None` if the node does not say.
    pub context_length: Option<u64>,
    /// See [`ListedModel`].
    pub digest: String,
    /// The entry as the node sent it, which is valid JSON. As text, because its value takes several times the memory.
    pub said: Box<str>,
}

/// Reads the answer to `/api/tags`.
///
/// # Errors
/// Why the body is not a listing.
pub fn listed_models(body: &[u8]) -> Result<Listing<ListedModel>, String> {
    entries(body, |name, entry, value, said| ListedModel {
        name,
        size_bytes: number(entry, "size").unwrap_or(0),
        digest: word(entry, "digest"),
        modified_at: word(entry, "modified_at"),
        family: value
            .pointer("/details/family")
            .and_then(Value::as_str)
            .filter(|text| is_printable(text))
            .unwrap_or_default()
            .to_owned(),
        is_remote: entry.present("remote_host").is_some_and(|host| host.get() != "\"\""),
        said,
    })
}

/// Reads the answer to `/api/ps`.
///
/// # Errors
/// Why the body is not a listing.
pub fn listed_processes(body: &[u8]) -> Result<Listing<ListedProcess>, String> {
    entries(body, |name, entry, _, said| ListedProcess {
        name,
        size_bytes: number(entry, "size").unwrap_or(0),
        vram_bytes: number(entry, "size_vram").unwrap_or(0),
        context_length: number(entry, "context_length"),
        digest: word(entry, "digest"),
        said,
    })
}

/// Reads one after the other: `read` gets the name, the members, the value and the text.
fn entries<T>(body: &[u8], read: impl Fn(String, &Object<'_>, &Value, Box<str>) -> T) -> Result<Listing<T>, String> {
    let listing = Object::parse(body).map_err(|error| format!("the listing is not a JSON object: {error}"))?;
    let Some(models) = listing.present("models") else { return Ok(Listing { entries: Vec::new(), skipped: 0 }) };
    let models: Vec<&RawValue> = serde_json::from_str(models.get()).map_err(|_| "`models` is not a list".to_owned())?;
    let mut names = BTreeSet::new();
    let mut entries = Vec::new();
    for raw in models.iter().take(MAX_LISTED) {
        let entry = Object::parse(raw.get().as_bytes()).ok().filter(|_| raw.get().len() <= MAX_ENTRY);
        // What serde cannot hold, such as deep nesting, clients could not read either.
        let value = serde_json::from_str(raw.get()).ok();
        if let Some((entry, value)) = entry.zip(value)
            && let Some(name) = name_of(&entry)
            && names.insert(name.clone())
        {
            entries.push(read(name, &entry, &value, raw.get().into()));
        }
    }
    let skipped = models.len() - entries.len();
    debug_assert!(entries.len() <= MAX_LISTED && names.len() == entries.len(), "a listing is bounded");
    Ok(Listing { entries, skipped })
}

/// Ollama gives the name twice, as `name` and as `model`.
fn name_of(entry: &Object<'_>) -> Option<String> {
    let names =
        ["name", "model"].into_iter().filter_map(|key| serde_json::from_str::<String>(entry.present(key)?.get()).ok());
    names.into_iter().find(|name| !name.is_empty() && is_printable(name))
}

/// Whether a text fits on one line: short enough, and only visible characters.
fn is_printable(text: &str) -> bool {
    // Characters that change the direction of the text or are invisible.
    let is_hidden = |letter| matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    text.chars().count() <= MAX_NAME && !text.chars().any(|letter| letter.is_control() || is_hidden(letter))
}

/// A whole number of at least zero.
fn number(entry: &Object<'_>, key: &str) -> Option<u64> {
    entry.present(key)?.get().parse().ok()
}

/// A short text; empty if there is none.
fn word(entry: &Object<'_>, key: &str) -> String {
    let text = entry.present(key).and_then(|value| serde_json::from_str::<String>(value.get()).ok());
    text.filter(|text| is_printable(text)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models(entries: &str) -> Listing<ListedModel> {
        listed_models(format!(r#"{{"models":[{entries}]}}"#).as_bytes()).unwrap()
    }

    #[test]
    fn a_listing_of_ollama_is_read() {
        let tag = r#"{"name":"a:latest","model":"a:latest","modified_at":"2026-01-01T00:00:00Z","size":5,"digest":"d","details":{"family":"llama"}}"#;
        let listing = models(tag);
        assert_eq!((listing.entries.len(), listing.skipped), (1, 0));
        let ListedModel { name, size_bytes, digest, modified_at, family, is_remote, said } = &listing.entries[0];
        assert_eq!((name.as_str(), *size_bytes, digest.as_str(), family.as_str()), ("a:latest", 5, "d", "llama"));
        assert_eq!((modified_at.as_str(), *is_remote, &**said), ("2026-01-01T00:00:00Z", false, tag));
        let ps = br#"{"models":[{"name":"a","size":9,"size_vram":0,"context_length":4096}]}"#;
        let process = &listed_processes(ps).unwrap().entries[0];
        assert_eq!((process.size_bytes, process.vram_bytes, process.context_length), (9, 0, Some(4096)));
        assert!(models(r#"{"name":"a","remote_host":"https://ollama.com"}"#).entries[0].is_remote);
    }

    #[test]
    fn an_odd_entry_hides_no_other_and_no_node() {
        for odd in [
            r#"{"name":"odd","size":null,"digest":null,"modified_at":null,"details":null}"#,
            r#"{"name":"odd","size":-1,"digest":7,"modified_at":[],"details":"x"}"#,
            r#"{"name":"odd","size":1.5,"details":{"family":{}}}"#,
            r#"{"name":"odd","size":"5","size_vram":-1,"context_length":1e3}"#,
            r#"{"name":null,"model":"odd"}"#,
        ] {
            let listing = models(&format!(r#"{odd},{{"name":"good","size":5}}"#));
            let names: Vec<&str> = listing.entries.iter().map(|model| model.name.as_str()).collect();
            assert_eq!((names.as_slice(), listing.skipped), (&["odd", "good"][..], 0), "{odd}");
            assert_eq!((listing.entries[0].size_bytes, listing.entries[0].digest.as_str()), (0, ""), "{odd}");
            assert_eq!(
                listed_processes(format!(r#"{{"models":[{odd}]}}"#).as_bytes()).unwrap().entries.len(),
                1,
                "{odd}"
            );
        }
        for odd in
            ["null", "7", "[]", "{}", r#"{"name":7}"#, r#"{"name":""}"#, r#"{"name":"a\nb"}"#, r#"{"name":"a\u202eb"}"#]
        {
            let listing = models(&format!(r#"{odd},{{"name":"good"}}"#));
            assert_eq!((listing.entries.len(), listing.skipped), (1, 1), "{odd}");
        }
    }

    #[test]
    fn a_listing_has_bounds() {
        let many: Vec<String> = (0..10_500).map(|at| format!(r#"{{"name":"m{at}"}}"#)).collect();
        let listing = models(&many.join(","));
        assert_eq!((listing.entries.len(), listing.skipped), (10_000, 500));
        let long = format!(r#"{{"name":"{}"}},{{"name":"{}"}}"#, "é".repeat(256), "é".repeat(257));
        assert_eq!((models(&long).entries.len(), models(&long).skipped), (1, 1));
        let large = format!(r#"{{"name":"a","x":"{}"}}"#, "x".repeat(MAX_ENTRY));
        assert_eq!(models(&large).skipped, 1);
        assert_eq!(models(r#"{"name":"a"},{"name":"a"}"#).skipped, 1);
    }

    #[test]
    fn what_is_no_listing_is_an_error_and_an_empty_one_is_none() {
        for body in ["", "[]", "7", r#"{"models":7}"#, r#"{"models":{}}"#] {
            assert!(listed_models(body.as_bytes()).is_err(), "{body}");
        }
        for body in ["{}", r#"{"models":null}"#, r#"{"models":[]}"#] {
            assert!(listed_models(body.as_bytes()).unwrap().entries.is_empty(), "{body}");
        }
    }
}
