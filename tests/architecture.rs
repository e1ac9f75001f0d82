//! Does every module keep to its floor? The table is that of `src/lib.rs`; whoever breaks it is named with file and line.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]
use std::path::{Path, PathBuf};

/// A module imports only from floors below its own; those of the top know each other.
const FLOORS: [&[&str]; 6] = [
    &["scheduler", "limits", "protocol"],
    &["metrics", "telemetry", "clock"],
    &["store"],
    &["relay"],
    &["http"],
    &["app", "cli", "config"],
];
const TOP: usize = FLOORS.len() - 1;

/// Words, the modules (or files) that may say them, and why others may not.
const OWNED: [(&[&str], &[&str], &str); 7] = [
    (&["sea_orm", "sea_orm_migration", "sqlx", "entity", "migration"], &["store"], "the store hides the database"),
    (&["awc", "actix_tls"], &["relay", "cli/healthcheck.rs"], "only the relay talks to nodes"),
    (&["actix_web", "utoipa", "utoipa_swagger_ui"], &["http", "app"], "only the door speaks HTTP to clients"),
    (&["actix_rt"], &["relay", "app", "cli"], "tasks are spawned where they are stopped"),
    (
        &["opentelemetry", "opentelemetry_http", "opentelemetry_otlp", "opentelemetry_sdk"],
        &["relay"],
        "a request's trace goes along with it",
    ),
    (&["ollama_sim"], &["cli/demo.rs"], "the gateway knows nothing of the simulation"),
    (&["getrandom"], &["store"], "randomness makes keys and decides nothing"),
];

/// What would make a decision depend on more than its arguments. A `HashMap` has an order of its own.
const IMPURE: [&str; 16] = [
    "tokio",
    "futures_util",
    "actix",
    "tracing",
    "prometheus",
    "async",
    "await",
    "spawn",
    "Instant",
    "SystemTime",
    "::now(",
    "now_v7",
    "thread",
    "HashMap",
    "HashSet",
    "DashMap",
];

/// A line of code without comments, and where it stands.
struct Line {
    place: String,
    module: String,
    /// Below `src`, as `relay/upstream.rs`.
    file: String,
    text: String,
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The code of every module, up to its tests.
fn lines() -> Vec<Line> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut lines = Vec::new();
    for path in files(&source) {
        let file = path.strip_prefix(&source).unwrap().to_str().unwrap().to_owned();
        let module = file.split(['/', '.']).next().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.lines().take_while(|line| !["#[cfg(test)]", "#![cfg(test)]"].contains(&line.trim()));
        lines.extend(code.enumerate().map(|(index, line)| Line {
            place: format!("src/{file}:{}", index + 1),
            module: module.clone(),
            file: file.clone(),
            text: line.split("//").next().unwrap().to_owned(),
        }));
    }
    assert!(lines.len() > 3000, "the source is not where it was: {} lines", lines.len());
    lines
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn says(text: &str, word: &str) -> bool {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let whole = |at: usize| {
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        let begins_earlier = word.starts_with(is_word) && before.ends_with(is_word);
        let ends_later = word.ends_with(is_word) && after.starts_with(is_word);
        !begins_earlier && !ends_later
    };
    text.match_indices(word).any(|(at, _)| whole(at))
}

/// The modules that a line names behind `crate::`, be it one or a group in braces.
fn imports(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, prefix) in text.match_indices("crate::") {
        let rest = &text[at + prefix.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.extend(rest.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next());
            continue;
        };
        let mut depth = 0;
        let outer = |letter: char| {
            depth += i32::from(letter == '{') - i32::from(letter == '}');
            letter == ',' && depth == 0
        };
        let members = group.trim_end_matches([';', ' ']).trim_end_matches('}').split(outer);
        found.extend(members.map(|member| member.trim().split([':', ' ']).next().unwrap()));
    }
    found.retain(|name| !name.is_empty());
    found
}

fn report(broken: Vec<String>) {
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn every_module_has_a_floor() {
    let unknown = |line: &&Line| floor(&line.module).is_none() && !["lib", "main"].contains(&line.module.as_str());
    report(lines().iter().filter(unknown).map(|line| format!("{}: on which floor?", line.place)).take(1).collect());
}

#[test]
fn a_module_imports_only_from_below() {
    let mut broken = Vec::new();
    for line in lines().iter().filter(|line| floor(&line.module).is_some()) {
        let own = floor(&line.module).unwrap();
        for name in imports(&line.text) {
            let is_below = floor(name).is_some_and(|other| other < own || own == TOP) || name == line.module;
            if !is_below {
                broken.push(format!("{}: `{}` must not import `{name}`", line.place, line.module));
            }
        }
        // The ways around `imports`.
        if line.text.contains("super::super") || line.text.trim_end().ends_with("crate::{") {
            broken.push(format!("{}: say `use crate::`, and the module on the same line", line.place));
        }
    }
    report(broken);
}

#[test]
fn a_library_is_named_only_where_it_belongs() {
    let mut broken = Vec::new();
    for line in &lines() {
        for (words, owners, why) in &OWNED {
            let is_owner = owners.iter().any(|owner| *owner == line.module || *owner == line.file);
            let names =
                |word: &&&str| says(&line.text, &format!("{word}::")) || line.text.contains(&format!("use {word};"));
            if let (false, Some(word)) = (is_owner, words.iter().find(names)) {
                broken.push(format!("{}: `{word}`: {why}", line.place));
            }
        }
    }
    report(broken);
}

#[test]
fn what_decides_is_pure() {
    let mut broken = Vec::new();
    for line in lines().iter().filter(|line| floor(&line.module) == Some(0)) {
        if let Some(word) = IMPURE.iter().find(|word| says(&line.text, word)) {
            broken.push(format!("{}: `{word}` in `{}`, which only decides", line.place, line.module));
        }
    }
    report(broken);
}

#[test]
fn the_map_in_lib_rs_names_every_module() {
    let map = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    for module in FLOORS.concat() {
        assert!(map.contains(&format!("[`{module}`]")), "src/lib.rs says nothing of `{module}`");
    }
}

#[test]
fn imports_are_read_in_every_form() {
    assert_eq!(imports("use crate::store::{Account, Page};"), ["store"]);
    assert_eq!(imports("use crate::{http, limits::{Budget, Need}, relay};"), ["http", "limits", "relay"]);
    assert_eq!(imports("    let it: crate::relay::Meter = crate::store::x();"), ["relay", "store"]);
    assert!(imports("use super::openapi;").is_empty());
}
