//! How much would a request use at most, and how much may it use once it is admitted?

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
