//! The page of what was measured, from the results that long runs have left; and README's sentence about it.
use std::collections::BTreeMap;

use serde_json::Value;

use crate::markdown::{code, grouped, table};
use crate::{clients, files, long_life, root, together};

/// Where long runs keep their results.
const FOLDERS: [&str; 3] = ["tests/chaos/results", "crates/scheduler/tests/fleet/results", "bench/results"];
/// Results that are a run of accidents, and what those were.
const ACCIDENTS: [(&str, &str); 3] = [
    ("kills-sqlite", "`kill -9` of the gateway, SQLite"),
    ("kills-postgres", "`kill -9` of the gateway, Postgres"),
    ("outages", "outages of Postgres: killed, frozen, restarted, cut off"),
];
/// Results with a paragraph of their own.
const TOLD: [&str; 4] = ["first-token", "backlog", "fleet", "soak"];
/// The rules that the scheduler is compared with, by their names in the result.
const RULES: [(&str, &str); 6] = [
    ("LoadedFree", "loaded and free"),
    ("TwoChoices", "two choices"),
    ("CacheAware", "cache-aware"),
    ("Forgetful", "ours without prefixes"),
    ("Core", "**ours**"),
    ("Oracle", "near-oracle"),
];

/// Results by the path of their file from the root, without its ending.
fn results() -> BTreeMap<String, Value> {
    let folders = FOLDERS.iter().filter(|folder| root().join(folder).is_dir());
    let files = folders.flat_map(|folder| files(folder, "json"));
    let read = files.map(|file| {
        let name = file.strip_prefix(root()).unwrap().with_extension("").to_string_lossy().into_owned();
        let result = serde_json::from_str(&std::fs::read_to_string(&file).unwrap());
        (name, result.unwrap_or_else(|error| panic!("{}: {error}", file.display())))
    });
    read.collect()
}

fn chaos(results: &BTreeMap<String, Value>, name: &str) -> Value {
    results.get(&format!("{}/{name}", FOLDERS[0])).cloned().unwrap_or_else(|| panic!("there is no result {name}"))
}

/// A whole number of a result.
fn count(result: &Value, pointer: &str) -> u64 {
    result
        .pointer(pointer)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("{pointer} is no whole number in {result}"))
}

fn number(result: &Value, pointer: &str) -> f64 {
    result.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer} is no number in {result}"))
}

/// One sentence for README: how many accidents, and what they cost.
pub fn summary() -> String {
    let results = results();
    let runs = ACCIDENTS.map(|(name, _)| chaos(&results, name));
    let sum =
        |pointer: &str| runs.iter().map(|run| run.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)).sum::<u64>();
    format!(
        "In the last long runs the gateway was killed {} times and Postgres failed {} times under load. Of {} answers that \
         clients saw complete, {} usage rows were lost, {} doubled and {} wrong ([evidence](docs/evidence.md)).",
        grouped(sum("/kills") + sum("/gateway_kills")),
        grouped(sum("/outages")),
        grouped(sum("/verdict/acknowledged")),
        grouped(sum("/verdict/lost")),
        grouped(sum("/verdict/doubled")),
        grouped(sum("/verdict/wrong")),
    )
}

pub fn page() -> String {
    let results = results();
    let mut body = accidents(&results);
    body += &times(&results);
    body += &soak(&results);
    body += &together::section(|name| chaos(&results, name));
    let long_life_of = |name: &str| results[&format!("{}/{name}", FOLDERS[2])].clone();
    body += &long_life::section(long_life_of);
    body += &fleets(&results[&format!("{}/fleet", FOLDERS[1])]);
    body += "## Clients\n\n`tests/clients/run.sh`, a step of `tests/run`, installs each of these in an environment of its own \
        and runs it against a demo and against a gateway whose node is silent or breaks off. A page of another origin in \
        Chromium is tested as well (`tests/test_browser.py`).\n\n";
    body += &clients::clients();
    for (name, result) in results.iter().filter(|(name, _)| !is_told(name)) {
        body += &format!("\n## {name}\n\n[`{name}.json`](../{name}.json)\n\n");
        let mut rows = Vec::new();
        flatten(String::new(), result, &mut rows);
        body += &table(&["figure", "value"], rows);
    }
    let introduction = "What the promises rest on. Every figure is read from a result file that a long run has left in the \
        repository, with its seed; none is typed by hand.";
    crate::page("Evidence", "result files", introduction, &body)
}

