//! Who asks for what, and when? Sessions of several turns, as `fleets.json` describes them.

use std::sync::Arc;

use scheduler::Prefix;

pub const USERS: usize = 20;
/// The user who floods.
pub const FLOOD: usize = USERS;

/// splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Between 0 and 1, never 0.
    pub fn fraction(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    pub fn exponential(&mut self, mean: f64) -> f64 {
        -self.fraction().ln() * mean
    }

    pub fn lognormal(&mut self, median: f64, sigma: f64) -> f64 {
        let (radius, angle) = ((-2.0 * self.fraction().ln()).sqrt(), std::f64::consts::TAU * self.fraction());
        median * (sigma * radius * angle.cos()).exp()
    }

    pub fn zipf(&mut self, count: usize) -> usize {
        let total: f64 = (1..=count).map(|rank| 1.0 / rank as f64).sum();
        let mut rest = self.fraction() * total;
        (1..=count)
            .position(|rank| {
                rest -= 1.0 / rank as f64;
                rest <= 0.0
            })
            .unwrap_or(count - 1)
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Arrival in seconds; if it follows another request, known only once that one has ended.
    pub at: f64,
    pub user: usize,
    pub model: usize,
    pub session: u64,
    /// The turn within its session, from 0.
    pub turn: usize,
    /// The request that must have ended `think` seconds before this one comes.
    pub after: Option<usize>,
    pub think: f64,
    pub prompt: f64,
    pub output: f64,
    /// The beginning it shares with others, and the prompts of the session's turns up to this one.
    pub prefixes: Arc<[Prefix]>,
}

impl Ask {
    /// A request that shares nothing with any other.
    pub fn alone(at: f64, user: usize, model: usize, session: u64, (prompt, output): (f64, f64)) -> Self {
        let prefixes = Arc::new([turn_prefix(session, 0, prompt)]);
        Self { at, user, model, session, turn: 0, after: None, think: 0.0, prompt, output, prefixes }
    }
}

/// The digest of a turn's whole prompt.
pub fn turn_prefix(session: u64, turn: usize, prompt: f64) -> Prefix {
    Prefix { digest: Random(session << 10 | turn as u64).next(), tokens: prompt as u32 }
}

fn output(random: &mut Random) -> f64 {
    random.lognormal(150.0, 0.9).clamp(2.0, 2000.0).round()
}

fn first_prompt(random: &mut Random) -> f64 {
    random.lognormal(400.0, 1.0).clamp(20.0, 8000.0).round()
}

/// `count` requests in order of time, at `rate` a second on average. If `bursty`: 2.2 times that for 120 s, 0.6 times
/// for the next 360 s, and so on.
pub fn sessions(seed: u64, count: usize, rate: f64, models: usize, bursty: bool) -> Vec<Ask> {
    let mut random = Random(seed);
    let mut asks: Vec<Ask> = Vec::new();
    let (mut start, mut session) = (0.0, 0);
    let horizon = count as f64 / rate * 1.3 + 300.0;
    while start < horizon {
        let factor = if !bursty {
            1.0
        } else if start % 480.0 < 120.0 {
            2.2
        } else {
            0.6
        };
        start += random.exponential(4.0 / (rate * factor));
        session += 1;
        converse(&mut random, start, session, models, &mut asks);
    }
    asks.sort_by(|a, b| a.at.total_cmp(&b.at));
    asks.truncate(count);
    asks
}

fn converse(random: &mut Random, start: f64, session: u64, models: usize, asks: &mut Vec<Ask>) {
    let user = (random.fraction() * USERS as f64) as usize % USERS;
    let model = random.zipf(models);
    let (mut at, mut prompt) = (start, first_prompt(random));
    let mut turns = Vec::new();
    for turn in 0..20 {
        let output = output(random);
        turns.push(turn_prefix(session, turn, prompt));
        let prefixes = turns.as_slice().into();
        asks.push(Ask { at, user, model, session, turn, after: None, think: 0.0, prompt, output, prefixes });
        prompt += output + random.lognormal(80.0, 0.8).clamp(5.0, 2000.0).round();
        at += 15.0 + random.lognormal(30.0, 0.8);
        if prompt > 16_000.0 || random.fraction() < 0.25 {
            break;
        }
    }
}

/// Adds single turns of one more user between 20 % and 80 % of the run.
pub fn with_flood(mut asks: Vec<Ask>, seed: u64, rate: f64, models: usize) -> Vec<Ask> {
    let mut random = Random(seed ^ 0xF100D);
    let end = asks.last().map_or(0.0, |ask| ask.at);
    let (mut at, mut session) = (0.2 * end, 1 << 40);
    while at < 0.8 * end {
        at += random.exponential(1.0 / rate);
        session += 1;
        let (model, prompt) = (random.zipf(models), first_prompt(&mut random));
        let output = output(&mut random);
        asks.push(Ask::alone(at, FLOOD, model, session, (prompt, output)));
    }
    asks.sort_by(|a, b| a.at.total_cmp(&b.at));
    asks
}
