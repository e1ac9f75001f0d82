//! Do gateways that share the limits of a group and of its users ever exceed any of them together? A request is admitted
//! under the user's ledger and both of the group's, or under none.
use std::time::Duration;

use proptest::prelude::*;

use crate::{
    Amounts, Budget, Calendar, Elsewhere, Holding, Ledger, Limits, Moment, Month, Most, Need, PriorUse, Reservation,
    trade, wish,
};

const DAY_MS: i64 = 86_400_000;
const USERS: usize = 2;
/// The ledgers of the users, then the group's of the day and of the month.
const SUBJECTS: usize = USERS + 2;

#[derive(Clone, Copy, Debug)]
enum Step {
    Request {
        gateway: usize,
        user: usize,
        prompt: u64,
        output: Option<u64>,
    },
    End {
        gateway: usize,
        which: usize,
        hundredths: u64,
    },
    /// What has ended reaches the database, and the gateway learns of it.
    Copy {
        gateway: usize,
    },
    Beat {
        gateway: usize,
    },
    /// It stops in order, and starts again with what the database has.
    Restart {
        gateway: usize,
    },
    Wait {
        millis: i64,
    },
}

struct Running {
    user: usize,
    held: Vec<Reservation>,
    tokens: u64,
    day: i32,
}

#[derive(Default)]
struct Gateway {
    ledgers: Vec<Ledger>,
    holdings: Vec<Holding>,
    requests: Vec<Running>,
    outbox: Vec<(usize, i32, u64)>,
}

/// Gateways that are always heard of, and the sums that they share.
struct World {
    limits: [Limits; SUBJECTS],
    gateways: Vec<Gateway>,
    now: Moment,
    /// User, day and tokens.
    database: Vec<(usize, i32, u64)>,
    /// User, uptime and tokens of each admission.
    log: Vec<(usize, Duration, u64)>,
    used: Vec<(usize, i32, u64)>,
}

fn calendar(subject: usize) -> Calendar {
    if subject == SUBJECTS - 1 { Calendar::Month } else { Calendar::Day }
}

/// Whether what a user does counts for a subject.
fn counts(subject: usize, user: usize) -> bool {
    subject >= USERS || subject == user
}

fn sum(rows: &[(usize, i32, u64)], subject: usize, stretch: i32) -> u64 {
    let is_of = |day: i32| calendar(subject).of_day(day) == stretch;
    rows.iter().filter(|(user, day, _)| counts(subject, *user) && is_of(*day)).map(|(_, _, tokens)| tokens).sum()
}

impl World {
    /// Begins so many milliseconds before the end of the day `last`.
    fn new(gateways: usize, limits: [Limits; SUBJECTS], last: i32, until_next: i64) -> Self {
        let now = Moment { uptime: Duration::from_secs(600), unix_ms: (i64::from(last) + 1) * DAY_MS - until_next };
        let gateway = || Gateway { holdings: vec![Holding::default(); SUBJECTS], ..Gateway::default() };
        let gateways = (0..gateways).map(|_| gateway()).collect();
        let mut world = Self { limits, gateways, now, database: vec![], log: vec![], used: vec![] };
        (0..world.gateways.len()).for_each(|gateway| world.start(gateway));
        world
    }

    fn start(&mut self, gateway: usize) {
        let now = self.now;
        let it = &mut self.gateways[gateway];
        it.holdings = vec![Holding::default(); SUBJECTS];
        it.ledgers = (0..SUBJECTS)
            .map(|subject| {
                let stretch = calendar(subject).of(now);
                let unsent = sum(&it.outbox, subject, stretch);
                let recent = self.log.iter().filter(|(user, ..)| counts(subject, *user));
                let prior = PriorUse {
                    tokens_today: sum(&self.database, subject, stretch) + unsent,
                    unsent_today: unsent,
                    recent: recent.map(|(_, at, tokens)| (now.uptime - *at, *tokens)).collect(),
                };
                let mut budget = Budget::of(calendar(subject));
                budget.restore(&self.limits[subject], prior, now);
                let mut ledger = Ledger::of(budget, unsent, now);
                ledger.begin_sharing(now);
                ledger.extend(Duration::MAX, now);
                ledger
            })
            .collect();
        self.beat(gateway);
    }

