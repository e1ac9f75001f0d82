//! Which traffic resembles real services? Fitted to public traces of language model services, or read from a file.
//!
//! | traffic | fitted to |
//! |---|---|
//! | [`azure`] | Azure LLM inference trace 2023, conversation (Azure/AzurePublicDataset, CC-BY 4.0): single turns |
//! | [`mooncake`] | Mooncake FAST'25 conversation trace (kvcache-ai/Mooncake, Apache-2.0), prompts divided by 4 |
//! | [`bursts`] | not fitted: few heavy users in bursts, short answers, as ServeGen describes its language model clients |
//! | [`agents`] | not fitted: tools in a loop over a long shared prompt, as tau-bench's airline and retail agents |
//!
//! Neither public trace has users or models: each conversation draws one of 40 users and one of 5 models from Zipf
//! distributions. Lengths are drawn from the traces' own quantiles.

use std::sync::Arc;

use scheduler::Prefix;

use crate::traffic::{Ask, Random, turn_prefix};

const USERS: usize = 40;
const MODELS: usize = 5;
/// Tokens in a block; prompts share whole blocks.
const BLOCK: f64 = 128.0;
/// Digests that the gateway keeps for each prompt.
const MOST_PREFIXES: usize = 64;

/// A distribution by its quantiles: pairs of a share and the value it reaches.
type Quantiles = [(f64, f64)];

const AZURE_PROMPT: [(f64, f64); 8] = [
    (0.0, 8.0),
    (0.05, 181.0),
    (0.25, 410.0),
    (0.5, 1047.0),
    (0.75, 1172.0),
    (0.9, 2468.0),
    (0.99, 4116.0),
    (1.0, 7930.0),
];
const AZURE_ANSWER: [(f64, f64); 8] =
    [(0.0, 8.0), (0.05, 40.0), (0.25, 90.0), (0.5, 204.0), (0.75, 403.0), (0.9, 430.0), (0.99, 626.0), (1.0, 1000.0)];
/// How much the arrival rate varies between windows, and a window's length in mean gaps.
const AZURE_SWAY: f64 = 0.15;
const AZURE_WINDOW: f64 = 50.0;

const MOONCAKE_PROMPT: [(f64, f64); 8] = [
    (0.0, 100.0),
    (0.05, 224.0),
    (0.25, 476.0),
    (0.5, 1776.0),
    (0.75, 4025.0),
    (0.9, 7131.0),
    (0.98, 16_000.0),
    (1.0, 16_000.0),
];
const MOONCAKE_ANSWER: [(f64, f64); 8] =
    [(0.0, 1.0), (0.05, 10.0), (0.25, 160.0), (0.5, 362.0), (0.75, 481.0), (0.9, 606.0), (0.99, 1089.0), (1.0, 2000.0)];
/// What each turn adds to the prompt and answer of the one before.
const MOONCAKE_GROWTH: [(f64, f64); 6] =
    [(0.0, 1.0), (0.5, 5.0), (0.75, 20.0), (0.9, 959.0), (0.99, 4869.0), (1.0, 9085.0)];
/// How much of a first prompt is a beginning that others use as well.
const MOONCAKE_SHARED: [(f64, f64); 7] =
    [(0.0, 0.01), (0.05, 0.02), (0.25, 0.04), (0.5, 0.09), (0.75, 0.34), (0.9, 0.57), (1.0, 0.98)];
/// The chance that another turn follows.
const MOONCAKE_GOES_ON: f64 = 0.26;
/// The mean number of requests in a cluster.
const MOONCAKE_CLUSTER: f64 = 1.5;
/// How many beginnings there are to share.
const BEGINNINGS: usize = 200;

fn sample(random: &mut Random, quantiles: &Quantiles) -> f64 {
    let share = random.fraction();
    let above = quantiles.iter().position(|(reached, _)| *reached >= share).unwrap_or(quantiles.len() - 1).max(1);
    let ((low, from), (high, to)) = (quantiles[above - 1], quantiles[above]);
    let part = ((share - low) / (high - low)).clamp(0.0, 1.0);
    // Linear interpolation on a logarithmic scale.
    (from.ln() + part * (to.ln() - from.ln())).exp()
}

/// A conversation, turn by turn.
struct Talk {
    session: u64,
    user: usize,
    model: usize,
    prefixes: Vec<Prefix>,
}

