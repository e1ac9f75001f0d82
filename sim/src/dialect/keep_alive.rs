//! How long does a request want the model to stay in memory?

use std::time::Duration;

use serde_json::Value;

use crate::clock::FOREVER;
use crate::error::{ApiError, json};

/// Parses a number of seconds, where a negative number means for ever, or a Go duration.
pub(crate) fn keep_alive(value: Option<&Value>) -> Result<Option<Duration>, ApiError> {
    let unsupported = |kind| Err(ApiError::bad_request(format!("Unsupported type: '{kind}'")));
    let seconds = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number.as_f64().unwrap_or(f64::MAX),
        Some(Value::String(text)) => {
            go_seconds(text).ok_or_else(|| ApiError::bad_request(format!("time: invalid duration {}", json(text))))?
        }
        Some(Value::Bool(_)) => return unsupported("bool"),
        Some(Value::Array(_)) => return unsupported("[]interface {}"),
        Some(Value::Object(_)) => return unsupported("map[string]interface {}"),
    };
    Ok(Some(Duration::try_from_secs_f64(seconds).map_or(FOREVER, |duration| duration.min(FOREVER))))
}

/// The seconds of a Go duration, such as `1h30m`, `-1s` or `0`.
fn go_seconds(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text),
    };
    if rest == "0" {
        return Some(0.0);
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..letters] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[letters..];
    }
    if text.is_empty() { None } else { Some(sign * seconds) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(value: Value) -> Option<Duration> {
        keep_alive(Some(&value)).unwrap()
    }

    #[test]
    fn numbers_are_seconds_and_negative_ones_forever() {
        assert_eq!(parsed(0.into()), Some(Duration::ZERO));
        assert_eq!(parsed(90.into()), Some(Duration::from_secs(90)));
        assert_eq!(parsed((-1).into()), Some(FOREVER));
    }

    #[test]
    fn strings_are_durations_of_go() {
        assert_eq!(parsed("1h30m".into()), Some(Duration::from_secs(5400)));
        assert_eq!(parsed("1500ms".into()), Some(Duration::from_millis(1500)));
        assert_eq!(parsed("-1s".into()), Some(FOREVER));
        assert_eq!(parsed("0".into()), Some(Duration::ZERO));
    }

    #[test]
    fn anything_else_is_refused() {
        for value in
            [Value::from("300"), Value::from("5 minutes"), Value::from(""), Value::from(true), Value::from(vec![1])]
        {
            assert_eq!(keep_alive(Some(&value)).map_err(|error| error.status), Err(400), "{value}");
        }
    }
}