    fn trade(&mut self, gateway: usize, subject: usize, most: Option<Most>, block: Amounts, need: Amounts) {
        let (now, limits) = (self.now, self.limits[subject]);
        let Some(claim) = self.gateways[gateway].ledgers[subject].claim(most.as_ref(), now) else { return };
        let others = self.gateways.iter().enumerate().filter(|(other, _)| *other != gateway);
        // Each line is of its own day or month.
        let held = others.map(|(_, other)| {
            let holding = other.holdings[subject];
            let day_tokens = if holding.day == claim.day { holding.held.day_tokens } else { 0 };
            Amounts { day_tokens, ..holding.held }
        });
        let elsewhere = Elsewhere {
            held: held.fold(Amounts::default(), Amounts::plus),
            in_database: sum(&self.database, subject, claim.day),
        };
        let (holding, free) = trade(&limits, &claim, block, need, &elsewhere);
        let it = &mut self.gateways[gateway];
        it.ledgers[subject].take(&limits, &claim, (&holding, free), &elsewhere);
        it.holdings[subject] = holding;
    }

    fn beat(&mut self, gateway: usize) {
        for subject in 0..SUBJECTS {
            let most = self.gateways[gateway].ledgers[subject].most(&self.limits[subject], 5, self.now);
            self.trade(gateway, subject, Some(most), most.free, Amounts::default());
        }
    }

    fn admit(&mut self, gateway: usize, user: usize, need: Need) -> Option<(Vec<Reservation>, u64)> {
        let limits = &self.limits;
        let subjects = self.gateways[gateway].ledgers.iter_mut().enumerate();
        let mut ledgers: Vec<(&Limits, &mut Ledger)> = subjects
            .filter(|(subject, _)| counts(*subject, user))
            .map(|(subject, ledger)| (&limits[subject], ledger))
            .collect();
        let (held, allowance) = Ledger::admit_all(&mut ledgers, need, self.now).ok()?;
        Some((held, need.prompt + allowance.output.unwrap_or(0)))
    }

    fn request(&mut self, gateway: usize, user: usize, need: Need) {
        let admitted = self.admit(gateway, user, need).or_else(|| {
            for subject in (0..SUBJECTS).filter(|subject| counts(*subject, user)) {
                let block = Most::of(&self.limits[subject], 5).free;
                self.trade(gateway, subject, None, block, wish(&need));
            }
            self.admit(gateway, user, need)
        });
        let Some((held, tokens)) = admitted else { return };
        let now = self.now;
        self.log.push((user, now.uptime, tokens));
        self.gateways[gateway].requests.push(Running { user, held, tokens, day: now.day() });
        self.check();
    }

    fn end(&mut self, gateway: usize, which: usize, hundredths: u64) {
        let it = &mut self.gateways[gateway];
        if it.requests.is_empty() {
            return;
        }
        let Running { user, held, tokens, day } = it.requests.swap_remove(which % it.requests.len());
        let used = tokens * hundredths / 100;
        let ledgers = it.ledgers.iter_mut().enumerate().filter(|(subject, _)| counts(*subject, user));
        for ((_, ledger), held) in ledgers.zip(held) {
            ledger.settle(held, used, self.now);
        }
        it.outbox.push((user, day, used));
        self.used.push((user, day, used));
    }

