//! The page of every metric, from where the families are declared.
use std::collections::BTreeMap;

use crate::markdown::{code, table};
use crate::source::{self, Call};

/// The kind that a method of `Declare` registers.
const KINDS: [(&str, &str); 9] = [
    ("counter", "counter"),
    ("counters", "counter"),
    ("gauge", "gauge"),
    ("gauges", "gauge"),
    ("int_gauge", "gauge"),
    ("int_gauges", "gauge"),
    ("histograms", "histogram"),
    ("process_gauge", "gauge"),
    ("process_counter", "counter"),
];

fn row(call: &Call) -> Option<Vec<String>> {
    let (_, kind) = KINDS.iter().find(|(method, _)| *method == call.method)?;
    let [name, help, ..] = &call.strings[..] else { return None };
    let prefix = if call.method.starts_with("process_") { "process" } else { "gateway" };
    let labels = call
        .lists
        .first()
        .map_or(String::new(), |labels| labels.iter().map(|label| code(label)).collect::<Vec<_>>().join(" "));
    Some(vec![code(&format!("{prefix}_{name}")), (*kind).to_owned(), labels, help.clone()])
}

/// A row for each family, by name.
fn rows() -> Vec<Vec<String>> {
    let is_metrics = |path: &std::path::Path| path.to_string_lossy().contains("/src/metrics");
    let mut rows: Vec<_> = source::calls("src", is_metrics).iter().filter_map(row).collect();
    rows.sort();
    rows
}

pub fn page() -> String {
    let introduction = "`GET /metrics` exports these families in Prometheus' text format. `model` is a name that a node \
        lists, or `_unknown`; `node` a node's name; `route` a path's template. Users are labelled only with \
        `metrics.user_label: all`. No key, prompt or request id is ever a label. Counters start at 0 with the process.";
    crate::page("Metrics", "src/metrics", introduction, &table(&["metric", "type", "labels", "meaning"], rows()))
}

#[test]
fn what_is_exported_is_described() {
    let metrics = ollama_gateway::metrics::Metrics::new(&Default::default(), &["/v1/chat/completions"]).unwrap();
    let exported = String::from_utf8(metrics.scrape(&Default::default()).unwrap()).unwrap();
    let described: BTreeMap<_, _> =
        rows().into_iter().map(|row| (row[0].trim_matches('`').to_owned(), row[1].clone())).collect();
    assert_eq!(described.len(), rows().len(), "a family is declared twice");
    let mut types = exported.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).peekable();
    assert!(types.peek().is_some());
    for (family, kind) in types {
        assert_eq!(described.get(family).map(String::as_str), Some(kind), "{family}");
    }
}
