//! How well does the scheduler serve fleets in virtual time, beside simple routers and a near-oracle?
//!
//! The *reference* is the design's: eight nodes under 50 to 95 % load, in bursts, under a flood, with a silent death
//! and a grey node; also equal nodes, and a smaller and a larger fleet. Its gates G1 to G8 are geometric means over
//! five fixed seeds, and hold with a margin of 10 %. *Fitted* traffic follows public traces ([`traces`]), on 8 and 64
//! nodes.
//!
//! The nodes behave as Ollama does: requests whose model was not in memory on arrival wait in one line and are served
//! strictly in order, whatever has been loaded since (`processPending` in Ollama's `sched.go`). That makes
//! least-outstanding-requests (LOR) far worse than a line for each model would. The other baselines therefore say more:
//! what a simple router that knows Ollama achieves, and what is possible at best.
//!
//! The relay's deadlines are left out. `cargo test -p scheduler --test fleet -- --nocapture` prints the tables.
//!
//! | what else | command, after `cargo test --release -p scheduler --test fleet --` |
//! |---|---|
//! | every gate of the fitted traffic, five seeds | `--ignored fitted --nocapture` |
//! | `results/fleet.json`, the table of docs/evidence.md: fleets x traffic x load | `--ignored table --nocapture` |
//! | a recorded trace | `TRACE=file RATE=requests_a_second FLEET=8 ... --ignored replay --nocapture` |

mod cache;
mod case;
mod fleets;
mod gateways;
mod machine;
mod routers;
mod traces;
mod traffic;
mod world;

use std::sync::LazyLock;

use case::{CAPACITY, Case, Row, Run, SEEDS, Traffic, run_all};
use fleets::Which;
use gateways::Gateways;
use serde_json::json;
use world::{Policy, Trouble, World};

const CAPACITY_4: f64 = 1.76;
const CAPACITY_16: f64 = 4.98;
/// The margin that the design allows for other seeds.
const MARGIN: f64 = 1.1;
const WITH_ORACLE: &[Policy] = &[Policy::Lor, Policy::LoadedFree, Policy::Core, Policy::Oracle];
const EVERY_RULE: &[Policy] =
    &[Policy::LoadedFree, Policy::TwoChoices, Policy::CacheAware, Policy::Forgetful, Policy::Core, Policy::Oracle];

const HALF: Case = Case { policies: WITH_ORACLE, ..Case::at("50 %", 0.5) };
const BUSY: Case = Case { policies: WITH_ORACLE, ..Case::at("85 %", 0.85) };
const NEARLY_FULL: Case = Case { policies: WITH_ORACLE, ..Case::at("95 %", 0.95) };
const BURSTY: Case = Case { is_bursty: true, ..Case::at("85 % in bursts", 0.85) };
/// Half the capacity, plus one user who asks for 50 % or 150 % of it.
const FLOOD_50: Case = Case { flood: 0.5 * CAPACITY, ..Case::at("flood 50 %", 0.5) };
const FLOOD_150: Case = Case { flood: 1.5 * CAPACITY, ..Case::at("flood 150 %", 0.5) };
/// The same without that user.
const ALONE: Case = Case { is_judged_as_flooded: true, ..Case::at("no flood", 0.5) };
const DEAD: Case = Case { trouble: Trouble::Death, ..Case::at("death", 0.6) };
const GREY: Case = Case { trouble: Trouble::Grey, ..Case::at("grey", 0.6) };
const EQUAL: Case = Case { rate: 2.25, fleet: Which::Homogeneous, ..Case::at("homogeneous", 0.0) };
const SMALL: Case = Case { rate: 0.85 * CAPACITY_4, fleet: Which::Four, ..Case::at("4 nodes, 85 %", 0.0) };
const LARGE: Case = Case { rate: 0.85 * CAPACITY_16, fleet: Which::Sixteen, ..Case::at("16 nodes, 85 %", 0.0) };
const OURS: &[Policy] = &[Policy::Core];
/// The same over several gateways, of which one decides.
const TWO: Case = Case { gateways: Gateways::of(2), policies: OURS, ..Case::at("85 %, 2 gateways", 0.85) };
const FOUR: Case = Case { gateways: Gateways::of(4), policies: OURS, ..Case::at("85 %, 4 gateways", 0.85) };
/// The flooding user has one of the gateways to themselves.
const FLOOD_FOLLOWER: Case =
    Case { title: "flood 150 % through a follower", gateways: Gateways::flooded(4, 3), policies: OURS, ..FLOOD_150 };
const FLOOD_LEADER: Case =
    Case { title: "flood 150 % through the leader", gateways: Gateways::flooded(4, 0), policies: OURS, ..FLOOD_150 };
