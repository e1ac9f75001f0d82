//! What does a node list, for the scheduler and for clients of Ollama's API? Pure.
//!
//! Entries are read one by one, within the bounds of [`protocol::listed_models`]. Members that clients expect of an
//! entry are filled in if they are missing or of the wrong type.
use std::collections::BTreeMap;

use protocol::{ListedModel, ListedProcess, MAX_LISTED, ModelName, listed_models, listed_processes};
use scheduler::{Loaded, Model};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const LONGEST_NAME: usize = 256;
const LONGEST_FIELD: usize = 256;
/// The largest number of bytes or tokens accepted: about a petabyte.
const MOST: u64 = 1 << 50;
/// The size that is assumed for a model if its node does not report one: that of the model that costs are based on.
const UNKNOWN_BYTES: u64 = 5_000_000_000;
/// How Ollama writes an unknown time.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// A node's listing.
#[derive(Debug, PartialEq)]
pub(crate) struct Listing<Entry> {
    pub(crate) entries: Vec<Entry>,
    /// The entries as clients see them, in the same order.
    pub(crate) said: Vec<Said>,
    /// The node's own names for models that have another name here, by [`key_of`] the name here.
    pub(crate) names_there: BTreeMap<String, String>,
    /// Entries that were left out.
    pub(crate) skipped: usize,
}

/// Reads `/api/tags`. A model on a remote service would send prompts, and the bill, there: it is left out and not
/// counted.
pub(crate) fn tags(body: &[u8]) -> Result<Listing<Model>, String> {
    let listing = listed_models(body)?;
    let own = listing.entries.into_iter().filter(|model| !model.is_remote);
    let (entries, said) = own
        .map(|ListedModel { name, size_bytes, digest, modified_at, family, said, .. }| {
            let mut said = value_of(&said);
            let size_bytes = size_bytes.min(MOST);
            let modified = OffsetDateTime::parse(&modified_at, &Rfc3339).ok();
            fill_in(&mut said, &name, size_bytes, &digest);
            if modified.is_none() {
                said["modified_at"] = NO_TIME.into();
            }
            if !said["details"].is_object() {
                said["details"] = json!({});
            }
            let modified_unix = modified.map_or(0, OffsetDateTime::unix_timestamp);
            (Model { name, size_bytes, digest, modified_unix, family, weights: String::new() }, Said::new(&said))
        })
        .unzip();
    Ok(Listing { entries, said, names_there: BTreeMap::new(), skipped: listing.skipped })
}

/// Reads `/api/ps`. Without a GPU a model takes `size` of memory; if it is split, it takes both.
pub(crate) fn processes(body: &[u8]) -> Result<Listing<Loaded>, String> {
    let listing = listed_processes(body)?;
    let (entries, said) = listing
        .entries
        .into_iter()
        .map(|ListedProcess { name, size_bytes, vram_bytes, context_length, digest, said }| {
            let mut said = value_of(&said);
            fill_in(&mut said, &name, size_bytes.min(MOST), &digest);
            said["size_vram"] = vram_bytes.min(MOST).into();
            let expires_at = said["expires_at"].as_str().and_then(|time| OffsetDateTime::parse(time, &Rfc3339).ok());
            if expires_at.is_none() {
                said["expires_at"] = NO_TIME.into();
            }
            (Loaded { name, vram_bytes: vram_bytes.max(size_bytes).min(MOST), context_length }, Said::new(&said))
        })
        .unzip();
    Ok(Listing { entries, said, names_there: BTreeMap::new(), skipped: listing.skipped })
}

/// An entry, which is an object.
fn value_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| json!({}))
}

fn fill_in(said: &mut Value, name: &str, size_bytes: u64, digest: &str) {
    for key in ["name", "model"] {
        if !said[key].is_string() {
            said[key] = name.into();
        }
    }
    (said["size"], said["digest"]) = (size_bytes.into(), digest.into());
}

