//! Which limits does a user, or one key, have?

/// The limits of one user, or of one key. `None` = no limit; zero refuses everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Admissions in any 60 s.
    pub requests_per_minute: Option<u32>,
    /// Prompt and completion tokens of the requests admitted in any 60 s.
    pub tokens_per_minute: Option<u64>,
    /// Prompt and completion tokens per UTC day.
    pub tokens_per_day: Option<u64>,
    /// Concurrent requests, including waiting ones.
    pub max_concurrency: Option<u32>,
}
