//! Which cases are simulated, and what is measured in a run?

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fleets::Which;
use crate::gateways::Gateways;
use crate::traces;
use crate::traffic::{self, Ask, FLOOD};
use crate::world::{Job, Policy, Trouble, World};

pub const SEEDS: [u64; 5] = [101, 102, 103, 104, 105];
/// Requests a second of the reference traffic at full load.
pub const CAPACITY: f64 = 2.12;
const REQUESTS: usize = 4000;
/// A token counts as late after this many seconds.
const SLOW_TOKEN: f64 = 0.15;

/// The kind of traffic.
#[derive(Copy, Clone, PartialEq, Debug)]
pub enum Traffic {
    /// Sessions as `fleets.json` describes them; the prompts are cached in slots only.
    Reference,
    Azure,
    Mooncake,
    Bursts,
    Agents,
}

impl Traffic {
    pub const FITTED: [Self; 4] = [Self::Azure, Self::Mooncake, Self::Bursts, Self::Agents];

    /// The rate, in requests a second, at which the near-oracle's mean time to the first token is about 8 s on eight
    /// nodes; the test `capacities_of_fitted_traffic` finds it.
    pub fn capacity(self) -> f64 {
        match self {
            Self::Reference => CAPACITY,
            Self::Azure => 2.7,
            Self::Mooncake => 1.5,
            Self::Bursts => 3.7,
            Self::Agents => 8.8,
        }
    }

    /// A request is well served if its first token comes within this many seconds.
    fn patience(self) -> f64 {
        if self == Self::Reference { 10.0 } else { 5.0 }
    }
}

#[derive(Copy, Clone, Debug)]
pub struct Case {
    pub title: &'static str,
    pub traffic: Traffic,
    /// Requests a second.
    pub rate: f64,
    pub requests: usize,
    pub is_bursty: bool,
    /// Requests a second of one additional user.
    pub flood: f64,
    /// Measure over the same period as with a flood.
    pub is_judged_as_flooded: bool,
    pub trouble: Trouble,
    pub fleet: Which,
    pub gateways: Gateways,
    pub policies: &'static [Policy],
}

impl Case {
    /// The reference traffic on eight nodes.
    pub const fn at(title: &'static str, load: f64) -> Self {
        Self {
            title,
            traffic: Traffic::Reference,
            rate: load * CAPACITY,
            requests: REQUESTS,
            is_bursty: false,
            flood: 0.0,
            is_judged_as_flooded: false,
            trouble: Trouble::None,
            fleet: Which::Eight,
            gateways: Gateways::ONE,
            policies: &[Policy::Lor, Policy::LoadedFree, Policy::Core],
        }
    }

    fn asks(self, seed: u64, models: usize) -> Vec<Ask> {
        match self.traffic {
            Traffic::Reference => traffic::sessions(seed, self.requests, self.rate, models, self.is_bursty),
            Traffic::Azure => traces::azure(seed, self.requests, self.rate),
            Traffic::Mooncake => traces::mooncake(seed, self.requests, self.rate),
            Traffic::Bursts => traces::bursts(seed, self.requests, self.rate),
            Traffic::Agents => traces::agents(seed, self.requests, self.rate),
        }
    }

    pub fn run(self, policy: Policy, seed: u64) -> Run {
        let fleet = self.fleet.fleet(self.traffic != Traffic::Reference);
        let mut asks = self.asks(seed, fleet.sizes.len());
        if fleet.sizes.len() < 5 {
            asks.iter_mut().for_each(|ask| ask.model %= fleet.sizes.len());
        }
        let first_turns = asks.iter().filter(|ask| ask.after.is_none());
        let end = first_turns.map(|ask| ask.at).fold(0.0, f64::max);
        let mut judged = (0.1 * end, if self.traffic == Traffic::Reference { f64::INFINITY } else { end });
        if self.trouble != Trouble::None {
            judged = (0.5 * end - 60.0, 0.5 * end + 660.0);
        }
        if self.flood > 0.0 {
            asks = traffic::with_flood(asks, seed, self.flood, fleet.sizes.len());
        }
        if self.flood > 0.0 || self.is_judged_as_flooded {
            judged = (0.25 * end, 0.8 * end);
        }
        let world = World::new(&fleet, &asks, policy, self.trouble, self.gateways).run();
        Run::of(&asks, &world, judged, self.traffic.patience())
    }
}

/// The result of one run: seconds to the first byte, shares, and loads for each thousand requests.
#[derive(Copy, Clone, Debug)]
pub struct Run {
    pub p50: f64,
    pub p99: f64,
    pub mean: f64,
    pub max: f64,
    pub goodput: f64,
    pub loads: f64,
    pub failed: usize,
    /// How many slots were free, as a share, of the models that requests waited for.
    pub idle: f64,
    /// How many of the prompts' tokens were cached, as a share.
    pub hits: f64,
    /// Jain's fairness index over the users' mean speeds.
    pub jain: f64,
}

