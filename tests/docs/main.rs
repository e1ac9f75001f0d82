//! Is what docs/ says still true? The reference and the evidence are made from the code and from committed results, and
//! the prose is held to its bounds: words, links, paths, terms.
//!
//! `REWRITE_DOCS=1 cargo test --test docs` writes what is generated anew.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]
mod alerts;
mod cli;
mod clients;
mod errors;
mod evidence;
mod long_life;
mod markdown;
mod metrics;
mod prose;
mod settings;
mod source;
mod together;

use std::path::{Path, PathBuf};

/// Where the repository is.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a file, by its path from the root.
fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file below a folder of the repository that has this extension, sorted.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Holds a committed file to what it should be, or writes it if that was asked for.
fn hold(path: &str, wanted: &str) {
    if std::env::var_os("REWRITE_DOCS").is_some() {
        let file = root().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, wanted).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(root().join(path)).unwrap_or_default();
    if let Some(line) = committed.lines().zip(wanted.lines()).position(|(committed, wanted)| committed != wanted) {
        let (was, is) = (committed.lines().nth(line), wanted.lines().nth(line));
        panic!("{path}:{}: says {was:?}, should say {is:?}\n{REWRITE}", line + 1);
    }
    assert!(committed == wanted, "{path} is longer or shorter than it should be\n{REWRITE}");
}

const REWRITE: &str = "`REWRITE_DOCS=1 cargo test --test docs` writes it anew";

/// What every generated page begins with.
fn page(title: &str, source: &str, introduction: &str, body: &str) -> String {
    format!("# {title}\n\n<!-- Generated from {source}; {REWRITE}. -->\n\n{introduction}\n\n{}\n", body.trim_end())
}

#[test]
fn the_reference_is_that_of_the_code() {
    hold("docs/reference/settings.md", &settings::page());
    hold("docs/reference/errors.md", &errors::page());
    hold("docs/reference/metrics.md", &metrics::page());
    hold("docs/reference/alerts.md", &alerts::page());
    hold("docs/reference/cli.md", &cli::page());
}

#[test]
fn the_evidence_is_that_of_the_results() {
    hold("docs/evidence.md", &evidence::page());
    let readme = text("README.md");
    hold("README.md", &markdown::with_block(&readme, "evidence", &evidence::summary()));
}