/// Reads `/v1/models` of a node that is not Ollama. `aliases` maps a model's name there to its name here.
pub(crate) fn openai_models(body: &[u8], aliases: &BTreeMap<String, String>) -> Result<Listing<Model>, String> {
    let mut whole: Map<String, Value> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let Some(Value::Array(data)) = whole.remove("data") else { return Err("`data` is not a list".to_owned()) };
    let mut listing = Listing { entries: Vec::new(), said: Vec::new(), names_there: BTreeMap::new(), skipped: 0 };
    for entry in data {
        match entry.as_object().and_then(|entry| openai_model(entry, aliases)) {
            Some((model, said, theirs)) if listing.entries.len() < MAX_LISTED => {
                listing.names_there.insert(key_of(&model.name), theirs);
                listing.entries.push(model);
                listing.said.push(Said::new(&said));
            }
            _ => listing.skipped += 1,
        }
    }
    Ok(listing)
}

fn openai_model(entry: &Map<String, Value>, aliases: &BTreeMap<String, String>) -> Option<(Model, Value, String)> {
    let theirs = name_of(entry)?;
    let alias = aliases.iter().find(|(_, named)| ModelName::same(named, &theirs));
    let name = alias.map_or_else(|| theirs.clone(), |(ours, _)| ours.clone());
    let size_bytes = entry.get("meta").and_then(|meta| count(meta.get("size")?)).filter(|bytes| *bytes > 0);
    let size_bytes = size_bytes.unwrap_or(UNKNOWN_BYTES);
    let created = entry.get("created").and_then(count).and_then(|seconds| i64::try_from(seconds).ok());
    let created = created.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let modified_at = created.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| NO_TIME.to_owned());
    let said = json!({
        "name": &name, "model": &name, "modified_at": modified_at, "size": size_bytes, "digest": "",
        "details": {"parent_model": "", "format": "", "family": "", "families": null, "parameter_size": "",
            "quantization_level": ""},
    });
    let modified_unix = created.map_or(0, OffsetDateTime::unix_timestamp);
    let model =
        Model { name, size_bytes, digest: String::new(), modified_unix, family: String::new(), weights: String::new() };
    Some((model, said, theirs))
}

/// A key that is equal for all names of the same model.
pub(crate) fn key_of(name: &str) -> String {
    ModelName::parse(name).map_or_else(|| name.to_owned(), |name| name.to_string())
}

/// The number of slots that llama.cpp's server reports, in `/props` or as the list `/slots`.
pub(crate) fn total_slots(body: &[u8]) -> Option<u32> {
    let said: Value = serde_json::from_slice(body).ok()?;
    let slots = said.get("total_slots").and_then(count).or_else(|| said.as_array().map(|slots| slots.len() as u64))?;
    u32::try_from(slots).ok().filter(|slots| (1..=1024).contains(slots))
}

/// Reads `/api/version`; `None` if this is not Ollama.
pub(crate) fn version(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct VersionReport {
        version: String,
    }
    let VersionReport { version } = serde_json::from_slice(body).ok()?;
    (!version.is_empty() && version.len() <= LONGEST_FIELD).then_some(version)
}

/// A name that fits on one line.
fn name_of(entry: &Map<String, Value>) -> Option<String> {
    let name = entry.get("id")?.as_str()?;
    let length = name.chars().take(LONGEST_NAME + 1).count();
    ((1..=LONGEST_NAME).contains(&length) && !name.chars().any(char::is_control)).then(|| name.to_owned())
}

