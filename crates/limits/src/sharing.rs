//! Several gateways that share limits, simulated with their table: whatever they do, together they never go over.
#![cfg(test)]
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);
const PERCENT: u64 = 5;
/// Each limit in turn is the one that is reached.
const LIMITS: [Limits; 4] = [
    Limits { requests_per_minute: Some(20), ..NONE },
    Limits { tokens_per_minute: Some(3_000), ..NONE },
    Limits { tokens_per_day: Some(5_000), ..NONE },
    Limits {
        requests_per_minute: Some(40),
        tokens_per_minute: Some(6_000),
        tokens_per_day: Some(9_000),
        max_concurrency: Some(6),
    },
];
const NONE: Limits =
    Limits { requests_per_minute: None, tokens_per_minute: None, tokens_per_day: None, max_concurrency: None };

/// What can happen to one of the gateways, or to all.
#[derive(Clone, Copy, Debug)]
enum Step {
    Request {
        gateway: usize,
        prompt: u64,
        output: Option<u64>,
    },
    End {
        gateway: usize,
        which: usize,
        hundredths: u64,
    },
    /// Rows come into the database, and a moment later the gateway hears of it.
    Copy {
        gateway: usize,
    },
    Hear {
        gateway: usize,
    },
    Beat {
        gateway: usize,
    },
    Die {
        gateway: usize,
    },
    Leave {
        gateway: usize,
    },
    Start {
        gateway: usize,
    },
    Database {
        is_up: bool,
    },
    Wait {
        millis: u64,
    },
}

#[derive(Debug, Default)]
struct Gateway {
    ledger: Ledger,
    is_running: bool,
    until: Duration,
    requests: Vec<(Reservation, u64, Moment)>,
    /// Tokens in the outbox, by day: not in the database, and those that are, unheard of.
    outbox: Vec<(i32, u64)>,
    copied: Vec<(i32, u64)>,
    /// The table's row on it: when it was renewed, since when, whether it left, and what it holds.
    renewed: Option<(Duration, Duration, bool)>,
    holding: Option<Holding>,
    /// Whether it used what nobody knew of.
    was_secretive: bool,
}

#[derive(Debug)]
struct World {
    limits: Limits,
    gateways: Vec<Gateway>,
    now: Moment,
    is_up: bool,
    database: Vec<(i32, u64)>,
    /// Admissions: when, and of which tokens; those that ended with what they used.
    log: Vec<(Duration, u64)>,
    used: Vec<(i32, u64)>,
}

fn of_day(rows: &[(i32, u64)], day: i32) -> u64 {
    rows.iter().filter(|row| row.0 == day).map(|row| row.1).sum()
}

impl World {
    fn new(gateways: usize, limits: Limits, until_midnight: i64) -> Self {
        let now = Moment { uptime: Duration::from_secs(600), unix_ms: 86_400_000 - until_midnight };
        let gateways = (0..gateways).map(|_| Gateway::default()).collect();
        let mut world =
            Self { limits, gateways, now, is_up: true, database: Vec::new(), log: Vec::new(), used: Vec::new() };
        (0..world.gateways.len()).for_each(|gateway| world.start(gateway));
        world
    }

    fn watched(&self, gateway: usize) -> Duration {
        self.gateways[gateway].renewed.map_or(Duration::ZERO, |(_, since, _)| self.now.uptime - since)
    }

    fn elsewhere(&self, gateway: usize) -> Elsewhere {
        let (watched, day) = (self.watched(gateway), self.now.day());
        let others = self.gateways.iter().enumerate().filter(|(other, _)| *other != gateway);
        let held = others.filter_map(|(_, other)| {
            let (renewed, _, left) = other.renewed?;
            let peer = Peer { silent: self.now.uptime - renewed, patience: PATIENCE, left };
            Some(peer.keeps(&other.holding?, watched, day))
        });
        Elsewhere { held: held.fold(Amounts::default(), Amounts::plus), in_database: of_day(&self.database, day) }
    }

    fn renew(&mut self, gateway: usize) {
        let now = self.now.uptime;
        let it = &mut self.gateways[gateway];
        let since =
            it.renewed.filter(|(at, _, left)| !left && now - *at <= PATIENCE).map_or(now, |(_, since, _)| since);
        it.renewed = Some((now, since, false));
        it.until = now + PATIENCE;
        it.ledger.extend(it.until, self.now);
    }

