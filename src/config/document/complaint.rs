//! What does a `serde` error mean, in words for a person who edits a file, and without quoting the value?

use serde_json::{Map, Value};

const GROUP: &str = "a group of settings, written as `key: value`";

/// A `serde` error without the value it is about.
pub(super) enum Complaint {
    Unknown {
        field: String,
        known: Vec<String>,
    },
    Missing {
        field: String,
    },
    /// Without an expectation, `text` is the message of a type with its own parser.
    Wrong {
        expected: Option<String>,
        text: String,
    },
}

impl Complaint {
    pub fn read(message: &str) -> Self {
        let expected = message.rsplit_once(", expected ").map(|(_, expected)| expected.to_owned());
        if let Some(field) = quoted_after(message, "unknown field `") {
            let known = names(expected.as_deref().unwrap_or_default());
            return Self::Unknown { field, known };
        }
        if let Some(field) = quoted_after(message, "missing field `") {
            return Self::Missing { field };
        }
        let is_generic = ["invalid type: ", "invalid value: ", "invalid length ", "unknown variant "]
            .iter()
            .any(|start| message.starts_with(start));
        Self::Wrong { expected: expected.filter(|_| is_generic), text: message.to_owned() }
    }

    pub fn expecting(expected: &str) -> Self {
        Self::Wrong { expected: Some(expected.to_owned()), text: String::new() }
    }

    fn expected(&self) -> &str {
        match self {
            Self::Wrong { expected: Some(expected), .. } => expected,
            _ => "",
        }
    }

    /// Whether the value is an enum. An enum lists its names only if it is given a wrong name.
    pub fn hides_the_names(&self) -> bool {
        self.expected() == "string or map"
    }

    pub fn message(&self, path: &str, value: &Value) -> String {
        match self {
            Self::Wrong { expected: None, text } if !is_secret(path) && !holds_secret(value) => text.clone(),
            Self::Wrong { expected: None, .. } => "the value is not valid".to_owned(),
            _ => format!("expected {}", in_plain_words(self.expected())),
        }
    }

    pub fn hint(&self, path: &str, value: &Value) -> Option<String> {
        let expected = self.expected();
        let known = names(expected);
        match value {
            Value::Null => Some("the key has no value: give one or remove the key".to_owned()),
            Value::Number(_) | Value::Bool(_) if expected == "a string" => Some("put the value in quotes".to_owned()),
            Value::String(text) if is_number(expected) && text.parse::<f64>().is_ok() => {
                Some("remove the quotes".to_owned())
            }
            Value::String(text) if !is_secret(path) => {
                let name = nearest(text, known.iter().map(String::as_str))?;
                Some(format!("did you mean `{name}`?"))
            }
            _ => None,
        }
    }

    /// A value that fits the expectation, so that later mistakes can be found.
    pub fn stand_in(&self) -> Option<Value> {
        let expected = self.expected();
        match expected {
            "a boolean" => Some(Value::Bool(false)),
            "a sequence" => Some(Value::Array(Vec::new())),
            _ if is_number(expected) => Some(Value::from(1)),
            _ if in_plain_words(expected) == GROUP => Some(Value::Object(Map::new())),
            _ if expected.contains("string") => Some(Value::from("stand-in")),
            _ => names(expected).into_iter().next().map(Value::String),
        }
    }
}

fn in_plain_words(expected: &str) -> &str {
    match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "u128" | "usize" => "a whole number of at least 0",
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => GROUP,
        "newtype variant" | "struct variant" | "tuple variant" => "settings below this name",
        "unit" => "no value",
        _ if expected.starts_with("struct ") => GROUP,
        _ if expected.starts_with("a nonzero ") => "a whole number of at least 1",
        _ => expected,
    }
}

fn is_number(expected: &str) -> bool {
    let plain = in_plain_words(expected);
    plain.starts_with("a whole number") || plain == "a number"
}

pub(super) fn hint_for_unknown(field: &str, known: &[String]) -> Option<String> {
    if let Some(name) = nearest(field, known.iter().map(String::as_str)) {
        return Some(format!("did you mean `{name}`?"));
    }
    (!known.is_empty()).then(|| format!("known keys: {}", known.join(", ")))
}

fn quoted_after(message: &str, start: &str) -> Option<String> {
    let rest = message.strip_prefix(start)?;
    // Key names are free text and may contain a backquote; what follows the closing one is `serde`'s.
    let end = rest.find("`, expected ").or_else(|| rest.find("`, there are no ")).or_else(|| rest.rfind('`'))?;
    Some(rest[..end].to_owned())
}

fn names(expected: &str) -> Vec<String> {
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn holds_secret(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(key, value)| is_secret(key) || holds_secret(value)),
        Value::Array(list) => list.iter().any(holds_secret),
        _ => false,
    }
}

/// The known name that was most likely meant.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = word.chars().count();
    let allowed = (length / 3).clamp(1, 3);
    let distances = known.into_iter().map(|name| (distance(word, name), name));
    distances.min().filter(|&(distance, _)| distance <= allowed && distance < length).map(|(_, name)| name)
}

/// Whether the value at `path` must never be printed.
pub(super) fn is_secret(path: &str) -> bool {
    let path = path.to_lowercase();
    ["key", "password", "token", "secret", "url"].iter().any(|word| path.contains(word))
}

/// How many letters to insert, delete, change or swap with a neighbour.
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=right.len()).collect()];
    for i in 1..=left.len() {
        let mut row = vec![i];
        for j in 1..=right.len() {
            let change = rows[i - 1][j - 1] + usize::from(left[i - 1] != right[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_one_slip_away() {
        let known = ["bind", "workers", "queue_limit"];
        for (word, name) in [("bnd", "bind"), ("bnid", "bind"), ("worker", "workers"), ("queue-limits", "queue_limit")]
        {
            assert_eq!(nearest(word, known), Some(name), "{word}");
        }
        for word in ["", "x", "colour", "wind_speed"] {
            assert_eq!(nearest(word, known), None, "{word}");
        }
    }

    #[test]
    fn a_complaint_keeps_the_expectation_and_drops_the_value() {
        let complaint = Complaint::read("invalid type: string \"a, expected b\", expected u8");
        assert_eq!(complaint.message("a", &Value::Null), "expected a whole number from 0 to 255");
        let complaint = Complaint::read("unknown variant `a, expected `, expected `x` or `y`");
        assert_eq!(complaint.message("a", &Value::Null), "expected `x` or `y`");
    }

    #[test]
    fn the_words_of_a_type_that_reads_itself_are_withheld_where_a_secret_may_be() {
        let complaint = Complaint::read("`hunter2` has no scheme");
        assert_eq!(complaint.message("label", &Value::Null), "`hunter2` has no scheme");
        assert_eq!(complaint.message("nodes[0].Base_URL", &Value::Null), "the value is not valid");
        let node = serde_json::json!([{"api_key": "hunter2"}]);
        assert_eq!(complaint.message("nodes", &node), "the value is not valid");
    }

    #[test]
    fn an_unknown_field_is_found_whatever_its_name() {
        let message = "unknown field `a`b`, expected `x` or `y`";
        let Complaint::Unknown { field, known } = Complaint::read(message) else { panic!("{message}") };
        assert_eq!((field.as_str(), known), ("a`b", vec!["x".to_owned(), "y".to_owned()]));
    }
}