const CASES: [Case; 12] =
    [HALF, BUSY, NEARLY_FULL, BURSTY, ALONE, FLOOD_50, FLOOD_150, DEAD, GREY, EQUAL, SMALL, LARGE];

/// Every reference case with each of its policies; simulated once for all tests.
static ROWS: LazyLock<Vec<(&'static str, Policy, Row)>> = LazyLock::new(|| run_all(&CASES, &SEEDS));

impl Case {
    fn row(self, policy: Policy) -> &'static Row {
        let row = ROWS.iter().find(|(title, its, _)| *title == self.title && *its == policy);
        row.map(|(_, _, row)| row).expect("it was simulated")
    }

    /// The slow requests' wait under our scheduler, divided by that under another policy.
    fn core_to(self, policy: Policy) -> f64 {
        self.row(Policy::Core).p99() / self.row(policy).p99()
    }
}

fn assert_at_most(what: &str, measured: f64, bound: f64) {
    assert!(measured <= bound, "{what}: {measured:.3}, but at most {bound:.3} is expected");
}

/// G1 and G4 at 85 % load, G8.
#[test]
fn a_busy_fleet_seldom_loads_models_and_leaves_nobody_waiting_for_long() {
    let (core, lor, simple) = (BUSY.row(Policy::Core), BUSY.row(Policy::Lor), BUSY.row(Policy::LoadedFree));
    assert_at_most("G1: p99 to LOR", BUSY.core_to(Policy::Lor), 0.05 * MARGIN);
    assert_at_most("G1: p99 to loaded and free", BUSY.core_to(Policy::LoadedFree), 0.35 * MARGIN);
    assert_at_most("G1: p99 to the near-oracle", BUSY.core_to(Policy::Oracle), 1.3 * MARGIN);
    assert_at_most("G4: loads in 1000 requests", core.loads(), 12.0 * MARGIN);
    assert_at_most("G4: loads to LOR", core.loads() / lor.loads(), MARGIN / 15.0);
    assert_at_most("G4: loads to loaded and free", core.loads() / simple.loads(), MARGIN / 4.0);
    assert_at_most("G8: longest wait, seconds", core.longest(), 90.0 * MARGIN);
}

/// G2.
#[test]
fn at_half_load_the_slowest_wait_far_less_than_behind_a_simple_router() {
    assert_at_most("G2: p99 to LOR", HALF.core_to(Policy::Lor), 0.15 * MARGIN);
    assert_at_most("G2: p99 to loaded and free", HALF.core_to(Policy::LoadedFree), 0.75 * MARGIN);
    assert_at_most("G2: p99 to the near-oracle", HALF.core_to(Policy::Oracle), 1.3 * MARGIN);
}

/// G3.
#[test]
fn a_nearly_full_fleet_still_answers_most_requests_well() {
    let bad = 1.0 - NEARLY_FULL.row(Policy::Core).goodput();
    assert_at_most("G3: share of bad answers", bad, 0.08 * MARGIN);
}

/// G5.
#[test]
fn a_user_who_floods_the_fleet_delays_the_others_little() {
    let (alone, flooded) = (ALONE.row(Policy::Core).p99(), FLOOD_150.row(Policy::Core).p99());
    assert_at_most("G5: p99 of the others under 150 % to alone", flooded / alone, 3.5 * MARGIN);
    assert_at_most("G5: p99 of the others under 150 %, seconds more", flooded - alone, 25.0 * MARGIN);
    let flooded = FLOOD_50.row(Policy::Core).p99();
    assert_at_most("G5: p99 of the others under 50 % to alone", flooded / alone, 2.2 * MARGIN);
}

/// The gates of several gateways with one scheduler, 1 ms apart. A delay of 1 ms changes which request meets which node,
/// and so by chance a p99 over five seeds by 10 %; hence more seeds.
#[test]
fn several_gateways_with_one_scheduler_serve_as_one_does() {
    let seeds: Vec<u64> = (101..=112).collect();
    let cases = [BUSY, TWO, FOUR, ALONE, FLOOD_150, FLOOD_FOLLOWER, FLOOD_LEADER];
    let rows = run_all(&cases.map(|case| Case { policies: OURS, ..case }), &seeds);
    let p99 = |case: Case| rows[find(&rows, case.title, Policy::Core)].2.p99();
    for case in [TWO, FOUR] {
        assert_at_most(&format!("{}: p99 to one gateway", case.title), p99(case) / p99(BUSY), 1.1);
    }
    for case in [FLOOD_FOLLOWER, FLOOD_LEADER] {
        let title = case.title;
        assert_at_most(&format!("{title}: p99 of the others to one gateway"), p99(case) / p99(FLOOD_150), 1.1);
        assert_at_most(&format!("{title}: p99 of the others to alone"), p99(case) / p99(ALONE), 3.5 * MARGIN);
        assert_at_most(&format!("{title}: p99 of the others, seconds more"), p99(case) - p99(ALONE), 25.0 * MARGIN);
    }
}