    fn trade(&mut self, gateway: usize, most: Option<Most>, block: Amounts, need: Amounts) {
        let elsewhere = self.elsewhere(gateway);
        let now = self.now;
        let it = &mut self.gateways[gateway];
        let Some(claim) = it.ledger.claim(most.as_ref(), now) else { return };
        let (holding, free) = trade(&self.limits, &claim, block, need, &elsewhere);
        it.ledger.take(&self.limits, &claim, (&holding, free), &elsewhere);
        it.holding = Some(holding);
        it.was_secretive = false;
    }

    fn beat(&mut self, gateway: usize) {
        if self.is_up && self.gateways[gateway].is_running {
            self.renew(gateway);
            let most = self.gateways[gateway].ledger.most(&self.limits, PERCENT, self.now);
            self.trade(gateway, Some(most), most.free, Amounts::default());
        }
    }

    fn start(&mut self, gateway: usize) {
        if self.gateways[gateway].is_running || !self.is_up {
            return;
        }
        let (now, day) = (self.now, self.now.day());
        let it = &mut self.gateways[gateway];
        // What died with it left rows.
        it.outbox.append(&mut it.copied);
        let unsent = of_day(&it.outbox, day);
        let spent = Spent {
            tokens_today: of_day(&self.database, day) + unsent,
            unsent_today: unsent,
            recent: self.log.iter().map(|(at, tokens)| (now.uptime - *at, *tokens)).collect(),
        };
        let mut budget = Budget::default();
        budget.restore(&self.limits, spent, now);
        it.ledger = Ledger::of(budget, unsent, day);
        it.ledger.begin_sharing(now);
        it.is_running = true;
        self.beat(gateway);
    }

    fn request(&mut self, gateway: usize, need: Need) {
        let now = self.now;
        if !self.gateways[gateway].is_running {
            return;
        }
        let mut admitted = self.gateways[gateway].ledger.admit(&self.limits, need, now);
        if admitted.is_err() {
            // What the leaser does.
            let it = &self.gateways[gateway];
            let may_trade = it.renewed.is_some_and(|(at, _, left)| !left && now.uptime - at <= PATIENCE);
            if self.is_up && may_trade {
                let block = Most::of(&self.limits, PERCENT).free;
                self.trade(gateway, None, block, wish(&need));
            } else if !self.is_up {
                let it = &mut self.gateways[gateway];
                it.was_secretive |= it.ledger.declare_all();
            }
            admitted = self.gateways[gateway].ledger.admit(&self.limits, need, now);
        }
        if let Ok((reservation, allowance)) = admitted {
            let tokens = need.prompt + allowance.output.unwrap_or(0);
            self.log.push((now.uptime, tokens));
            self.gateways[gateway].requests.push((reservation, tokens, now));
            self.check();
        }
    }

    /// A request ends, having used so many hundredths of its tokens.
    fn end(&mut self, gateway: usize, which: usize, hundredths: u64) {
        let it = &mut self.gateways[gateway];
        if it.requests.is_empty() {
            return;
        }
        let (reservation, tokens, admitted) = it.requests.swap_remove(which % it.requests.len());
        let used = tokens * hundredths / 100;
        it.ledger.settle(reservation, used, self.now);
        it.outbox.push((admitted.day(), used));
        self.used.push((admitted.day(), used));
        if let Some(entry) = self.log.iter_mut().find(|entry| **entry == (admitted.uptime, tokens)) {
            entry.1 = used;
        }
    }

    fn die(&mut self, gateway: usize) {
        // What was used in secret is the exception that the documentation names.
        if self.gateways[gateway].was_secretive {
            return;
        }
        while !self.gateways[gateway].requests.is_empty() {
            self.end(gateway, 0, 100);
        }
        self.gateways[gateway].is_running = false;
    }

