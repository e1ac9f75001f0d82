//! Rewrites serde's errors about a body or a query for people who do not know Rust: which field is wrong, and what it
//! must be.
use std::borrow::Cow;

use super::error::ApiError;

/// Words an error in a JSON body. `path` leads to the value at fault; `.` is the body itself.
pub(super) fn of_body(path: &str, error: &serde_json::Error) -> ApiError {
    let said = error.to_string();
    if !error.is_data() {
        let said = said.replace("EOF while parsing", "it ends within");
        return ApiError::invalid(format!("The body is not JSON: {said}."));
    }
    let said = said.split(" at line ").next().unwrap_or(&said);
    worded(Some(path).filter(|path| *path != "."), said)
}

/// Words an error in a query string, from actix's message.
pub(super) fn of_query(said: &str) -> ApiError {
    let said = said.strip_prefix("Query deserialize error: ").unwrap_or(said);
    if said.contains("digit") || said.contains("number") {
        return ApiError::invalid("A parameter of the query that must be a whole number is not one.");
    }
    worded(None, said)
}

/// Rewrites one of the few sentences that serde has.
fn worded(path: Option<&str>, said: &str) -> ApiError {
    let named = quoted(said);
    let about = |field: &str, message: String| ApiError::invalid_field(field.to_owned(), message);
    if let (true, Some(field)) = (said.starts_with("missing field"), named) {
        return about(field, format!("`{field}` is missing."));
    }
    if let (true, Some(field)) = (said.starts_with("duplicate field"), named) {
        return about(field, format!("`{field}` is given twice."));
    }
    if let (true, Some(field)) = (said.starts_with("unknown field"), named) {
        let known = said.split_once(", expected ").map_or("", |(_, known)| known.trim_start_matches("one of "));
        let known = if known.is_empty() || known == "there are no fields" { "none" } else { known };
        return about(field, format!("`{field}` is not known here. What may be given: {known}."));
    }
    let field = path.map_or("the body", |path| path);
    let expected = said.split_once(", expected ").map_or("something else", |(_, expected)| expected);
    let message = match path {
        Some(path) => format!("`{path}` must be {}.", plain(expected)),
        None => format!("The body must be {}.", plain(expected)),
    };
    if path.is_some() { about(field, message) } else { ApiError::invalid(message) }
}

/// The text in the first pair of backticks.
fn quoted(said: &str) -> Option<&str> {
    said.split('`').nth(1)
}

fn plain(expected: &str) -> Cow<'_, str> {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of at least 0".into(),
        "i8" | "i16" | "i32" | "i64" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "a list".into(),
        "a map" => "an object".into(),
        expected if expected.starts_with("struct ") => "an object".into(),
        expected => expected.trim_start_matches("one of ").into(),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct Body {
        name: String,
        limit: Option<u32>,
        weight: Option<f64>,
        models: Option<Vec<String>>,
        mode: Option<Mode>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        Off,
        Dns,
    }

    fn said(body: &str) -> (String, Option<String>) {
        let error =
            serde_path_to_error::deserialize::<_, Body>(&mut serde_json::Deserializer::from_str(body)).unwrap_err();
        let error = of_body(&error.path().to_string(), error.inner());
        let object = error.object();
        (object.message.to_owned(), object.param.map(str::to_owned))
    }

    #[test]
    fn each_mistake_names_the_field_and_what_it_must_be_in_plain_words() {
        for (body, message, param) in [
            ("{}", "`name` is missing.", Some("name")),
            (r#"{"name":1}"#, "`name` must be a string.", Some("name")),
            (r#"{"name":"a","limit":-1}"#, "`limit` must be a whole number of at least 0.", Some("limit")),
            (r#"{"name":"a","limit":"x"}"#, "`limit` must be a whole number of at least 0.", Some("limit")),
            (r#"{"name":"a","weight":[]}"#, "`weight` must be a number.", Some("weight")),
            (r#"{"name":"a","models":1}"#, "`models` must be a list.", Some("models")),
            (r#"{"name":"a","models":["a",2]}"#, "`models[1]` must be a string.", Some("models[1]")),
            (r#"{"name":"a","mode":"on"}"#, "`mode` must be `off` or `dns`.", Some("mode")),
            (r#"{"name":"a","name":"b"}"#, "`name` is given twice.", Some("name")),
            (
                r#"{"nam":"a"}"#,
                "`nam` is not known here. What may be given: `name`, `limit`, `weight`, `models`, `mode`.",
                Some("nam"),
            ),
        ] {
            assert_eq!(said(body), (message.to_owned(), param.map(str::to_owned)), "{body}");
        }
        let (message, param) = said("{\"name\":");
        let expected = "The body is not JSON: it ends within a value at line 1 column 8.";
        assert_eq!((&*message, param), (expected, None));
    }

    #[test]
    fn a_query_is_answered_in_plain_words_too() {
        let said = |text: &str| of_query(text).object().message.to_owned();
        assert_eq!(
            said("Query deserialize error: unknown field `x`, expected `limit` or `after`"),
            "`x` is not known here. What may be given: `limit` or `after`."
        );
        assert!(said("Query deserialize error: invalid digit found in string").contains("whole number"));
    }
}
