//! The page of every setting, from gateway.yaml; and whether the types say the same.
use std::collections::BTreeMap;

use crate::markdown::{code, table};
use crate::{source, text};

/// What `POST /admin/reload` applies.
const RELOADED: [&str; 3] = ["nodes", "models", "limits"];
/// What the last part of a name says about its unit.
const UNITS: [(&str, &str); 10] = [
    ("_seconds", "seconds"),
    ("_ms", "milliseconds"),
    ("_minutes", "minutes"),
    ("_days", "days"),
    ("_bytes", "bytes"),
    ("_gb", "GB"),
    ("_percent", "percent"),
    ("tokens_per_minute", "tokens"),
    ("tokens_per_day", "tokens"),
    ("max_output", "tokens"),
];

/// One setting, as gateway.yaml has it.
struct Setting {
    key: String,
    default: String,
    meaning: String,
}

struct Section {
    name: String,
    meaning: String,
    settings: Vec<Setting>,
}

/// Reads gateway.yaml: the comment above a key is its meaning, and what stands behind it its default. The keys of a group
/// within a section follow its name.
fn sections() -> Vec<Section> {
    let (mut sections, mut comment) = (Vec::<Section>::new(), Vec::new());
    let mut group = None::<String>;
    for line in text("gateway.yaml").lines() {
        let bare = line.trim();
        if let Some(said) = bare.strip_prefix('#') {
            comment.push(said.trim().to_owned());
            continue;
        }
        let meaning = std::mem::take(&mut comment).join(" ");
        let Some((key, default)) = bare.trim_start_matches("- ").split_once(':') else { continue };
        if line.starts_with(' ') {
            assert!(meaning.ends_with('.'), "gateway.yaml: {key} has no comment above it, or half a sentence");
            let section = sections.last_mut().unwrap();
            let is_grouped = line.starts_with("    ") && section.name != "nodes";
            if !is_grouped {
                group = default.is_empty().then(|| key.to_owned());
            }
            if default.is_empty() {
                continue;
            }
            let key = match group.as_ref().filter(|_| is_grouped) {
                Some(group) => format!("{group}.{key}"),
                None => key.to_owned(),
            };
            section.settings.push(Setting { key, default: default.trim().to_owned(), meaning });
        } else {
            sections.push(Section { name: key.to_owned(), meaning, settings: Vec::new() });
        }
    }
    sections
}

fn unit(key: &str) -> &'static str {
    UNITS.iter().find(|(end, _)| key.ends_with(end)).map_or("", |(_, unit)| unit)
}

pub fn page() -> String {
    let mut body = String::new();
    for Section { name, meaning, settings } in sections() {
        let when = match name.as_str() {
            "server" => "Changes take a restart, but for the certificate.",
            name if RELOADED.contains(&name) => "A reload applies changes.",
            _ => "Changes take a restart.",
        };
        body += &format!("## {name}\n\n{meaning} {when}\n\n");
        let path = if name == "nodes" { "nodes[]".to_owned() } else { name };
        let row = |setting: &Setting| {
            let key = format!("{path}.{}", setting.key);
            vec![code(&key), code(&setting.default), unit(&setting.key).to_owned(), setting.meaning.clone()]
        };
        body += &table(&["setting", "default", "unit", "meaning"], settings.iter().map(row));
        body.push('\n');
    }
    let introduction = "Settings come from `gateway.yaml` (or the file named with `--config`) and from the environment, which \
        wins. The variable for `server.bind` is `GATEWAY__SERVER__BIND`; lists and maps are JSON, as in \
        `GATEWAY__NODES='[{\"name\":\"a\",\"url\":\"http://10.0.0.5:11434\"}]'`. `ollama-gateway check` reports every \
        mistake with its line.";
    crate::page("Settings", "gateway.yaml", introduction, &body)
}

/// A doc comment without what gateway.yaml says in another place.
fn without_default(doc: &str) -> &str {
    doc.rfind(" Default ").map_or(doc, |at| &doc[..at])
}

#[test]
fn the_types_say_what_the_file_says() {
    let mut said = BTreeMap::<String, Vec<String>>::new();
    for (field, doc) in source::fields() {
        said.entry(field).or_default().push(without_default(&doc).to_owned());
    }
    for Section { name, settings, .. } in sections() {
        for Setting { key, meaning, .. } in settings {
            let field = key.rsplit('.').next().unwrap();
            let docs = said.get(field).map_or(&[][..], Vec::as_slice);
            assert!(docs.contains(&meaning), "{name}.{key}: gateway.yaml says {meaning:?}, its type one of {docs:#?}");
        }
    }
}

/// The settings of a group within a section.
fn settings_of<'a>(section: &'a Section, group: &'a str) -> impl Iterator<Item = &'a Setting> {
    section
        .settings
        .iter()
        .filter(move |setting| setting.key.strip_prefix(group).is_some_and(|rest| rest.starts_with('.')))
}

#[test]
fn every_setting_that_is_named_exists() {
    let sections = sections();
    let mut unknown = Vec::new();
    for page in crate::prose::pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for named in text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
            let Some((section, key)) = named.trim_start_matches("nodes[]").split_once('.') else { continue };
            let Some(found) = sections.iter().find(|found| found.name == section) else { continue };
            let is_key =
                !key.is_empty() && key.chars().all(|letter| letter.is_ascii_lowercase() || "._".contains(letter));
            let is_group = settings_of(found, key).next().is_some();
            if is_key && !is_group && !found.settings.iter().any(|setting| setting.key == key) {
                unknown.push(format!("{}: {named}", page.strip_prefix(crate::root()).unwrap().display()));
            }
        }
    }
    // Names of files, such as `server.rs`, are no settings.
    unknown.retain(|named| !named.ends_with(".rs") && !named.ends_with(".md"));
    assert!(unknown.is_empty(), "settings that do not exist:\n{}", unknown.join("\n"));
}