    fn leave(&mut self, gateway: usize) {
        if !self.gateways[gateway].is_running || !self.is_up || self.gateways[gateway].was_secretive {
            return;
        }
        while !self.gateways[gateway].requests.is_empty() {
            self.end(gateway, 0, 50);
        }
        self.renew(gateway);
        self.trade(gateway, Some(Most::default()), Amounts::default(), Amounts::default());
        let now = self.now.uptime;
        let it = &mut self.gateways[gateway];
        it.renewed = Some((now, now, true));
        it.is_running = false;
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Request { gateway, prompt, output } => {
                self.request(gateway, Need { prompt, output, default_output: 500 });
            }
            Step::End { gateway, which, hundredths } => self.end(gateway, which, hundredths),
            Step::Copy { gateway } if self.is_up && self.gateways[gateway].is_running => {
                let it = &mut self.gateways[gateway];
                self.database.extend(&it.outbox);
                it.copied.append(&mut it.outbox);
            }
            Step::Hear { gateway } => {
                let it = &mut self.gateways[gateway];
                for (day, tokens) in it.copied.drain(..) {
                    it.ledger.sent(tokens, day);
                }
            }
            Step::Copy { .. } => {}
            Step::Beat { gateway } => self.beat(gateway),
            Step::Die { gateway } => self.die(gateway),
            Step::Leave { gateway } => self.leave(gateway),
            Step::Start { gateway } => self.start(gateway),
            Step::Database { is_up } => self.is_up = is_up,
            Step::Wait { millis } => self.wait(millis),
        }
    }

    /// Time passes. No gateway is cut off alone: while the database is there each is heard of in time.
    fn wait(&mut self, mut millis: u64) {
        while millis > 0 {
            let step = millis.min(5_000);
            self.now.uptime += Duration::from_millis(step);
            self.now.unix_ms += i64::try_from(step).unwrap();
            millis -= step;
            let is_late = |gateway: &Gateway| {
                gateway.renewed.is_none_or(|(at, _, _)| self.now.uptime - at > Duration::from_secs(4))
            };
            let late: Vec<usize> = (0..self.gateways.len()).filter(|at| is_late(&self.gateways[*at])).collect();
            late.into_iter().for_each(|gateway| self.beat(gateway));
        }
    }

    /// Nothing is over, together.
    fn check(&self) {
        let now = self.now.uptime;
        let minute = || self.log.iter().filter(|(at, _)| *at + Duration::from_secs(60) > now);
        let limits = Amounts::of(&self.limits);
        let within = |amount: u64, limit: u64| limit == 0 || amount <= limit;
        let requests = minute().count() as u64;
        assert!(within(requests, limits.requests), "{requests} requests in a minute");
        let tokens: u64 = minute().map(|(_, tokens)| tokens).sum();
        assert!(within(tokens, limits.minute_tokens), "{tokens} tokens in a minute");
        let running = self.gateways.iter().map(|gateway| gateway.requests.len() as u64).sum();
        assert!(within(running, limits.running), "{running} at a time");
        let day = self.now.day();
        let held = self.gateways.iter().flat_map(|gateway| &gateway.requests);
        let held: u64 = held.filter(|(_, _, admitted)| admitted.day() == day).map(|(_, tokens, _)| tokens).sum();
        let used = of_day(&self.used, day) + held;
        assert!(within(used, limits.day_tokens), "{used} tokens of a day");
    }
}

/// A world of two with one limit.
fn two(limits: Limits) -> World {
    World::new(2, limits, 3_600_000)
}

fn admitted(world: &mut World, gateway: usize, prompt: u64, output: u64) -> bool {
    let before = world.log.len();
    world.step(Step::Request { gateway, prompt, output: Some(output) });
    world.log.len() > before
}

#[test]
fn of_a_gateway_that_dies_all_goes_back_but_what_it_has_declared() {
    let mut world = two(LIMITS[2]);
    assert!(admitted(&mut world, 0, 100, 900));
    world.step(Step::Beat { gateway: 0 });
    world.step(Step::Die { gateway: 0 });
    assert!(!admitted(&mut world, 1, 100, 3_900), "its reserve is not free yet");
    // Until the other may take it for dead.
    world.wait(11_000);
    world.step(Step::Beat { gateway: 1 });
    assert!(!admitted(&mut world, 1, 100, 3_851), "what it has used stays used, and the margin with it");
    assert!(admitted(&mut world, 1, 100, 3_850));
}

