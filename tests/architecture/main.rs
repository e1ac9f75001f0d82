//! Does every module keep to its floor, and does no circle of files import itself? The floors are those of `src/lib.rs`;
//! whoever breaks a rule is named with file and line. Whole files are read, their tests as well.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]
mod circles;
mod source;

use std::path::{Path, PathBuf};

use source::Mention;

/// A module imports only from floors below its own; those of the top know each other.
const FLOORS: [&[&str]; 9] = [
    &["flaw", "clock"],
    &["metrics", "telemetry", "tls"],
    &["trace"],
    &["store"],
    &["dispatch"],
    &["fleet", "link"],
    &["relay"],
    &["http"],
    &["app", "cli", "config"],
];
const TOP: usize = FLOORS.len() - 1;

/// The crates that only decide.
const PURE: [&str; 4] = ["scheduler", "limits", "protocol", "cluster"];

/// What they may be built from. Nothing here has a clock, does I/O or waits.
const PURE_DEPENDENCIES: [&str; 6] = ["serde", "serde_json", "bytes", "memchr", "percent-encoding", "thiserror"];

/// What of the standard library would make a decision depend on more than its arguments, or on the order of a hash.
const IMPURE: [&str; 10] =
    ["Instant", "SystemTime", "thread", "fs", "net", "env", "process", "HashMap", "HashSet", "RandomState"];

/// It hashes by a fixed rule and has no order that a decision could depend on.
const HASHES: (&str, &str) = ("crates/scheduler/src/lookup.rs", "HashMap");

/// Every crate of the workspace, by its root file.
const ROOTS: [&str; 8] = [
    "src/lib.rs",
    "sim/src/lib.rs",
    "entity/src/lib.rs",
    "migration/src/lib.rs",
    "crates/scheduler/src/lib.rs",
    "crates/limits/src/lib.rs",
    "crates/protocol/src/lib.rs",
    "crates/cluster/src/lib.rs",
];

/// Libraries, the modules (or files) that may name them, and why others may not.
const OWNED: [(&[&str], &[&str], &str); 10] = [
    (
        &["sea_orm", "sea_orm_migration", "sqlx", "rusqlite", "entity", "migration"],
        &["store"],
        "the store hides the database",
    ),
    (
        &["awc"],
        &["trace", "link/caller.rs", "cli/healthcheck.rs", "cli/traffic.rs"],
        "nodes are asked through the fleet's own exchange, and others have no client",
    ),
    (&["actix_http"], &["fleet"], "only the fleet speaks HTTP to nodes"),
    (&["actix_tls"], &["fleet", "link/caller.rs", "app/server.rs"], "each of them makes or accepts connections"),
    (&["actix_web", "utoipa"], &["http", "app", "link/listener.rs"], "only the door speaks HTTP to clients"),
    (&["actix_ws"], &["link/listener.rs"], "only gateways speak to each other over WebSockets"),
    (
        &["actix_rt"],
        &["fleet", "link", "app", "cli", "relay/watched.rs", "http/waiting.rs"],
        "tasks are spawned where they are stopped",
    ),
    (
        &["opentelemetry", "opentelemetry_http", "opentelemetry_otlp", "opentelemetry_sdk"],
        &["trace"],
        "what is exported of a trace is one module's business",
    ),
    (&["ollama_sim"], &["cli/demo.rs"], "the gateway knows nothing of the simulation"),
    (&["getrandom"], &["store"], "randomness makes keys and decides nothing"),
];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn mentions(root: &str) -> Vec<Mention> {
    source::read(repository(), Path::new(root))
}