    fn copy(&mut self, gateway: usize) {
        let it = &mut self.gateways[gateway];
        for (user, day, tokens) in it.outbox.drain(..) {
            self.database.push((user, day, tokens));
            for (_, ledger) in it.ledgers.iter_mut().enumerate().filter(|(subject, _)| counts(*subject, user)) {
                ledger.sent(tokens, day);
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Request { gateway, user, prompt, output } => {
                self.request(gateway, user, Need { prompt, output, default_output: 500 });
            }
            Step::End { gateway, which, hundredths } => self.end(gateway, which, hundredths),
            Step::Copy { gateway } => self.copy(gateway),
            Step::Beat { gateway } => self.beat(gateway),
            Step::Restart { gateway } => {
                while !self.gateways[gateway].requests.is_empty() {
                    self.end(gateway, 0, 50);
                }
                self.copy(gateway);
                self.start(gateway);
            }
            Step::Wait { millis } => {
                self.now.uptime += Duration::from_millis(millis.unsigned_abs());
                self.now.unix_ms += millis;
            }
        }
    }

    /// Checks that all gateways together exceed nothing.
    fn check(&self) {
        for subject in 0..SUBJECTS {
            let limits = Amounts::of(&self.limits[subject]);
            let within = |amount: u64, limit: u64| limit == 0 || amount <= limit;
            let is_recent = |at: Duration| at + Duration::from_secs(60) > self.now.uptime;
            let recent = self.log.iter().filter(|(user, at, _)| counts(subject, *user) && is_recent(*at));
            let requests = recent.count() as u64;
            assert!(within(requests, limits.requests), "{requests} requests in a minute, {subject}");
            let running = self.gateways.iter().flat_map(|gateway| &gateway.requests);
            let running: Vec<&Running> = running.filter(|running| counts(subject, running.user)).collect();
            assert!(within(running.len() as u64, limits.running), "{} at a time, {subject}", running.len());
            let stretch = calendar(subject).of(self.now);
            let held = running.iter().filter(|running| calendar(subject).of_day(running.day) == stretch);
            let tokens = sum(&self.used, subject, stretch) + held.map(|running| running.tokens).sum::<u64>();
            assert!(within(tokens, limits.day_tokens), "{tokens} tokens of a stretch, {subject}");
        }
    }
}

/// The users may use more together than their group, in a day and in a month.
fn limits() -> [Limits; SUBJECTS] {
    let of_user = Limits { tokens_per_day: Some(5_000), requests_per_minute: Some(30), ..Limits::default() };
    let of_group = Limits {
        tokens_per_day: Some(7_000),
        requests_per_minute: Some(40),
        max_concurrency: Some(8),
        ..Limits::default()
    };
    let of_month = Limits { tokens_per_day: Some(9_000), ..Limits::default() };
    [of_user, of_user, of_group, of_month]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let gateway = || 0..3_usize;
    let output = prop_oneof![3 => (1..400u64).prop_map(Some), 1 => Just(None)];
    let request = (gateway(), 0..USERS, 1..300u64, output);
    let step = prop_oneof![
        30 => request.prop_map(|(gateway, user, prompt, output)| Step::Request { gateway, user, prompt, output }),
        25 => (gateway(), 0..8usize, 0..=100u64)
            .prop_map(|(gateway, which, hundredths)| Step::End { gateway, which, hundredths }),
        12 => gateway().prop_map(|gateway| Step::Copy { gateway }),
        20 => gateway().prop_map(|gateway| Step::Beat { gateway }),
        1 => gateway().prop_map(|gateway| Step::Restart { gateway }),
        10 => prop_oneof![20 => 1..1500i64, 2 => 8_000..90_000i64, 1 => Just(DAY_MS)]
            .prop_map(|millis| Step::Wait { millis }),
    ];
    prop::collection::vec(step, 100..400)
}

/// The last days of a month, a leap February and a year, and days before and after.
const DAYS: [i32; 5] = [20_787, 21_242, 21_243, 20_818, 20_784];

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_user_and_no_group_goes_over_a_day_or_a_month_whatever_happens(
        steps in steps(), last in prop::sample::select(DAYS.to_vec()), until_next in 1_000..600_000i64,
    ) {
        let mut world = World::new(3, limits(), last, until_next);
        for step in steps {
            world.step(step);
        }
    }
}

#[test]
fn a_month_goes_on_over_midnight_and_ends_with_its_last_day() {
    for last in [20_787, 21_243, 20_818] {
        let mut world = World::new(2, limits(), last - 1, 1_000);
        let mut use_up = |world: &mut World| {
            let before = world.log.len();
            for turn in 0..200 {
                let (gateway, user) = (turn % 2, turn / 2 % USERS);
                world.step(Step::Request { gateway, user, prompt: 100, output: Some(100) });
                world.step(Step::End { gateway, which: 0, hundredths: 100 });
                world.step(Step::Copy { gateway });
                world.step(Step::Wait { millis: 3_000 });
                world.step(Step::Beat { gateway });
            }
            (world.log.len() - before) as u64 * 200
        };
        // The clock passes midnight in the first round; rounds take ten minutes.
        world.step(Step::Wait { millis: -3_600_000 });
        assert!((6_600..=7_000).contains(&use_up(&mut world)), "the day of the group");
        world.step(Step::Wait { millis: 3_600_000 });
        assert!((1_600..=2_400).contains(&use_up(&mut world)), "what the month has left");
        world.step(Step::Wait { millis: DAY_MS });
        assert_eq!(Month::of_day(world.now.day()).first_day(), world.now.day());
        assert!((6_600..=7_000).contains(&use_up(&mut world)), "a new month and a new day");
    }
}
