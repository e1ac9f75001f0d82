//! What happens to several gateways and the table in which they share their limits? Simulated on one thread.
use std::time::Duration;

use crate::{
    Amounts, Budget, Calendar, Elsewhere, Holding, Ledger, Limits, Moment, Month, Most, Need, Peer, PriorUse,
    Reservation, trade, wish,
};

const PATIENCE: Duration = Duration::from_secs(10);
const PERCENT: u64 = 5;
/// Something that happens to one of the gateways, or to all.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
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
    /// Rows reach the database, and a moment later the gateway learns of it.
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
pub(super) struct Gateway {
    ledger: Ledger,
    is_running: bool,
    until: Duration,
    requests: Vec<(Reservation, u64, Moment)>,
    /// Tokens in the outbox by day: those not in the database, and those that are without the gateway knowing.
    outbox: Vec<(i32, u64)>,
    copied: Vec<(i32, u64)>,
    /// Its row in the table: when it was renewed, since when without a gap, and whether the gateway left.
    renewed: Option<(Duration, Duration, bool)>,
    holding: Option<Holding>,
    /// Whether it used what nobody knew about.
    was_secretive: bool,
}

#[derive(Debug)]
pub(super) struct World {
    limits: Limits,
    calendar: Calendar,
    gateways: Vec<Gateway>,
    pub(super) now: Moment,
    is_up: bool,
    database: Vec<(i32, u64)>,
    /// Admissions: when, and how many tokens; after the end, the tokens really used.
    pub(super) log: Vec<(Duration, u64)>,
    used: Vec<(i32, u64)>,
}

fn of_stretch(rows: &[(i32, u64)], calendar: Calendar, stretch: i32) -> u64 {
    rows.iter().filter(|row| calendar.of_day(row.0) == stretch).map(|row| row.1).sum()
}

impl World {
    /// It begins so many milliseconds before the next day or month.
    pub(super) fn new(gateways: usize, limits: Limits, calendar: Calendar, until_next: i64) -> Self {
        let next = match calendar {
            Calendar::Day => 1,
            Calendar::Month => i64::from(Month(1).first_day()),
        };
        let now = Moment { uptime: Duration::from_secs(600), unix_ms: next * 86_400_000 - until_next };
        let gateways = (0..gateways).map(|_| Gateway::default()).collect();
        let mut world = Self {
            limits,
            calendar,
            gateways,
            now,
            is_up: true,
            database: Vec::new(),
            log: Vec::new(),
            used: Vec::new(),
        };
        (0..world.gateways.len()).for_each(|gateway| world.start(gateway));
        world
    }

    fn watched(&self, gateway: usize) -> Duration {
        self.gateways[gateway].renewed.map_or(Duration::ZERO, |(_, since, _)| self.now.uptime - since)
    }

    fn elsewhere(&self, gateway: usize) -> Elsewhere {
        let (watched, day) = (self.watched(gateway), self.calendar.of(self.now));
        let others = self.gateways.iter().enumerate().filter(|(other, _)| *other != gateway);
        let held = others.filter_map(|(_, other)| {
            let (renewed, _, left) = other.renewed?;
            let peer = Peer { silent: self.now.uptime - renewed, patience: PATIENCE, left };
            Some(peer.keeps(&other.holding?, watched, day))
        });
        Elsewhere {
            held: held.fold(Amounts::default(), Amounts::plus),
            in_database: of_stretch(&self.database, self.calendar, day),
        }
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

    pub(super) fn beat(&mut self, gateway: usize) {
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
        let (now, day) = (self.now, self.calendar.of(self.now));
        let calendar = self.calendar;
        let it = &mut self.gateways[gateway];
        // Rows survive the gateway's death.
        it.outbox.append(&mut it.copied);
        let unsent = of_stretch(&it.outbox, calendar, day);
        let spent = PriorUse {
            tokens_today: of_stretch(&self.database, self.calendar, day) + unsent,
            unsent_today: unsent,
            recent: self.log.iter().map(|(at, tokens)| (now.uptime - *at, *tokens)).collect(),
        };
        let mut budget = Budget::of(calendar);
        budget.restore(&self.limits, spent, now);
        it.ledger = Ledger::of(budget, unsent, now);
        it.ledger.begin_sharing(now);
        it.is_running = true;
        self.beat(gateway);
    }

    pub(super) fn request(&mut self, gateway: usize, need: Need) {
        let now = self.now;
        if !self.gateways[gateway].is_running {
            return;
        }
        let mut admitted = self.gateways[gateway].ledger.admit(&self.limits, need, now);
        if admitted.is_err() {
            // The same steps as the lease task of the gateway.
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

    /// A request ends and has used this many hundredths of its tokens.
    pub(super) fn end(&mut self, gateway: usize, which: usize, hundredths: u64) {
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
        // Undeclared use is the exception that the documentation names.
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

    pub(super) fn step(&mut self, step: Step) {
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

    /// Time passes. No gateway is cut off alone: while the database is up, each is heard from in time.
    pub(super) fn wait(&mut self, mut millis: u64) {
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

    /// Checks that all gateways together exceed nothing.
    pub(super) fn check(&self) {
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
        let day = self.calendar.of(self.now);
        let held = self.gateways.iter().flat_map(|gateway| &gateway.requests);
        let held: u64 =
            held.filter(|(_, _, admitted)| self.calendar.of(*admitted) == day).map(|(_, tokens, _)| tokens).sum();
        let used = of_stretch(&self.used, self.calendar, day) + held;
        assert!(within(used, limits.day_tokens), "{used} tokens of a day");
    }
}