impl Run {
    pub fn of(asks: &[Ask], world: &World<'_>, judged: (f64, f64), patience: f64) -> Self {
        let is_judged = |ask: &Ask, job: &Job| job.at >= judged.0 && job.at < judged.1 && ask.user != FLOOD;
        let judged: Vec<_> = asks.iter().zip(&world.jobs).filter(|(ask, job)| is_judged(ask, job)).collect();
        let mut waits = Vec::new();
        let mut speeds = vec![(0.0, 0.0); FLOOD + 64];
        let (mut good, mut failed) = (0, 0);
        for (ask, job) in &judged {
            if job.has_failed {
                failed += 1;
                continue;
            }
            let (first, done) = job.first.zip(job.done).expect("every request is answered in the end");
            waits.push(first - job.at);
            good += usize::from(first - job.at <= patience && (done - first) / ask.output <= SLOW_TOKEN);
            let work = (ask.prompt / 25.0 + ask.output) * world.sizes[ask.model];
            let speed = &mut speeds[ask.user];
            *speed = (speed.0 + work / (done - job.at).max(1e-3), speed.1 + 1.0);
        }
        waits.sort_by(f64::total_cmp);
        let count = waits.len();
        let speeds = speeds.iter().filter(|(_, count)| *count >= 10.0).map(|(sum, count)| sum / count);
        let (sum, squares, users) = speeds
            .fold((0.0, 0.0, 0.0), |(sum, squares, users), speed| (sum + speed, squares + speed * speed, users + 1.0));
        Self {
            p50: waits[count / 2],
            p99: waits[count * 99 / 100],
            mean: waits.iter().sum::<f64>() / count as f64,
            max: waits[count - 1],
            goodput: good as f64 / judged.len() as f64,
            loads: world.loads() as f64 * 1000.0 / asks.len() as f64,
            failed,
            idle: world.idle / world.slot_seconds.max(1e-9),
            hits: world.hit_share(),
            jain: sum * sum / (users * squares),
        }
    }
}

/// The runs of one case and policy, one for each seed.
pub struct Row(pub Vec<Run>);

impl Row {
    pub fn geometric(&self, of: impl Fn(&Run) -> f64) -> f64 {
        let logs = self.0.iter().map(|run| of(run).max(1e-3).ln());
        (logs.sum::<f64>() / self.0.len() as f64).exp()
    }

    pub fn mean(&self, of: impl Fn(&Run) -> f64) -> f64 {
        self.0.iter().map(of).sum::<f64>() / self.0.len() as f64
    }

    pub fn p99(&self) -> f64 {
        self.geometric(|run| run.p99)
    }

    pub fn p50(&self) -> f64 {
        self.geometric(|run| run.p50)
    }

    pub fn longest(&self) -> f64 {
        self.mean(|run| run.max)
    }

    pub fn goodput(&self) -> f64 {
        self.mean(|run| run.goodput)
    }

    pub fn loads(&self) -> f64 {
        self.mean(|run| run.loads)
    }

    /// The figures of the evidence, rounded: seconds, and shares in percent.
    pub fn figures(&self) -> serde_json::Value {
        let round = |value: f64| (100.0 * value).round() / 100.0;
        let percent = |of: fn(&Run) -> f64| round(100.0 * self.mean(of));
        serde_json::json!({
            "p50": round(self.p50()),
            "p99": round(self.p99()),
            "good": percent(|run| run.goodput),
            "loads": round(self.loads()),
            "idle": percent(|run| run.idle),
            "cached": percent(|run| run.hits),
            "jain": percent(|run| run.jain),
        })
    }

    pub const HEADER: &'static str = "| case | policy | p50 s | p99 s | mean s | max s | good % | loads ‰ | idle % | cached % | Jain | errors |\n\
                                      |---|---|---|---|---|---|---|---|---|---|---|---|";

    /// One row of a markdown table.
    pub fn line(&self, title: &str, policy: Policy) -> String {
        let percent = |of: fn(&Run) -> f64| 100.0 * self.mean(of);
        format!(
            "| {title} | {policy:?} | {:.2} | {:.1} | {:.2} | {:.0} | {:.1} | {:.1} | {:.1} | {:.0} | {:.3} | {:.1} |",
            self.p50(),
            self.p99(),
            self.mean(|run| run.mean),
            self.longest(),
            percent(|run| run.goodput),
            self.loads(),
            percent(|run| run.idle),
            percent(|run| run.hits),
            self.mean(|run| run.jain),
            self.mean(|run| run.failed as f64),
        )
    }
}

/// Runs every case with each of its policies and every seed, on all processors, and prints a row for each.
pub fn run_all(cases: &[Case], seeds: &[u64]) -> Vec<(&'static str, Policy, Row)> {
    let policies: Vec<_> = cases.iter().flat_map(|case| case.policies.iter().map(move |it| (case, *it))).collect();
    let work: Vec<_> =
        policies.iter().flat_map(|(case, policy)| seeds.iter().map(move |seed| (*case, *policy, *seed))).collect();
    let next = AtomicUsize::new(0);
    let take_and_run = || {
        let mut runs = Vec::new();
        while let Some((case, policy, seed)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
            runs.push((case.title, *policy, *seed, case.run(*policy, *seed)));
        }
        runs
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let mut runs: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(take_and_run)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no run panics")).collect()
    });
    runs.sort_by_key(|(_, _, seed, _)| *seed);
    let row = |(case, policy): &(&Case, Policy)| {
        let its = runs.iter().filter(|(title, its_policy, ..)| *title == case.title && its_policy == policy);
        (case.title, *policy, Row(its.map(|(.., run)| *run).collect()))
    };
    let rows: Vec<_> = policies.iter().map(row).collect();
    println!("{}", Row::HEADER);
    rows.iter().for_each(|(title, policy, row)| println!("{}", row.line(title, *policy)));
    rows
}
