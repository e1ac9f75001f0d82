//! Does docs/internals/hostile.md name every test of the hostile suite, and only those?
use std::collections::BTreeSet;

use crate::{files, text};

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
