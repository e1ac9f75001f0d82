//! The evidence that several gateways use the nodes' slots together: what the page of what was measured says of it.
use serde_json::Value;

use crate::markdown::{grouped, table};

/// Results that are told here.
pub const TOLD: [&str; 6] = ["schedules", "leader", "slots", "pair", "follower", "rolling"];

fn whole(result: &Value, pointer: &str) -> String {
    grouped(result.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer} in {result}")))
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `10 of this, 7 of that`.
fn list(result: &Value, key: &str) -> String {
    let kinds = result[key].as_object().expect("kinds and their numbers");
    let kinds = kinds.iter().map(|(kind, times)| format!("{kind} ({})", grouped(times.as_u64().unwrap_or(0))));
    kinds.collect::<Vec<_>>().join(", ")
}

/// `4 of 4, 5 of 5`.
fn peaks(result: &Value) -> String {
    let of = |key: &str| result[key].as_array().expect("a number for each node").clone();
    let each = of("peak_in_flight").into_iter().zip(of("slots"));
    each.map(|(peak, slots)| format!("{peak} of {slots}")).collect::<Vec<_>>().join(", ")
}

/// Median and maximum for each kind.
fn times(result: &Value, key: &str) -> String {
    let kinds = result[key].as_object().expect("kinds and their times");
    let of = |(kind, times): (&String, &Value)| {
        format!("{kind} {} and {} ms of {}", whole(times, "/p50"), whole(times, "/max"), whole(times, "/count"))
    };
    kinds.iter().map(of).collect::<Vec<_>>().join("; ")
}

fn number(result: &Value, key: &str, who: &str, part: &str) -> f64 {
    result[key][who][part].as_f64().unwrap_or_else(|| panic!("{key}, {who}, {part} in {result}"))
}

/// The first few of the requests that waited longest, and why.
fn longest(leader: &Value) -> String {
    let waits = leader.pointer("/slowest/awake").and_then(Value::as_array).expect("a list of requests");
    let seconds = |value: &Value| value.as_f64().unwrap_or(f64::NAN) / 1e3;
    let fault = |fault: &Value| {
        let [from, to] = ["from_ms", "to_ms"].map(|key| seconds(&fault[key]));
        format!("{} (gateway {}, {from:.1} to {to:.1} s)", text(&fault["what"]), fault["gateway"])
    };
    let shown = |wait: &Value| {
        let faults = wait["faults"].as_array().expect("a list of faults").iter().map(fault).collect::<Vec<_>>();
        let [sent, awake] = ["sent_ms", "awake_ms"].map(|key| seconds(&wait[key]));
        let faults = faults.join(", ");
        format!("gateway {}, sent at {sent:.1} s: {awake:.1} s; {faults}", wait["gateway"])
    };
    waits.iter().take(3).map(shown).collect::<Vec<_>>().join("<br>")
}

fn series(result: &Value, pointer: &str) -> String {
    let looks = result.pointer(pointer).and_then(Value::as_array).expect("a list of numbers");
    looks.iter().map(|look| format!("{:.0}", look.as_f64().unwrap_or(f64::NAN))).collect::<Vec<_>>().join(", ")
}

fn row(figure: &str, value: String) -> Vec<String> {
    vec![figure.to_owned(), value]
}

/// Random schedules of simulated gateways.
fn simulated(result: &Value) -> Vec<Vec<String>> {
    vec![
        row(
            "random schedules, from seed",
            format!("{}, {}", whole(result, "/schedules"), whole(result, "/first_seed")),
        ),
        row("simulated hours", whole(result, "/simulated_hours")),
        row("requests, grants of a slot", format!("{}, {}", whole(result, "/requests"), whole(result, "/grants"))),
        row("faults", list(result, "faults")),
    ]
}

/// Gateways of which one leads, while they are struck.
fn led(result: &Value) -> Vec<Vec<String>> {
    vec![
        row("strikes", list(result, "strikes")),
        row("most in flight on each node", peaks(result)),
        row("another gateway leads, with every slot, after (median and maximum)", times(result, "handover_ms")),
        row(
            "longest wait for a first byte into which a fault fell, without pauses of the request's own gateway (median and maximum)",
            times(result, "longest_wait_ms"),
        ),
        row("longest wait since the last fault", format!("{} ms", whole(result, "/longest_wait_since_a_fault_ms"))),
        row("the requests that waited longest at a gateway that was awake", longest(result)),
        row("answers", whole(result, "/clients/answered")),
        row(
            "requests lost at a gateway that was killed or stopped",
            whole(result, "/clients/interrupted_at_an_ended_gateway"),
        ),
        row(
            "refused by a gateway that had been paused, within 2 s",
            whole(result, "/clients/refused_within_2_s_of_a_pause"),
        ),
        row("errors besides", whole(result, "/clients/errors_elsewhere")),
        row(
            "seconds, load average at the end, build",
            format!("{}, {}, {}", whole(result, "/seconds"), text(&result["load_average"]), text(&result["build"])),
        ),
        row("seed", text(&result["seed"])),
    ]
}

/// Gateways that divide the slots.
fn shared(result: &Value) -> Vec<Vec<String>> {
    vec![
        row("strikes", list(result, "strikes")),
        row("most in flight on each node", peaks(result)),
        row("seed", text(&result["seed"])),
    ]
}

/// Two gateways that serve for long.
fn paired(result: &Value) -> Vec<Vec<String>> {
    vec![
        row("seconds, requests", format!("{}, {}", whole(result, "/seconds"), whole(result, "/requests"))),
        row("looks while nothing ran, with every counter at 0", whole(result, "/looks")),
        row(
            "concurrency that both hold in reserve then, first, last and most",
            ["first", "last", "most"].map(|key| text(&result["leased"][key])).join(", "),
        ),
        row(
            "answers that clients saw complete; rows lost, doubled",
            format!(
                "{}; {}, {}",
                whole(result, "/rows/acknowledged"),
                whole(result, "/rows/lost"),
                whole(result, "/rows/doubled")
            ),
        ),
        row("resident memory of the leader, MiB", series(result, "/memory/first_mib")),
        row("of the other one, MiB", series(result, "/memory/second_mib")),
        row("open files of the leader", series(result, "/descriptors/first")),
        row("of the other one", series(result, "/descriptors/second")),
        row("seed, build", format!("{}, {}", text(&result["seed"]), text(&result["build"]))),
    ]
}

/// What a request costs at a gateway that follows another one.
fn followed(result: &Value) -> Vec<Vec<String>> {
    let followed = [
        ("until the node is asked", "until_the_node_is_asked_ms"),
        ("until the first byte", "until_the_first_byte_ms"),
    ];
    let of = |(what, key): (&str, &str)| {
        let at = |who: &str| ["p50", "p99"].map(|part| format!("{:.2}", number(result, key, who, part))).join(" and ");
        vec![what.to_owned(), at("leader"), at("follower"), at("extra")]
    };
    followed.map(of).to_vec()
}

/// Gateways that are restarted one after the other.
fn rolled(result: &Value) -> Vec<Vec<String>> {
    vec![
        row("restarts", whole(result, "/restarts")),
        row("answers", whole(result, "/clients/answered")),
        row(
            "connections refused, which clients made to the next gateway",
            whole(result, "/clients/refused_connections"),
        ),
        row("errors", whole(result, "/clients/errors")),
        row("longest answer", format!("{} ms", whole(result, "/clients/longest_answer_ms"))),
        row("most in flight on each node", peaks(result)),
        row(
            "seconds, load average at the end, build, seed",
            format!(
                "{}, {}, {}, {}",
                whole(result, "/seconds"),
                text(&result["load_average"]),
                text(&result["build"]),
                text(&result["seed"])
            ),
        ),
    ]
}

/// How often gateways were terminated while one led.
fn terminations(leader: &Value) -> u64 {
    let strikes = leader["strikes"].as_object().expect("kinds and their numbers");
    let terminated = strikes.iter().filter(|(kind, _)| kind.starts_with("SIGTERM"));
    terminated.filter_map(|(_, times)| times.as_u64()).sum()
}

pub fn section(result: impl Fn(&str) -> Value) -> String {
    let [schedules, leader, slots, pair, follower, rolling] = TOLD.map(result);
    let times = terminations(&leader);
    let heads = ["figure", "value"];
    format!(
        "## Several gateways never send a node more than its slots\n\nSimulated gateways, clocks, network and database, in random \
         schedules of faults. Every schedule kept the [promises](internals/decisions.md#several-gateways):\n\n{}\n\
         ```sh\nCLUSTER_SCHEDULES=200000 CLUSTER_RESULTS=tests/chaos/results cargo test --release -p cluster no_slot\n```\n\n\
         Three real gateways of which one leads, with twice as many clients as slots, on one Postgres. They, their links and \
         Postgres are struck again and again. The nodes count what is in flight:\n\n{}\n\
         ```sh\nCHAOS_CLUSTER={times} CHAOS_RESULTS=tests/chaos/results cargo test --test chaos leader:: -- --nocapture\n```\n\n\
         Streams, one at a time, in turn at a gateway that leads and at one that follows it, {} each, on loopback (build \
         {}, load average {}). Milliseconds, median and 99th percentile:\n\n{}\n\
         ```sh\nCHAOS_FOLLOWER=2000 CHAOS_RESULTS=tests/chaos/results cargo test --release --test chaos follower:: -- --nocapture\n```\n\n\
         Three real gateways that are restarted one after the other under load, behind a TCP balancer that checks readiness. A \
         client repeats what was refused or reset before any byte of an answer, and what a stopping gateway sent away, as \
         SDKs do:\n\n{}\n\
         ```sh\nCHAOS_ROLLS={} CHAOS_RESULTS=tests/chaos/results cargo test --test chaos rolling:: -- --nocapture\n```\n\n\
         Three real gateways without a link, which divide the slots:\n\n{}\n\
         ```sh\nCHAOS_STRIKES=40 CHAOS_RESULTS=tests/chaos/results cargo test --test chaos slots:: -- --nocapture\n```\n\n\
         Two real gateways that serve for long. The leader's memory grows until its stories of requests fill their \
         32 MiB:\n\n{}\n\
         ```sh\nPAIR_SECONDS=1800 CHAOS_RESULTS=tests/chaos/results cargo test --test chaos pair:: -- --nocapture\n```\n\n",
        table(&heads, simulated(&schedules)),
        table(&heads, led(&leader)),
        whole(&follower, "/requests_each"),
        text(&follower["build"]),
        text(&follower["load_average"]),
        table(&["", "leader", "follower", "extra"], followed(&follower)),
        table(&heads, rolled(&rolling)),
        rolling["restarts"].as_u64().unwrap_or(0) / 3,
        table(&heads, shared(&slots)),
        table(&heads, paired(&pair)),
    )
}
