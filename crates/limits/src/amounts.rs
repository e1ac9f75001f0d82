//! How are amounts of the four limited things added and compared? All four side by side.
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