/// The module of the gateway that a file belongs to, and the file below `src`.
fn module(file: &Path) -> (String, String) {
    let below = file.strip_prefix("src").unwrap().to_str().unwrap().to_owned();
    (below.split(['/', '.']).next().unwrap().to_owned(), below)
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn report(mut broken: Vec<String>) {
    broken.dedup();
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn a_module_imports_only_from_below() {
    let mut broken = Vec::new();
    for mention in mentions("src/lib.rs") {
        let Some(target) = &mention.target else { continue };
        let ((own, _), (other, _)) = (module(&mention.file), module(target));
        if own == other || own == "lib" {
            continue;
        }
        let Some(own_floor) = floor(&own) else {
            broken.push(format!("{}: `{own}` has no floor", mention.place()));
            continue;
        };
        let is_below = floor(&other).is_some_and(|other| other < own_floor || own_floor == TOP);
        if !is_below {
            broken.push(format!("{}: `{own}` must not import `{other}`", mention.place()));
        }
    }
    report(broken);
}

#[test]
fn no_circle_of_files_imports_itself() {
    report(ROOTS.iter().flat_map(|root| circles::find(&mentions(root))).collect());
}

#[test]
fn a_library_is_named_only_where_it_belongs() {
    let mut broken = Vec::new();
    for mention in mentions("src/lib.rs").iter().filter(|mention| !mention.is_test) {
        let Some(package) = mention.package() else { continue };
        let (module, file) = module(&mention.file);
        for (libraries, owners, why) in &OWNED {
            if libraries.contains(&package) && !owners.contains(&module.as_str()) && !owners.contains(&file.as_str()) {
                broken.push(format!("{}: {why}", mention.place()));
            }
        }
    }
    report(broken);
}

#[test]
fn what_decides_is_built_from_nothing_that_acts() {
    let mut broken = Vec::new();
    for name in PURE {
        let manifest = PathBuf::from(format!("crates/{name}/Cargo.toml"));
        let text = std::fs::read_to_string(repository().join(&manifest)).unwrap();
        let (_, rest) = text.split_once("[dependencies]\n").unwrap();
        let dependencies = rest.split("\n[").next().unwrap().lines().filter_map(|line| line.split([' ', '.']).next());
        // What several gateways agree on is how the one scheduler divides slots.
        let is_allowed = |dependency: &str| {
            PURE_DEPENDENCIES.contains(&dependency) || (name, dependency) == ("cluster", "scheduler")
        };
        for dependency in dependencies.filter(|name| !name.is_empty() && !is_allowed(name)) {
            broken.push(format!("{}: `{dependency}`: a crate that decides must not depend on it", manifest.display()));
        }
        let mentions = mentions(&format!("crates/{name}/src/lib.rs"));
        assert!(!mentions.is_empty(), "{name} has no code");
        for mention in mentions.iter().filter(|mention| !mention.is_test) {
            let is_std = mention.path.first().is_some_and(|first| first == "std");
            let is_allowed = |word: &str| mention.file.ends_with(HASHES.0) && word == HASHES.1;
            if mention
                .path
                .iter()
                .filter(|word| !is_allowed(word))
                .any(|word| IMPURE.contains(&word.as_str()) && (is_std || word != "env"))
            {
                broken.push(format!("{}: a decision depends only on its arguments", mention.place()));
            }
        }
    }
    report(broken);
}

#[test]
fn the_map_in_lib_rs_names_every_module() {
    let map = std::fs::read_to_string(repository().join("src/lib.rs")).unwrap();
    for module in FLOORS.concat().into_iter().chain(PURE) {
        assert!(map.contains(&format!("[`{module}`]")), "src/lib.rs says nothing of `{module}`");
    }
}

/// Cargo forgets `strip` for a package whose profile has a section of its own, and 7 MB of names stay in the binary.
#[test]
fn what_is_released_is_stripped() {
    let manifest = std::fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    let section = |name: &str| {
        let (_, rest) = manifest.split_once(&format!("\n[{name}]\n"))?;
        rest.split("\n[").next()
    };
    for program in ["ollama-gateway", "ollama-sim"] {
        let own =
            section(&format!("profile.release.package.{program}")).or_else(|| section("profile.release")).unwrap();
        assert!(own.lines().any(|line| line == "strip = \"symbols\""), "{program}: {own}");
    }
}