#[test]
fn a_gateway_that_was_cut_off_itself_takes_nothing_of_the_others() {
    let mut world = two(LIMITS[2]);
    assert!(admitted(&mut world, 0, 10, 10));
    world.step(Step::Beat { gateway: 0 });
    world.step(Step::Database { is_up: false });
    // Up to the reserve, which nobody knows of.
    while admitted(&mut world, 0, 1, 9) {}
    world.wait(11_000);
    world.step(Step::Database { is_up: true });
    world.step(Step::Beat { gateway: 1 });
    assert!(admitted(&mut world, 1, 100, 4_500));
    while admitted(&mut world, 1, 1, 1) {}
}

#[test]
fn a_share_ends_when_the_others_could_not_be_told_for_long_that_its_gateway_lives() {
    for limits in [LIMITS[0], LIMITS[1], LIMITS[2]] {
        let mut world = two(limits);
        assert!(admitted(&mut world, 0, 10, 10));
        world.step(Step::Beat { gateway: 0 });
        world.step(Step::Database { is_up: false });
        assert!(admitted(&mut world, 0, 10, 10), "in reserve");
        world.wait(11_000);
        assert!(!admitted(&mut world, 0, 10, 10));
        world.step(Step::Database { is_up: true });
        world.step(Step::Beat { gateway: 0 });
        assert!(admitted(&mut world, 0, 10, 10));
    }
}

#[test]
fn a_share_that_had_ended_does_not_come_back_with_its_gateway() {
    let mut world = two(LIMITS[2]);
    assert!(admitted(&mut world, 0, 10, 10));
    world.step(Step::Beat { gateway: 0 });
    // Cut off alone: the other takes what has ended.
    for _ in 0..4 {
        world.now.uptime += Duration::from_secs(4);
        world.step(Step::Beat { gateway: 1 });
    }
    assert!(admitted(&mut world, 1, 100, 4_000));
    while admitted(&mut world, 1, 1, 1) {}
    world.step(Step::Beat { gateway: 0 });
    assert!(!admitted(&mut world, 0, 10, 100));
}

#[test]
fn two_can_use_almost_all_of_a_limit() {
    for (limits, all) in [(LIMITS[0], 20), (LIMITS[1], 150), (LIMITS[2], 250)] {
        let mut world = two(limits);
        let mut count = 0;
        for turn in 0..600 {
            count += u64::from(admitted(&mut world, turn % 2, 10, 10));
            world.step(Step::Beat { gateway: turn % 2 });
        }
        let percent = count * 100 / all;
        assert!(percent >= 99, "{percent} % of {limits:?}");
    }
}

fn steps(gateways: usize) -> impl Strategy<Value = Vec<Step>> {
    let one = move || 0..gateways;
    let output = prop_oneof![3 => (1..400u64).prop_map(Some), 1 => Just(None)];
    let step = prop_oneof![
        30 => (one(), 1..300u64, output).prop_map(|(gateway, prompt, output)| Step::Request { gateway, prompt, output }),
        25 => (one(), 0..8usize, 0..=100u64)
            .prop_map(|(gateway, which, hundredths)| Step::End { gateway, which, hundredths }),
        10 => one().prop_map(|gateway| Step::Copy { gateway }),
        10 => one().prop_map(|gateway| Step::Hear { gateway }),
        20 => one().prop_map(|gateway| Step::Beat { gateway }),
        1 => one().prop_map(|gateway| Step::Die { gateway }),
        1 => one().prop_map(|gateway| Step::Leave { gateway }),
        2 => one().prop_map(|gateway| Step::Start { gateway }),
        1 => prop::bool::weighted(0.6).prop_map(|is_up| Step::Database { is_up }),
        12 => prop_oneof![20 => 1..1500u64, 1 => 8_000..90_000u64].prop_map(|millis| Step::Wait { millis }),
    ];
    prop::collection::vec(step, 200..600)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn together_gateways_never_go_over_whatever_happens(
        steps in steps(3), limits in prop::sample::select(LIMITS.to_vec()), until_midnight in 1_000..600_000i64,
    ) {
        let mut world = World::new(3, limits, until_midnight);
        for step in steps {
            world.step(step);
        }
    }
}
