//! What do the users of the benchmark ask for?

use std::time::Duration;

use scheduler::{Arrival, Prefix, RequestId};

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// From 0 to below 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

pub struct Traffic {
    random: Random,
    /// By model: how often it and those before it are asked for.
    popularity: Vec<f64>,
    users: usize,
}

/// One request. Sizes are in tokens.
pub struct Ask {
    pub model: usize,
    pub prompt: usize,
    pub output: usize,
    pub arrival: Arrival,
}

pub fn name(model: usize) -> String {
    format!("model-{model}:latest")
}

impl Traffic {
    pub fn new(models: usize, users: usize) -> Self {
        let sum = |sum: &mut f64, rank: usize| {
            *sum += 1.0 / (rank + 1) as f64;
            Some(*sum)
        };
        Self { random: Random(9), popularity: (0..models).scan(0.0, sum).collect(), users }
    }

    /// A model by Zipf's law: the n-th is asked for 1/n as often as the first.
    pub fn popular(&mut self) -> usize {
        let last = self.popularity.len() - 1;
        let share = self.random.fraction() * self.popularity[last];
        self.popularity.partition_point(|sum| *sum <= share).min(last)
    }

    pub fn ask(&mut self, id: RequestId) -> Ask {
        let model = self.popular();
        let (prompt, output) = (20 + self.random.below(2000), 20 + self.random.below(400));
        let session = self.random.next() % 5000;
        // A prompt shared by everybody who uses the model, and the turns of a conversation.
        let digests = [model as u64, 1000 + session, 10_000 + session];
        let prefix = |(turn, digest): (usize, u64)| Prefix { digest, tokens: ((turn + 1) * prompt / 4) as u32 };
        let arrival = Arrival {
            id,
            user: format!("user-{}", self.random.below(self.users)).into(),
            weight: 1.0,
            membership: None,
            model: name(model).into(),
            prompt_tokens: prompt as u64,
            max_output: None,
            known_output: None,
            prefixes: digests.into_iter().enumerate().map(prefix).collect(),
            route: Default::default(),
            is_stream: true,
            deadline: Duration::from_secs(1_000_000),
        };
        Ask { model, prompt, output, arrival }
    }
}