/// G6.
#[test]
fn a_node_that_dies_silently_or_turns_slow_does_not_hold_up_the_fleet() {
    assert_at_most("G6: p99 around a death to LOR", DEAD.core_to(Policy::Lor), 0.2 * MARGIN);
    assert_at_most("G6: p99 around a grey node to LOR", GREY.core_to(Policy::Lor), 0.2 * MARGIN);
    // At most what had begun on the dead node: four slots for each model that fits there.
    let failed = DEAD.row(Policy::Core).mean(|run| run.failed as f64);
    assert_at_most("G6: streams that ended with an error", failed, 8.0);
    for case in CASES.iter().filter(|case| case.trouble != Trouble::Death) {
        assert_eq!(
            case.row(Policy::Core).mean(|run| run.failed as f64),
            0.0,
            "errors without a reason: {}",
            case.title
        );
    }
}

/// G7.
#[test]
fn on_equal_nodes_little_is_lost_to_the_fewest_outstanding_requests() {
    assert_at_most("G7: p99 to LOR", EQUAL.core_to(Policy::Lor), 1.05 * MARGIN);
}

/// Not gates of the design: the bounds are today's results plus a quarter.
#[test]
fn bursts_and_other_fleets_change_little() {
    for (case, bound) in [(BURSTY, 0.35), (SMALL, 0.35), (LARGE, 0.9)] {
        assert_at_most(&format!("{}: p99 to loaded and free", case.title), case.core_to(Policy::LoadedFree), bound);
    }
}

/// Eight nodes, and 64, under fitted traffic.
fn fitted(traffic: Traffic, fleet: Which, load: f64, title: &'static str) -> Case {
    let (nodes, requests) = if fleet == Which::SixtyFour { (8.0, 12_000) } else { (1.0, 4000) };
    let rate = load * nodes * traffic.capacity();
    Case { traffic, fleet, rate, requests, policies: EVERY_RULE, ..Case::at(title, 0.0) }
}