impl Talk {
    /// A conversation that begins with `shared` tokens of a beginning that others use as well.
    fn new(random: &mut Random, session: u64, beginning: usize, shared: f64) -> Self {
        let (user, model) = (random.zipf(USERS), random.zipf(MODELS));
        let blocks = (shared / BLOCK) as usize;
        // At multiples of a power of two, so that prompts of different lengths are cut at the same places.
        let step = blocks.div_ceil(MOST_PREFIXES / 2).next_power_of_two().max(1);
        let block = |number: usize| Prefix {
            digest: Random((beginning as u64) << 32 | number as u64).next(),
            tokens: (number as f64 * BLOCK) as u32,
        };
        let prefixes = (1..=blocks / step).map(|number| block(number * step)).collect();
        Self { session, user, model, prefixes }
    }

    fn turn(&mut self, at: f64, turn: usize, (prompt, output): (f64, f64)) -> Ask {
        if self.prefixes.len() == MOST_PREFIXES {
            self.prefixes.remove(1);
        }
        self.prefixes.push(turn_prefix(self.session, turn, prompt));
        let prefixes = self.prefixes.as_slice().into();
        let Self { session, user, model, .. } = *self;
        Ask { at, user, model, session, turn, after: None, think: 0.0, prompt, output, prefixes }
    }
}

/// Single turns at a slightly varying rate.
pub fn azure(seed: u64, count: usize, rate: f64) -> Vec<Ask> {
    let mut random = Random(seed);
    let (mut at, mut window_ends, mut factor) = (0.0, 0.0, 1.0);
    let ask = |number| {
        if at >= window_ends {
            window_ends = at + AZURE_WINDOW / rate;
            factor = random.lognormal(1.0, AZURE_SWAY);
        }
        at += random.exponential(1.0 / (rate * factor));
        let (prompt, output) = (sample(&mut random, &AZURE_PROMPT), sample(&mut random, &AZURE_ANSWER));
        let (user, model) = (random.zipf(USERS), random.zipf(MODELS));
        Ask::alone(at, user, model, number as u64, (prompt.round(), output.round()))
    };
    (0..count).map(ask).collect()
}

/// Conversations whose first prompts often begin alike, with time to think between turns.
pub fn mooncake(seed: u64, count: usize, rate: f64) -> Vec<Ask> {
    let mut random = Random(seed);
    let mut asks: Vec<Ask> = Vec::with_capacity(count);
    let (mut at, mut session) = (0.0, 0);
    let turns = 1.0 / (1.0 - MOONCAKE_GOES_ON);
    while asks.len() < count {
        if random.fraction() < 1.0 / MOONCAKE_CLUSTER {
            at += random.exponential(turns * MOONCAKE_CLUSTER / rate);
        }
        session += 1;
        let mut prompt = sample(&mut random, &MOONCAKE_PROMPT).round();
        let shared = prompt * sample(&mut random, &MOONCAKE_SHARED);
        let beginning = random.zipf(BEGINNINGS);
        let mut talk = Talk::new(&mut random, session, beginning, shared);
        for turn in 0.. {
            let output = sample(&mut random, &MOONCAKE_ANSWER).round();
            let mut ask = talk.turn(at, turn, (prompt, output));
            if turn > 0 {
                ask.after = Some(asks.len() - 1);
                ask.think = random.lognormal(94.0, 1.07).clamp(18.0, 733.0);
            }
            asks.push(ask);
            prompt = (prompt + output + sample(&mut random, &MOONCAKE_GROWTH)).round();
            if prompt > 16_000.0 || random.fraction() > MOONCAKE_GOES_ON {
                break;
            }
        }
    }
    asks
}

/// Few heavy users whose requests come in bursts; short answers.
pub fn bursts(seed: u64, count: usize, rate: f64) -> Vec<Ask> {
    /// The mean number of requests in a burst, and the seconds between two of them.
    const BURST: f64 = 40.0;
    const WITHIN_SECONDS: f64 = 0.05;
    let mut random = Random(seed);
    let mut asks: Vec<Ask> = Vec::with_capacity(count);
    let mut start = 0.0;
    while asks.len() < count {
        start += random.exponential(BURST / rate);
        let (user, model) = (random.zipf(USERS), random.zipf(MODELS));
        let mut at = start;
        for _ in 0..random.exponential(BURST).ceil() as usize {
            let prompt = random.lognormal(300.0, 1.0).clamp(20.0, 8000.0).round();
            let output = random.exponential(40.0).clamp(1.0, 1000.0).round();
            asks.push(Ask::alone(at, user, model, asks.len() as u64, (prompt, output)));
            at += random.exponential(WITHIN_SECONDS);
        }
    }
    asks.sort_by(|a, b| a.at.total_cmp(&b.at));
    asks.truncate(count);
    asks
}

