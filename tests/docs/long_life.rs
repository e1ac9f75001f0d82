//! What a long life costs, by the results of `bench/run long-life`.
use serde_json::Value;

use crate::markdown::{code, grouped, table};

/// Results that are told here: one for each kind of database.
pub const TOLD: [&str; 2] = ["long-life-sqlite", "long-life-postgres"];

fn number(result: &Value, pointer: &str) -> f64 {
    result.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer} is no number in {result}"))
}

fn whole(result: &Value, pointer: &str) -> String {
    grouped(number(result, pointer).round() as u64)
}

/// The queries by their names.
fn queries(result: &Value) -> impl Iterator<Item = (&String, f64, f64)> {
    let queries = result["queries"].as_object().expect("queries and their times");
    queries.iter().map(|(name, times)| (name, number(times, "/first_ms"), number(times, "/p95_ms")))
}

fn slowest(result: &Value) -> String {
    let slowest = queries(result).max_by(|(.., one), (.., other)| one.total_cmp(other)).expect("a query");
    format!("{:.0} ms", slowest.2)
}

/// What each database says to a figure, beside its gate.
fn figures(results: &[Value; 2]) -> Vec<Vec<String>> {
    let row = |figure: &str, gate: &str, value: &dyn Fn(&Value) -> String| {
        let mut cells = vec![figure.to_owned(), gate.to_owned()];
        cells.extend(results.iter().map(value));
        cells
    };
    let held = |key: &'static str| {
        move |result: &Value| {
            let of = |part: &str| number(result, &format!("/{key}/{part}"));
            format!("{:.1}, {:.1} ms", of("p99_ms"), of("worst_p99_ms"))
        }
    };
    let elsewhere = |result: &Value| match result.get("key_at_another_gateway") {
        Some(waits) => format!("{:.0}, {:.0} ms", number(waits, "/works_ms"), number(waits, "/stops_ms")),
        None => "one gateway".to_owned(),
    };
    vec![
        row("usage rows", "", &|result| whole(result, "/amounts/rows")),
        row("users, keys", "", &|result| {
            format!("{}, {}", whole(result, "/amounts/users"), whole(result, "/amounts/keys"))
        }),
        row("daily sums; size", "", &|result| {
            format!("{}; {} GiB", whole(result, "/amounts/usage_rollups"), result["amounts"]["gib"])
        }),
        row("ready after the start, the slowest of three: with the file in memory, and not", "3 s", &|result| {
            let seconds = |kind: &str| number(result, &format!("/ready_seconds/{kind}"));
            format!("{:.2}, {:.2} s", seconds("warm"), seconds("cold"))
        }),
        row("memory for users and keys", "250 MiB", &|result| {
            format!("{:.0} MiB", number(result, "/memory_mib/full") - number(result, "/memory_mib/few"))
        }),
        row("p99 of a request, to that with 10 keys", "1.2", &|result| format!("{}", result["p99_ratio"])),
        row("the same while the first copy of users and keys is made", "", &|result| {
            result.get("p99_ratio_while_users_are_copied").map_or("no copy".to_owned(), Value::to_string)
        }),
        row("CPU when idle, of a core", "2 %", &|result| format!("{:.1} %", number(result, "/idle_percent_of_a_core"))),
        row("a new key works at another gateway, a revoked one stops, at most", "2 s", &elsewhere),
        row("slowest p95 of the queries below", "200 ms", &slowest),
        row("p99 of a request without upkeep", "", &|result| format!("{:.1} ms", number(result, "/p99_ms/full"))),
        row("while sums are compared with rows: median, worst of 2 s", "", &held("while_sums_are_compared")),
        row("while a day's rows are deleted: median, worst of 2 s", "", &held("while_a_day_is_deleted")),
    ]
}

/// When each query is asked for the first time, and afterwards.
fn times(results: &[Value; 2]) -> Vec<Vec<String>> {
    let [first, second] = results.each_ref().map(|result| queries(result).collect::<Vec<_>>());
    let cell = |(_, first, p95): &(&String, f64, f64)| format!("{first:.0}, {p95:.0}");
    let same = first.iter().zip(&second).map(|(one, other)| {
        assert_eq!(without_days(one.0), without_days(other.0));
        vec![code(one.0), cell(one), cell(other)]
    });
    same.collect()
}

/// The query, whichever day it was asked on: its period is the month before.
fn without_days(query: &str) -> String {
    let part = |part: &str| match part.split_once('=') {
        Some((name @ ("from" | "to"), moment)) => {
            format!("{name} {}", moment.get("2026-10-29".len()..).unwrap_or_default())
        }
        _ => part.to_owned(),
    };
    query.split(['&', '?']).map(part).collect::<Vec<_>>().join(" ")
}

pub fn section(result: impl Fn(&str) -> Value) -> String {
    let results = TOLD.map(result);
    format!(
        "## What a long life costs\n\nA database of `bench fill`: users and keys as below, and rows over 50 days of a fifth of the \
         users, one of whom has a fiftieth of them. Requests of eight clients, in turns with a gateway that has ten keys. Each gateway runs on one core. \
         The load average at the end was {:.1} and {:.1}.{}\n\n{}\n\
         Milliseconds of each query when it is asked for the first time, with the file not in memory (SQLite), and p95 of \
         30 times after that. Pages have 100 entries unless `limit` says otherwise:\n\n{}\n\
         ```sh\ncargo run --release -p bench -- fill --url sqlite:///tmp/years.db\n\
         bench/run long-life sqlite:///tmp/years.db bench/results/long-life-sqlite.json\n```\n\n",
        number(&results[0], "/load_average"),
        number(&results[1], "/load_average"),
        results[1]["measured_in_a_second_run"]
            .as_str()
            .map_or(String::new(), |what| format!(" Measured in a second run on the same Postgres: {what}.")),
        table(&["figure", "gate", "SQLite", "Postgres"], figures(&results)),
        table(&["query", "SQLite", "Postgres"], times(&results)),
    )
}