fn find(rows: &[(&'static str, Policy, Row)], title: &str, policy: Policy) -> usize {
    rows.iter().position(|(its, its_policy, _)| *its == title && *its_policy == policy).expect("it was simulated")
}

/// Checks the gates of the fitted traffic; with fewer seeds the bounds are wider by `slack`.
fn check_fitted(rows: &[(&'static str, Policy, Row)], slack: f64) {
    let row = |title: &str, policy: Policy| &rows[find(rows, title, policy)].2;
    for title in ["64 nodes, Azure", "64 nodes, Mooncake"] {
        let (core, simple) = (row(title, Policy::Core), row(title, Policy::LoadedFree));
        assert_at_most(&format!("{title}: p99 to loaded and free"), core.p99() / simple.p99(), slack);
        assert_at_most(&format!("{title}: warm slots idle"), core.mean(|run| run.idle), 0.05 * slack);
    }
    for title in ["8 nodes, Azure", "8 nodes, Mooncake", "8 nodes, bursts", "8 nodes, agents"] {
        let others = EVERY_RULE.iter().filter(|policy| **policy != Policy::Core);
        let best = others.map(|policy| row(title, *policy).p99()).fold(f64::INFINITY, f64::min);
        assert_at_most(&format!("{title}: p99 to the best rule"), row(title, Policy::Core).p99() / best, 1.15 * slack);
    }
    // Copies of a model must come as fast as a burst does.
    let simple = [Policy::LoadedFree, Policy::TwoChoices, Policy::CacheAware];
    let best = simple.map(|policy| row("64 nodes, bursts", policy).p99()).into_iter().fold(f64::INFINITY, f64::min);
    let core = row("64 nodes, bursts", Policy::Core).p99();
    assert_at_most("64 nodes, bursts: p99 to the best simple rule", core / best, slack);
    let (with, without) = (row("8 nodes, agents", Policy::Core), row("8 nodes, agents", Policy::Forgetful));
    assert_at_most("agents: p50 to no memory of prefixes", with.p50() / without.p50(), 0.75 * slack);
    assert_at_most("agents: Jain's index lost", without.mean(|run| run.jain) / with.mean(|run| run.jain), 1.02);
}

fn fitted_cases() -> [Case; 7] {
    [
        fitted(Traffic::Azure, Which::SixtyFour, 0.85, "64 nodes, Azure"),
        fitted(Traffic::Mooncake, Which::SixtyFour, 0.85, "64 nodes, Mooncake"),
        fitted(Traffic::Azure, Which::Eight, 0.85, "8 nodes, Azure"),
        fitted(Traffic::Mooncake, Which::Eight, 0.85, "8 nodes, Mooncake"),
        fitted(Traffic::Bursts, Which::Eight, 0.85, "8 nodes, bursts"),
        fitted(Traffic::Agents, Which::Eight, 0.85, "8 nodes, agents"),
        fitted(Traffic::Bursts, Which::SixtyFour, 0.85, "64 nodes, bursts"),
    ]
}

/// One seed and fewer requests; [`fitted_traffic_on_8_and_64_nodes`] does the rest.
#[test]
fn a_short_run_of_fitted_traffic_on_8_and_64_nodes() {
    let policies: &[Policy] = &[Policy::LoadedFree, Policy::Core];
    let cases = fitted_cases().map(|case| Case { requests: 2 * case.requests / 5, ..case });
    let cases: Vec<Case> = cases[..2].iter().map(|case| Case { policies, ..*case }).collect();
    let rows = run_all(&cases, &SEEDS[..1]);
    for case in &cases {
        let row = |policy| &rows[find(&rows, case.title, policy)].2;
        let (core, simple) = (row(Policy::Core), row(Policy::LoadedFree));
        // One seed of a short run says little: 2.9 on Azure, where whole runs with five seeds give 0.93.
        let bound = if case.traffic == Traffic::Azure { 3.2 } else { 1.15 };
        assert_at_most(&format!("{}: p99 to loaded and free", case.title), core.p99() / simple.p99(), bound);
        assert_at_most(&format!("{}: warm slots idle", case.title), core.mean(|run| run.idle), 0.08);
    }
}

#[test]
#[ignore = "minutes; run it with --release"]
fn fitted_traffic_on_8_and_64_nodes() {
    check_fitted(&run_all(&fitted_cases(), &SEEDS), 1.0);
}

#[test]
#[ignore = "minutes; writes results/fleet.json"]
fn table_of_fleets_traffic_and_load() {
    let mut rows = Vec::new();
    for (fleet, nodes) in [(Which::Four, 4), (Which::Eight, 8), (Which::Sixteen, 16), (Which::SixtyFour, 64)] {
        for traffic in Traffic::FITTED {
            for percent in [50, 85, 95] {
                let load = f64::from(percent) / 100.0;
                let title = format!("{nodes} nodes, {traffic:?}, {percent} %").leak();
                let rate = load * f64::from(nodes) / 8.0 * traffic.capacity();
                let its = run_all(&[Case { rate, ..fitted(traffic, fleet, load, title) }], &SEEDS);
                let figures = its.iter().map(|(_, policy, row)| (format!("{policy:?}"), row.figures()));
                let figures: serde_json::Map<_, _> = figures.collect();
                rows.push(
                    json!({"nodes": nodes, "traffic": format!("{traffic:?}"), "load": percent, "rules": figures}),
                );
            }
        }
    }
    let result = json!({"seeds": SEEDS, "rows": rows});
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fleet/results/fleet.json");
    std::fs::write(path, serde_json::to_string_pretty(&result).unwrap() + "\n").unwrap();
}

/// The rate for each traffic at which the near-oracle's mean time to the first token is 8 s on eight nodes.
#[test]
#[ignore = "finds the capacities that the cases are given as"]
fn capacities_of_fitted_traffic() {
    for traffic in Traffic::FITTED {
        let (mut low, mut high) = (0.2_f64, 60.0_f64);
        for _ in 0..8 {
            let rate = (low * high).sqrt();
            let case = Case { rate, ..fitted(traffic, Which::Eight, 1.0, "capacity") };
            let is_within = case.run(Policy::Oracle, SEEDS[0]).mean < 8.0;
            *(if is_within { &mut low } else { &mut high }) = rate;
        }
        println!("{traffic:?}: {low:.2} requests a second");
    }
}

#[test]
#[ignore = "replays the trace that TRACE names"]
fn replay_of_a_recorded_trace() {
    let set = |name: &str| std::env::var(name).ok();
    let path = set("TRACE").expect("TRACE names a file");
    let rate = set("RATE").and_then(|rate| rate.parse().ok()).expect("RATE says how many requests a second");
    let fleet = match set("FLEET").as_deref() {
        Some("4") => Which::Four,
        Some("16") => Which::Sixteen,
        Some("64") => Which::SixtyFour,
        _ => Which::Eight,
    };
    let fleet = fleet.fleet(true);
    let mut asks = traces::read(&path, rate);
    asks.iter_mut().for_each(|ask| ask.model %= fleet.sizes.len());
    let end = asks.iter().filter(|ask| ask.after.is_none()).map(|ask| ask.at).fold(0.0, f64::max);
    println!("{}", Row::HEADER);
    for policy in EVERY_RULE {
        let world = World::new(&fleet, &asks, *policy, Trouble::None, Gateways::ONE).run();
        println!("{}", Row(vec![Run::of(&asks, &world, (0.1 * end, end), 5.0)]).line("replay", *policy));
    }
}
