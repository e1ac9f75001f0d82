//! Does the prose keep to its bounds: README's length, links and paths that lead somewhere, few terms, one compiler?
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::markdown::{anchors, links};
use crate::{files, root, text};

const MOST_README_WORDS: usize = 900;
const MOST_TERMS: usize = 40;
/// Folders whose files are spoken of by their path.
const TOP: [&str; 11] =
    [".ci", "crates", "deploy", "docs", "entity", "fuzz", "grafana", "migration", "sim", "src", "tests"];
/// What is made, or is no file of ours.
const MADE: [&str; 1] = ["deploy/secrets"];

/// Every page for people.
pub fn pages() -> Vec<PathBuf> {
    let own = std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<_> = own.filter(|path| path.extension().is_some_and(|found| found == "md")).collect();
    pages.extend(files("docs", "md"));
    assert!(pages.len() > 20, "where are the docs? {pages:?}");
    pages
}

#[test]
fn readme_is_short() {
    let words = text("README.md").split_whitespace().count();
    assert!(words <= MOST_README_WORDS, "README has {words} words; {MOST_README_WORDS} are enough, docs/ has room");
}

#[test]
fn the_glossary_is_small_and_sorted() {
    let glossary = text("docs/internals/glossary.md");
    let terms: Vec<_> = glossary.lines().filter_map(|line| line.strip_prefix("| **")?.split_once("**")).collect();
    let terms: Vec<_> = terms.into_iter().map(|(term, _)| term.to_lowercase()).collect();
    assert!((10..=MOST_TERMS).contains(&terms.len()), "{} terms", terms.len());
    let mut sorted = terms.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(terms, sorted, "the terms are in order, and each is there once");
}

#[test]
fn every_link_leads_somewhere() {
    let mut dead = Vec::new();
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for (line, target) in links(&text) {
            if !target.contains("://") && !target.starts_with("mailto:") && !leads_somewhere(&page, &target) {
                dead.push(format!("{}:{line}: {target}", page.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(dead.is_empty(), "links that lead nowhere:\n{}", dead.join("\n"));
}

fn leads_somewhere(page: &Path, target: &str) -> bool {
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = if path.is_empty() { page.to_owned() } else { page.parent().unwrap().join(path) };
    if anchor.is_empty() || file.extension().is_none_or(|found| found != "md") {
        return file.exists();
    }
    std::fs::read_to_string(&file).is_ok_and(|text| anchors(&text).iter().any(|found| found == anchor))
}

#[test]
fn every_path_that_is_named_exists() {
    let mut dead = Vec::new();
    for page in pages().iter().filter(|page| !page.ends_with("CHANGELOG.md")) {
        let text = std::fs::read_to_string(page).unwrap();
        for (index, line) in text.lines().enumerate() {
            for named in line.split('`').skip(1).step_by(2).filter(|named| is_path(named)) {
                let path = named.split([':', ' ']).next().unwrap_or(named);
                if !root().join(path).exists() {
                    dead.push(format!("{}:{}: {named}", page.strip_prefix(root()).unwrap().display(), index + 1));
                }
            }
        }
    }
    assert!(dead.is_empty(), "paths that do not exist:\n{}", dead.join("\n"));
}

/// Whether it names one file or folder of the repository.
fn is_path(text: &str) -> bool {
    let is_top = text.split_once('/').is_some_and(|(top, _)| TOP.contains(&top));
    is_top && !text.contains(['*', '{', '<', '…']) && !MADE.iter().any(|made| text.starts_with(made))
}

#[test]
fn there_is_one_compiler() {
    let toolchain = text("rust-toolchain.toml");
    let channel = toolchain.lines().find_map(|line| line.strip_prefix("channel = \"")?.strip_suffix('"')).unwrap();
    assert!(text("deploy/Dockerfile").contains(&format!("FROM rust:{channel}-")), "deploy/Dockerfile uses another");
    let (minor, _) = channel.rsplit_once('.').unwrap();
    assert!(text("Cargo.toml").contains(&format!("rust-version = \"{minor}\"")), "Cargo.toml names another");
}

const PAGE: &str = "docs/internals/hostile.md";

/// `file::test` of the tests in tests/hostile.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in files("tests/hostile", "rs") {
        let source = std::fs::read_to_string(&file).unwrap();
        let module = file.file_stem().unwrap().to_string_lossy().into_owned();
        for rest in source.split("_rt::test").skip(1) {
            let name = rest.split("fn ").nth(1).and_then(|rest| rest.split('(').next()).unwrap();
            found.insert(format!("{module}::{name}"));
        }
    }
    assert!(found.len() > 20, "where are the tests? {found:?}");
    found
}

#[test]
fn the_table_of_faults_is_complete() {
    let page = text(PAGE);
    let rows = page.lines().filter_map(|line| line.strip_suffix("` |")?.rsplit_once("| `"));
    let named: Vec<&str> = rows.map(|(_, test)| test).collect();
    let listed: BTreeSet<String> = named.iter().map(|test| (*test).to_owned()).collect();
    assert_eq!(named.len(), listed.len(), "a test stands in {PAGE} twice");
    assert_eq!(listed, tests(), "{PAGE} and tests/hostile differ");
}