fn is_told(name: &str) -> bool {
    let name = name.rsplit('/').next().unwrap_or_default();
    ACCIDENTS.iter().any(|(told, _)| *told == name)
        || [&TOLD[..], &together::TOLD, &long_life::TOLD].concat().contains(&name)
}

fn accidents(results: &BTreeMap<String, Value>) -> String {
    let row = |(name, what): (&str, &str)| {
        let result = chaos(results, name);
        let struck = result.get("kills").or(result.get("outages")).and_then(Value::as_u64).unwrap_or(0);
        let besides = result.get("gateway_kills").and_then(Value::as_u64);
        let besides = besides.map_or(String::new(), |kills| format!(", with {} kills of the gateway", grouped(kills)));
        let verdict = |key: &str| grouped(count(&result, &format!("/verdict/{key}")));
        let unseen = format!("{}, the oldest {} ms old", verdict("young"), verdict("young_ms"));
        vec![
            format!("{} {what}{besides}", grouped(struck)),
            verdict("acknowledged"),
            verdict("lost"),
            verdict("doubled"),
            verdict("wrong"),
            unseen,
            code(&result["seed"].as_str().map_or(String::new(), str::to_owned)),
        ]
    };
    let heads = ["accidents", "complete answers", "lost", "doubled", "wrong", "without a row, nothing seen", "seed"];
    format!(
        "## No usage row is lost\n\n`tests/chaos` strikes the real gateway under mixed load and then compares every usage row with \
         what clients received and what the simulated nodes generated. *Lost*, *doubled* and *wrong* count rows of answers \
         whose end a client saw. Requests in their first milliseconds, of which nobody had seen anything, may leave no row.\n\n{}\n\
         ```sh\nCHAOS_KILLS=1000 CHAOS_OUTAGES=200 CHAOS_RESULTS=tests/chaos/results cargo test --test chaos -- --nocapture\n```\n\n",
        table(&heads, ACCIDENTS.map(row))
    )
}

fn times(results: &BTreeMap<String, Value>) -> String {
    let (first, backlog) = (chaos(results, "first-token"), chaos(results, "backlog"));
    let ms = |pointer: &str| format!("{:.2} ms", number(&first, pointer));
    let row = |name: &str| {
        let ratio = format!("{:.3}", number(&first, &format!("/ratio/{name}")));
        vec![name.to_owned(), ms(&format!("/normal_ms/{name}")), ms(&format!("/away_ms/{name}")), ratio]
    };
    format!(
        "## An outage of Postgres costs no time\n\nTime to the first token of {} streams each, in turns with Postgres frozen and \
         not, in a {} build:\n\n{}\nOnce Postgres is back, {} rows that an outage had left were copied at {} rows per second, \
         daily sums included.\n\n```sh\nCHAOS_RESULTS=tests/chaos/results cargo test --release --test chaos measure -- --ignored \
         --nocapture --test-threads=1\n```\n\n",
        grouped(count(&first, "/streams_each")),
        first["build"].as_str().unwrap_or("?"),
        table(&["", "Postgres up", "Postgres frozen", "ratio"], ["p50", "p99"].map(row)),
        grouped(count(&backlog, "/rows")),
        grouped(number(&backlog, "/rows_per_second").round() as u64),
    )
}