/// Agents that call tools in a loop: a long beginning that all agents of a kind share, short answers, and short pauses
/// between turns.
pub fn agents(seed: u64, count: usize, rate: f64) -> Vec<Ask> {
    /// Tokens of the shared beginnings: the policy and tools of each kind of agent.
    const BEGINNINGS: [f64; 3] = [4096.0, 3072.0, 2048.0];
    const TURNS: f64 = 12.0;
    let mut random = Random(seed);
    let mut asks: Vec<Ask> = Vec::with_capacity(count);
    let (mut at, mut session) = (0.0, 0);
    while asks.len() < count {
        at += random.exponential(TURNS / rate);
        session += 1;
        let kind = random.zipf(BEGINNINGS.len());
        let mut prompt = (BEGINNINGS[kind] + random.lognormal(120.0, 0.6)).round();
        let mut talk = Talk::new(&mut random, session, BEGINNINGS_OF_AGENTS + kind, BEGINNINGS[kind]);
        for turn in 0.. {
            let output = random.lognormal(50.0, 0.8).clamp(5.0, 600.0).round();
            let mut ask = talk.turn(at, turn, (prompt, output));
            if turn > 0 {
                ask.after = Some(asks.len() - 1);
                ask.think = 0.5 + random.exponential(2.0);
            }
            asks.push(ask);
            prompt = (prompt + output + random.lognormal(150.0, 0.8).clamp(20.0, 2000.0)).round();
            if prompt > 16_000.0 || random.fraction() < 1.0 / TURNS {
                break;
            }
        }
    }
    asks
}

/// Keeps them apart from those of conversations.
const BEGINNINGS_OF_AGENTS: usize = 1 << 20;

/// Reads a recorded trace and scales it to a rate: each line is a JSON array, `[at, user, model, session, parent,
/// think, prompt, output, [block ids], block_tokens]`, where `parent` is the line of the turn before, or -1.
pub fn read(path: &str, rate: f64) -> Vec<Ask> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut asks: Vec<Ask> = Vec::new();
    for line in text.lines() {
        let fields: Vec<serde_json::Value> = serde_json::from_str(line).expect("a JSON array");
        let number = |index: usize| fields[index].as_f64().expect("a number");
        let (model, prompt, block) = (number(2) as usize, number(6), number(9));
        let parent = (number(4) >= 0.0).then(|| number(4) as usize);
        let before = parent.map(|parent| &asks[parent]);
        let turn = before.map_or(0, |before| before.turn + 1);
        let mut prefixes: Vec<Prefix> = match before {
            Some(before) => before.prefixes.to_vec(),
            None => blocks(fields[8].as_array().expect("a list of blocks"), model, prompt, block),
        };
        if prefixes.len() == MOST_PREFIXES {
            prefixes.remove(1);
        }
        prefixes.push(turn_prefix(number(3) as u64, turn, prompt));
        let (session, prefixes) = (number(3) as u64, Arc::from(prefixes));
        let (at, user, think, output) = (number(0), number(1) as usize, number(5), number(7).max(1.0));
        asks.push(Ask { at, user, model, session, turn, after: parent, think, prompt, output, prefixes });
    }
    let span = asks.iter().filter(|ask| ask.after.is_none()).map(|ask| ask.at).fold(0.0, f64::max);
    let factor = asks.len() as f64 / rate / span.max(1e-9);
    asks.iter_mut().for_each(|ask| ask.at *= factor);
    asks
}

/// The digests of a prompt's blocks except the last, which may be incomplete.
fn blocks(ids: &[serde_json::Value], model: usize, prompt: f64, block: f64) -> Vec<Prefix> {
    let step = ids.len().div_ceil(MOST_PREFIXES / 2).next_power_of_two().max(1);
    let mut digest = model as u64;
    let digests = ids.iter().enumerate().map(|(index, id)| {
        digest = Random(digest ^ id.as_u64().unwrap_or(0).wrapping_mul(0x9E37_79B9_7F4A_7C15)).next();
        Prefix { digest, tokens: ((index + 1) as f64 * block) as u32 }
    });
    let kept = digests.enumerate().filter(|(index, _)| (index + 1).is_multiple_of(step)).map(|(_, prefix)| prefix);
    kept.filter(|prefix| f64::from(prefix.tokens) < prompt).collect()
}
