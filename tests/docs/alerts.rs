//! The page of every alert, from Prometheus' rules.
use saphyr::{LoadableYamlNode, Yaml};

use crate::markdown::{code, table};
use crate::text;

const RULES: &str = "deploy/prometheus/rules/gateway.yml";

pub fn page() -> String {
    let rules = text(RULES);
    let documents = Yaml::load_from_str(&rules).unwrap();
    let rows = list(&documents[0], "groups").iter().flat_map(|group| list(group, "rules")).map(row);
    let introduction = "`page` wakes somebody, `ticket` is for this week, `info` is good to know. `after` is how long the \
        condition must hold before the alert fires. [Observe](../operate/observe.md#alerts) says how to connect them.";
    let table = table(&["alert", "severity", "after", "meaning", "what to do"], rows);
    crate::page("Alerts", RULES, introduction, &table)
}

fn row(rule: &Yaml) -> Vec<String> {
    let words = |key: &str| without_templates(&string(rule.as_mapping_get("annotations"), key));
    let after = string(Some(rule), "for");
    vec![
        code(&string(Some(rule), "alert")),
        string(rule.as_mapping_get("labels"), "severity"),
        if after.is_empty() { "0s".to_owned() } else { after },
        words("summary"),
        words("description"),
    ]
}

fn list<'a>(node: &'a Yaml<'_>, key: &str) -> &'a [Yaml<'a>] {
    node.as_mapping_get(key).and_then(Yaml::as_sequence).unwrap_or_else(|| panic!("{RULES} has no {key}"))
}

fn string(node: Option<&Yaml>, key: &str) -> String {
    node.and_then(|node| node.as_mapping_get(key)?.as_str()).unwrap_or_default().to_owned()
}

/// `{{ $labels.node }}` is what stands there in an alert: `node`; and so is `{{ $value | humanize }}`: `value`.
fn without_templates(text: &str) -> String {
    let mut parts = text.split("{{");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (template, rest) = part.split_once("}}").unwrap_or((part, ""));
        let name = template.split('|').next().unwrap_or_default().trim().trim_start_matches("$labels.");
        plain += &format!("`{}`{rest}", name.trim_start_matches('$'));
    }
    plain
}