/// A count, possibly written as a fraction, up to [`MOST`]; `None` if the value is not a count.
fn count(value: &Value) -> Option<u64> {
    let number = value.as_u64().or_else(|| value.as_f64().filter(|number| *number >= 0.0).map(|number| number as u64));
    number.map(|number| number.min(MOST))
}

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

    fn listed(entries: Value) -> Listing<Model> {
        tags(json!({"models": entries}).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn whatever_is_odd_in_an_entry_the_model_is_there() {
        let odd = [json!(null), json!(-1), json!(0.5), json!("x"), json!({}), json!([]), json!(true), json!(1e300)];
        for key in ["size", "digest", "modified_at", "details", "model", "unknown"] {
            for value in &odd {
                let listing = listed(json!([{"name": "a", key: value}, {"name": "b", "size": 7}]));
                let names: Vec<&str> = listing.entries.iter().map(|model| model.name.as_str()).collect();
                assert_eq!((names, listing.skipped), (vec!["a", "b"], 0), "{key} {value}");
                assert_eq!(listing.entries[1].size_bytes, 7);
                let said = &listing.said[0].value();
                assert!(
                    said["size"].is_u64() && said["digest"].is_string() && said["modified_at"].is_string(),
                    "{said}"
                );
                assert!(said["details"].is_object() && said["name"] == "a", "{said}");
            }
        }
    }

    #[test]
    fn a_remote_model_is_not_offered() {
        let listing =
            listed(json!([{"name": "a", "remote_host": "https://ollama.com"}, {"name": "b", "remote_host": null}]));
        assert_eq!((listing.entries.len(), listing.skipped), (1, 0));
    }

    #[test]
    fn what_a_model_takes_in_memory_is_its_size_where_there_is_no_gpu_and_all_of_it_where_it_is_split() {
        let taken = |process: Value| {
            processes(json!({"models": [process]}).to_string().as_bytes()).unwrap().entries[0].vram_bytes
        };
        assert_eq!(taken(json!({"name": "a", "size": 9, "size_vram": 0})), 9);
        assert_eq!(taken(json!({"name": "a", "size": 9, "size_vram": 4})), 9);
        assert_eq!(taken(json!({"name": "a", "size_vram": 4})), 4);
        assert_eq!(taken(json!({"name": "a", "size": null, "size_vram": -4})), 0);
    }

    #[test]
    fn models_of_other_servers_are_listed_as_ollama_would_under_the_names_they_have_here() {
        let body = json!({"object": "list", "data": [
            {"id": "meta-llama/Llama-3.2-3B-Instruct", "created": 1_790_000_000, "meta": {"size": 2_000_000_000u64}},
            {"id": "other", "created": -1},
            {"object": "model"},
        ]});
        let aliases = [("llama3.2".to_owned(), "meta-llama/Llama-3.2-3B-Instruct".to_owned())].into();
        let listing = openai_models(body.to_string().as_bytes(), &aliases).unwrap();
        let models: Vec<_> = listing.entries.iter().map(|model| (model.name.as_str(), model.size_bytes)).collect();
        assert_eq!(models, [("llama3.2", 2_000_000_000), ("other", UNKNOWN_BYTES)]);
        assert_eq!((listing.skipped, listing.said[0].value()["model"].as_str()), (1, Some("llama3.2")));
        let there = |name: &str| listing.names_there.get(&key_of(name)).map(String::as_str);
        assert_eq!(there("Llama3.2:latest"), Some("meta-llama/Llama-3.2-3B-Instruct"));
        assert_eq!((there("other"), there("none")), (Some("other"), None));
        assert!(openai_models(b"{\"models\":[]}", &BTreeMap::new()).is_err());
        let many: Vec<Value> = (0..MAX_LISTED + 5).map(|index| json!({ "id": format!("m{index}") })).collect();
        let listing = openai_models(json!({ "data": many }).to_string().as_bytes(), &BTreeMap::new()).unwrap();
        assert_eq!((listing.entries.len(), listing.skipped), (MAX_LISTED, 5));
    }

    #[test]
    fn slots_and_versions_are_read_where_they_are_told() {
        assert_eq!(total_slots(br#"{"total_slots":3}"#), Some(3));
        assert_eq!(total_slots(br#"[{"id":0},{"id":1}]"#), Some(2));
        for body in ["", "{}", r#"{"total_slots":0}"#, r#"{"total_slots":-1}"#, r#"{"total_slots":1e9}"#, "[]"] {
            assert_eq!(total_slots(body.as_bytes()), None, "{body}");
        }
        assert_eq!(version(br#"{"version":"0.33.0"}"#).as_deref(), Some("0.33.0"));
        for body in ["", "{}", r#"{"error":"Unexpected endpoint"}"#, r#"{"version":""}"#, r#"{"version":7}"#] {
            assert_eq!(version(body.as_bytes()), None, "{body}");
        }
    }

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
