//! Which files import each other, be it around several corners?
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::source::Mention;

/// Which files each file imports from, with one mention for each.
type Imports<'a> = BTreeMap<&'a Path, BTreeMap<&'a Path, &'a Mention>>;

/// One text for each circle: the shortest way around, import by import.
pub fn find(mentions: &[Mention]) -> Vec<String> {
    let mut imports = Imports::new();
    for mention in mentions {
        let Some(target) = mention.target.as_deref().filter(|target| *target != mention.file) else { continue };
        imports.entry(&mention.file).or_default().entry(target).or_insert(mention);
    }
    let mut told = BTreeSet::new();
    let mut circles = Vec::new();
    for start in imports.keys() {
        let Some(way) = way_back(&imports, start) else { continue };
        let mut members: Vec<&Path> = way.iter().map(|mention| mention.file.as_path()).collect();
        members.sort_unstable();
        if told.insert(members) {
            let lines = way.iter().map(|mention| {
                format!("  {} is in {}", mention.place(), mention.target.as_deref().unwrap_or(start).display())
            });
            circles.push(format!("a circle of {} files:\n{}", way.len(), lines.collect::<Vec<_>>().join("\n")));
        }
    }
    circles
}

/// The shortest way of imports from a file back to itself.
fn way_back<'a>(imports: &Imports<'a>, start: &Path) -> Option<Vec<&'a Mention>> {
    let mut ways = vec![Vec::new()];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let at = way.last().and_then(|mention: &&Mention| mention.target.as_deref()).unwrap_or(start);
            for (next, mention) in imports.get(at).into_iter().flatten() {
                let way = [way.as_slice(), &[*mention]].concat();
                if *next == start {
                    return Some(way);
                }
                if seen.insert(*next) {
                    longer.push(way);
                }
            }
        }
        ways = longer;
    }
    None
}