/// What grew while requests that do harm came between good ones.
fn soak(results: &BTreeMap<String, Value>) -> String {
    let soak = chaos(results, "soak");
    let whole = |pointer: &str| grouped(count(&soak, pointer));
    let harm = soak["harm"].as_object().expect("kinds of harm");
    let kinds = harm.iter().map(|(kind, times)| format!("{kind} ({})", grouped(times.as_u64().unwrap_or(0))));
    let series = |pointer: &str| {
        let looks = soak.pointer(pointer).and_then(Value::as_array).expect("a list of numbers");
        looks.iter().map(|look| format!("{:.0}", look.as_f64().unwrap_or(f64::NAN))).collect::<Vec<_>>().join(", ")
    };
    let ms = |pointer: &str| format!("{:.1} ms", number(&soak, pointer));
    let rows = vec![
        vec!["requests, of which one in five does harm".to_owned(), whole("/requests")],
        vec!["harm".to_owned(), kinds.collect::<Vec<_>>().join(", ")],
        vec!["failed requests of good users".to_owned(), whole("/good/failures")],
        vec![
            "p50 of good users alone, and in the worst step".to_owned(),
            format!("{}, {}", ms("/good/p50_ms/alone"), ms("/good/p50_ms/worst")),
        ],
        vec![
            "p99 of good users alone, and in the worst step".to_owned(),
            format!("{}, {}", ms("/good/p99_ms/alone"), ms("/good/p99_ms/worst")),
        ],
        vec![
            "answers that good users saw complete, and their rows".to_owned(),
            format!("{}, {}", whole("/rows/acknowledged"), whole("/rows/completed")),
        ],
        vec!["rows lost, doubled".to_owned(), format!("{}, {}", whole("/rows/lost"), whole("/rows/doubled"))],
        vec!["resident memory after each step, MiB".to_owned(), series("/memory/rss_mib")],
        vec![
            "its growth per 100,000 requests after the warm-up (100,000 requests), MiB".to_owned(),
            format!("{:.2}", number(&soak, "/memory/mib_per_100000")),
        ],
        vec!["open files after each step".to_owned(), series("/descriptors")],
        vec!["database, bytes per request".to_owned(), whole("/database_bytes_per_request")],
        vec!["seed".to_owned(), code(soak["seed"].as_str().unwrap_or("?"))],
    ];
    format!(
        "## Nothing grows while one request in five does harm\n\nA {} build before simulated nodes, one of which lists its models \
         oddly. Bad users send mistakes, poison and large bodies, read slowly, leave early, guess keys and go on after a refusal. \
         The machine and the nodes are loaded as far as they go, so the times show contention and are held to nothing.\n\n{}\n\
         ```sh\nSOAK_REQUESTS=400000 CHAOS_RESULTS=tests/chaos/results cargo test --test chaos soak -- --nocapture\n```\n\n",
        soak["build"].as_str().unwrap_or("?"),
        table(&["figure", "value"], rows),
    )
}

/// How long requests wait for their first token under the scheduler and under other rules.
fn fleets(result: &Value) -> String {
    let rows = result["rows"].as_array().expect("a list of rows");
    let p99 = |row: &Value, rule: &str| number(row, &format!("/rules/{rule}/p99"));
    let title = |row: &Value| {
        format!("{} nodes, {}, {} %", count(row, "/nodes"), row["traffic"].as_str().unwrap_or("?"), count(row, "/load"))
    };
    let cells = |row: &Value| {
        let own = |figure: &str| number(row, &format!("/rules/Core/{figure}"));
        let waits = RULES.map(|(rule, _)| format!("{:.1}", p99(row, rule)));
        let mut cells = vec![title(row)];
        cells.extend(waits);
        cells.extend([
            format!("{:.2}", own("p50")),
            format!("{:.1} %", own("idle")),
            format!("{:.0} %", own("cached")),
        ]);
        cells
    };
    let mut heads = vec!["case"];
    heads.extend(RULES.map(|(_, name)| name));
    heads.extend(["p50 of ours", "idle", "cached"]);
    let worse = |row: &&Value| RULES[..3].iter().any(|(rule, _)| p99(row, rule) < p99(row, "Core"));
    let forgotten = |row: &&Value| p99(row, "Forgetful") < p99(row, "Core");
    let list = |titles: Vec<String>| if titles.is_empty() { "none".to_owned() } else { titles.join("; ") };
    format!(
        "## Requests wait less than under simple rules\n\nSeconds to the first token in simulated fleets, p99 as the geometric \
         mean of {} seeds. The traffic follows public traces (`crates/scheduler/tests/fleet/traces.rs`); 100 % is the rate at \
         which the near-oracle, which knows the lengths of answers and the speeds of nodes, takes 8 s on average on eight \
         nodes. *Idle* is the share of a model's slots that were free while requests waited for it, including those that \
         drained before a load; *cached* is the share of prompt tokens that were in a node's cache.\n\n{}\n\
         Where one of the three simple rules has the shorter p99: {}. Where remembering prefixes made the p99 longer: {}.\n\n\
         ```sh\ncargo test --release -p scheduler --test fleet -- --ignored table --nocapture\n```\n\n",
        result["seeds"].as_array().map_or(0, Vec::len),
        table(&heads, rows.iter().map(cells)),
        list(rows.iter().filter(worse).map(title).collect()),
        list(rows.iter().filter(forgotten).map(title).collect()),
    )
}

/// A row for each figure of a result of which nothing else is known.
fn flatten(path: String, value: &Value, rows: &mut Vec<Vec<String>>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| flatten(below(key), value, rows)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(at, value)| flatten(below(&at.to_string()), value, rows))
        }
        Value::String(text) => rows.push(vec![path, text.clone()]),
        other => rows.push(vec![path, other.to_string()]),
    }
}
