//! How much would a request use at most, how much may it use once it is admitted, and how are amounts added and compared?
use super::limit::Limits;

/// One amount for each of the four limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Admissions in 60 s.
    pub requests: u64,
    /// Tokens of the requests admitted in 60 s.
    pub minute_tokens: u64,
    /// Concurrent requests.
    pub running: u64,
    /// Tokens per day.
    pub day_tokens: u64,
}

impl Amounts {
    /// The limits as amounts; zero means no limit.
    pub fn of(limits: &Limits) -> Self {
        Self {
            requests: limits.requests_per_minute.map(u64::from).unwrap_or_default(),
            minute_tokens: limits.tokens_per_minute.unwrap_or_default(),
            running: limits.max_concurrency.map(u64::from).unwrap_or_default(),
            day_tokens: limits.tokens_per_day.unwrap_or_default(),
        }
    }

    /// Amounts above any limit.
    pub fn all() -> Self {
        Self::default().map(|_| u64::MAX)
    }

    /// `limits`, each reduced to at most the amount here.
    pub fn within(self, limits: &Limits) -> Limits {
        let small = |amount: u64| u32::try_from(amount).unwrap_or(u32::MAX);
        Limits {
            requests_per_minute: limits.requests_per_minute.map(|limit| limit.min(small(self.requests))),
            tokens_per_minute: limits.tokens_per_minute.map(|limit| limit.min(self.minute_tokens)),
            tokens_per_day: limits.tokens_per_day.map(|limit| limit.min(self.day_tokens)),
            max_concurrency: limits.max_concurrency.map(|limit| limit.min(small(self.running))),
        }
    }

    /// Applies `change` to each amount.
    pub fn map(self, change: impl Fn(u64) -> u64) -> Self {
        self.with(Self::default(), |amount, _| change(amount))
    }

    /// The sum of each amount; saturates.
    pub fn plus(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    /// The difference of each amount, at least zero.
    pub fn minus(self, other: Self) -> Self {
        self.with(other, u64::saturating_sub)
    }

    /// The smaller of each amount.
    pub fn min(self, other: Self) -> Self {
        self.with(other, u64::min)
    }

    /// The larger of each amount.
    pub fn max(self, other: Self) -> Self {
        self.with(other, u64::max)
    }

    fn with(self, other: Self, join: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            requests: join(self.requests, other.requests),
            minute_tokens: join(self.minute_tokens, other.minute_tokens),
            running: join(self.running, other.running),
            day_tokens: join(self.day_tokens, other.day_tokens),
        }
    }
}

/// The most that a request would use.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// Upper bound of the prompt's tokens.
    pub prompt: u64,
    /// `max_tokens`, if the client set it.
    pub output: Option<u64>,
    /// Output tokens to reserve if the client set no limit.
    pub default_output: u64,
}

impl Need {
    /// The least room that admits it. Without `max_tokens`, a request takes what is left, up to the default, but needs
    /// at least one token.
    pub(crate) fn smallest(&self) -> u64 {
        self.prompt.saturating_add(self.output.unwrap_or(1).max(1))
    }

    /// What it may use if there is `room` for output tokens; `None` = no limit.
    pub(crate) fn allowance(&self, room: Option<u64>) -> Allowance {
        Allowance { output: room.map(|room| self.output_within(room)), is_cap: room.is_some() && self.output.is_none() }
    }

    /// The output tokens it gets if `room` are left.
    fn output_within(&self, room: u64) -> u64 {
        self.output.map_or_else(|| self.default_output.max(1).min(room), |output| output.max(1))
    }
}

/// What an admitted request may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Output tokens; `None` = no token limit.
    pub output: Option<u64>,
    /// Whether the node must be told `output`, because the client set no `max_tokens`.
    pub is_cap: bool,
}
