//! How long does a decision take, in small and in very large fleets whose nodes are full?
//!
//! `cargo bench -p scheduler` runs every row, and `cargo bench -p scheduler -- 64` those whose title contains "64". Each
//! event is timed separately, in the order in which a gateway would receive it. Every run is repeated, since the same
//! events make the same decisions; the time of an event is the least of its repetitions (`RUNS=`, 3 by default), because
//! other programs on the machine can only lengthen it. Gates that are missed are marked, and fail the benchmark with
//! `GATES=1`.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark that cannot go on may panic, and reads clocks and its environment"
)]

mod fleet;
mod ordinary;
mod traffic;
mod views;

use std::collections::BTreeMap;

use fleet::{Run, Scale};

/// The most that an event may take, in microseconds.
#[derive(Copy, Clone, Default)]
struct Gate {
    mean: Option<f64>,
    p99: Option<f64>,
    worst: Option<f64>,
}

struct Row {
    title: &'static str,
    scale: Scale,
    gate: Gate,
}

/// The most slots that may be free although their model is waited for, in percent.
const MOST_IDLE: f64 = 5.0;
/// How many times longer an event may take with ten times the nodes and models.
const MOST_GROWTH: f64 = 3.0;
/// The row with ten times the nodes, models, users and requests of the row before it.
const LARGEST: usize = 4;

const ROWS: [Row; 5] = [
    Row {
        title: "64 nodes x 10 models, 1,000 users, 10,000 queued",
        scale: Scale { nodes: 64, models: 10, users: 1000, queued: 10_000 },
        gate: Gate { mean: None, p99: Some(50.0), worst: None },
    },
    Row {
        title: "64 nodes x 10 models, 10,000 users, 20,000 queued",
        scale: Scale { nodes: 64, models: 10, users: 10_000, queued: 20_000 },
        gate: Gate { mean: None, p99: Some(80.0), worst: None },
    },
    Row {
        title: "300 nodes x 100 models, 1,000 users, 10,000 queued",
        scale: Scale { nodes: 300, models: 100, users: 1000, queued: 10_000 },
        gate: Gate { mean: Some(30.0), p99: Some(250.0), worst: Some(5000.0) },
    },
    Row {
        title: "100 nodes x 20 models, 400 users, 2,000 queued",
        scale: Scale { nodes: 100, models: 20, users: 400, queued: 2000 },
        gate: Gate { mean: None, p99: None, worst: None },
    },
    Row {
        title: "1,000 nodes x 200 models, 4,000 users, 20,000 queued",
        scale: Scale { nodes: 1000, models: 200, users: 4000, queued: 20_000 },
        gate: Gate { mean: Some(50.0), p99: Some(500.0), worst: None },
    },
];

/// Figures beside their gates.
#[derive(Default)]
struct Verdict {
    missed: Vec<String>,
}

impl Verdict {
    fn check(&mut self, what: &str, figure: f64, most: f64, unit: &str) {
        let is_met = figure <= most;
        println!("  {what}: {figure:.2}{unit}, gate {most}{unit}{}", if is_met { "" } else { " - MISSED" });
        if !is_met {
            self.missed.push(what.to_owned());
        }
    }
}

/// Times in nanoseconds.
struct Times(Vec<u64>);

impl Times {
    fn new(mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    fn at(&self, share: f64) -> f64 {
        self.0[((self.0.len() - 1) as f64 * share) as usize] as f64 / 1000.0
    }

    fn mean(&self) -> f64 {
        self.0.iter().sum::<u64>() as f64 / self.0.len() as f64 / 1000.0
    }

    fn print(&self, kind: &str) {
        let Self(times) = self;
        let (mean, p50, p99, worst) = (self.mean(), self.at(0.5), self.at(0.99), self.at(1.0));
        println!("{kind:<12} {:>8} {mean:>9.2} {p50:>9.2} {p99:>9.2} {worst:>9.1}", times.len());
    }
}

/// Runs a row several times; each event's time is the least of all runs.
fn measure(scale: Scale, runs: usize) -> Run {
    let mut least = Run::of(scale);
    for _ in 1..runs {
        let again = Run::of(scale);
        assert_eq!(least.digest, again.digest, "the same events make the same decisions");
        for ((kind, time), (its_kind, its_time)) in least.times.iter_mut().zip(again.times) {
            assert_eq!(*kind, its_kind);
            *time = (*time).min(its_time);
        }
    }
    least
}

fn report(row: &Row, run: &Run, verdict: &mut Verdict) -> f64 {
    println!("\n{}: {} queued, {} running, digest {:016x}", row.title, run.queued, run.running, run.digest);
    println!("{:<12} {:>8} {:>9} {:>9} {:>9} {:>9}", "event", "count", "mean us", "p50 us", "p99 us", "worst us");
    let mut kinds: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    run.times.iter().for_each(|(kind, time)| kinds.entry(kind).or_default().push(*time));
    kinds.into_iter().for_each(|(kind, times)| Times::new(times).print(kind));
    let all = Times::new(run.times.iter().map(|(_, time)| *time).collect());
    all.print("all");
    let share = |slots: usize| 100.0 * slots as f64 / run.warm.all.max(1) as f64;
    println!("  warm slots that drain for a load: {:.2} %", share(run.warm.draining));
    verdict.check("other warm slots idle", share(run.warm.idle), MOST_IDLE, " %");
    assert!(share(run.warm.idle) <= MOST_IDLE, "the nodes are not full");
    let gates = [("mean", all.mean(), row.gate.mean), ("p99", all.at(0.99), row.gate.p99)];
    for (what, figure, gate) in gates.into_iter().chain([("worst", all.at(1.0), row.gate.worst)]) {
        if let Some(most) = gate {
            verdict.check(what, figure, most, " us");
        }
    }
    all.mean()
}

fn main() {
    let chosen = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let set = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<usize>().ok());
    let runs = set("RUNS").unwrap_or(3).max(1);
    println!("each event's time is the least of {runs} identical runs");
    let (mut verdict, mut before) = (Verdict::default(), None);
    for (index, row) in ROWS.iter().enumerate().filter(|(_, row)| row.title.contains(&chosen)) {
        let mut run = measure(row.scale, runs);
        let mean = report(row, &run, &mut verdict);
        if index == LARGEST {
            if let Some(before) = before {
                verdict.check("an event, with ten times the nodes and models", mean / before, MOST_GROWTH, " x");
            }
            views::measure(&mut run.fleet, &mut verdict);
        }
        before = Some(mean);
    }
    let ordinary = ordinary::ROWS.iter().filter(|row| row.title.contains(&chosen));
    ordinary.for_each(|row| ordinary::measure(row, runs, &mut verdict));
    println!("\nmissed gates: {}", verdict.missed.len());
    assert!(set("GATES").is_none() || verdict.missed.is_empty(), "{:?}", verdict.missed);
}
