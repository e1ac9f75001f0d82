//! How many tokens is a request charged? The number that its node claims, within what its body and its limit allow, and
//! at least as many as have passed through. If the node claims nothing, an estimate.
use super::usage::Usage;

/// The most bytes of text for each token, on the average of an answer. No text that people write has longer tokens.
const BYTES_PER_TOKEN: u64 = 16;
/// Bytes that are exempt: a short answer may be one long token.
const LONG_TOKEN: u64 = 128;
/// The usual number of bytes for each token.
pub(crate) const USUAL_BYTES_PER_TOKEN: u64 = 4;
/// Tokens that a model's own template and system prompt may add to a prompt; the body does not show them.
const HIDDEN_PROMPT: u64 = 256;
/// Tokens of reasoning that a node may leave out of an answer without a limit.
const HIDDEN_OUTPUT: u64 = 131_072;

/// How far an answer has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerProgress {
    /// The node's report, once it has come.
    pub usage: Option<Usage>,
    /// Chunks with text, reasoning or a tool call so far, about one token each. Zero for a plain answer.
    pub token_chunks: u64,
    /// Bytes of text that the model wrote so far.
    pub text_bytes: u64,
    /// Whether the answer is complete: its terminal frame has passed.
    pub done: bool,
}

impl AnswerProgress {
    /// At least this many tokens were answered so far, whatever the node reports: a chunk may hold more than one.
    pub fn counted(&self) -> u64 {
        self.token_chunks.max(self.passed())
    }

    /// At least this many tokens, judging by the length of the text alone.
    fn passed(&self) -> u64 {
        self.text_bytes.saturating_sub(LONG_TOKEN) / BYTES_PER_TOKEN
    }

    /// Limits the progress to an answer that was cut after this many tokens.
    pub(crate) fn cut_at(&mut self, tokens: u64) {
        // Both ways of counting must agree, since the larger one is charged.
        self.token_chunks = tokens;
        self.text_bytes = self.text_bytes.min(tokens.saturating_mul(BYTES_PER_TOKEN));
        debug_assert_eq!(self.counted(), tokens);
    }
}

/// How many tokens a node may claim for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClaimBounds {
    /// Upper bound: no prompt of this body has more tokens, except for what the model's template adds.
    pub prompt_bound: u64,
    /// Estimated tokens of the prompt.
    pub prompt_estimate: u64,
    /// The most tokens that the answer may have; `None` = no limit.
    pub max_output: Option<u64>,
    /// Whether the answer is vectors, which have no tokens.
    pub embeds: bool,
}

/// The source of a number of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TallySource {
    /// The node reported both numbers.
    Reported,
    /// The answer was counted as it passed.
    Counted,
    /// At least one of the numbers is an estimate, or a claim that was not accepted.
    Estimated,
}

/// What a request is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Tokens of the prompt.
    pub prompt: u64,
    /// Tokens of the answer.
    pub completion: u64,
    /// The source of these numbers.
    pub source: TallySource,
    /// Whether the node's claim was impossible and was brought within its bounds.
    pub is_corrected: bool,
}

impl ClaimBounds {
    /// What a request is charged if its answer ends here.
    pub fn tally(&self, progress: &AnswerProgress) -> Tally {
        let Usage { prompt_tokens, completion_tokens, .. } = progress.usage.unwrap_or_default();
        let prompt = prompt_tokens.map_or(self.prompt_estimate, |claim| claim.min(self.most_prompt()));
        let completion = if self.embeds { 0 } else { self.completion(progress, completion_tokens) };
        let is_corrected = prompt_tokens.is_some_and(|claim| claim != prompt)
            || (!self.embeds && completion_tokens.is_some_and(|claim| claim != completion));
        let source = match (prompt_tokens, completion_tokens) {
            _ if is_corrected => TallySource::Estimated,
            (Some(_), Some(_)) => TallySource::Reported,
            (Some(_), None) if self.embeds => TallySource::Reported,
            (_, None) if progress.token_chunks > 0 => TallySource::Counted,
            _ => TallySource::Estimated,
        };
        debug_assert!(prompt <= self.most_prompt().max(self.prompt_estimate), "a claim is within its bounds");
        Tally { prompt, completion, source, is_corrected }
    }

    fn completion(&self, progress: &AnswerProgress, claim: Option<u64>) -> u64 {
        let counted = match (claim, progress.token_chunks) {
            // A node may claim less than it has sent.
            (Some(claim), _) => claim.max(progress.passed()),
            // A plain answer arrives in one piece.
            (None, 0) => progress.text_bytes.div_ceil(USUAL_BYTES_PER_TOKEN),
            (None, _) => progress.counted(),
        };
        // No token is shorter than a byte. What a node counts beyond that can only be reasoning that it did not show.
        let all = progress.text_bytes.saturating_add(progress.token_chunks);
        let most = self.max_output.unwrap_or_else(|| all.saturating_add(HIDDEN_OUTPUT));
        // If a node ignores the cap in a plain answer, what it really wrote is charged.
        counted.min(most.max(progress.passed()))
    }

    fn most_prompt(&self) -> u64 {
        self.prompt_bound.saturating_add(HIDDEN_PROMPT)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: ClaimBounds =
        ClaimBounds { prompt_bound: 1000, prompt_estimate: 250, max_output: Some(500), embeds: false };

    fn progress(prompt: Option<u64>, completion: Option<u64>, token_chunks: u64, text_bytes: u64) -> AnswerProgress {
        let usage = Usage { prompt_tokens: prompt, completion_tokens: completion, ..Usage::default() };
        AnswerProgress { usage: Some(usage), token_chunks, text_bytes, done: true }
    }

    fn tally(progress: AnswerProgress) -> (u64, u64, TallySource, bool) {
        let Tally { prompt, completion, source, is_corrected } = BOUNDS.tally(&progress);
        (prompt, completion, source, is_corrected)
    }

    #[test]
    fn an_honest_claim_is_charged_as_it_is() {
        assert_eq!(tally(progress(Some(26), Some(7), 7, 30)), (26, 7, TallySource::Reported, false));
        assert_eq!(tally(progress(Some(26), Some(0), 0, 0)), (26, 0, TallySource::Reported, false));
        // A template may add tokens to a short prompt.
        let short = ClaimBounds { prompt_bound: 40, ..BOUNDS }.tally(&progress(Some(120), Some(7), 7, 30));
        assert_eq!((short.prompt, short.is_corrected), (120, false));
    }

    #[test]
    fn a_claim_is_brought_within_what_body_and_cap_allow() {
        let most = i64::MAX as u64;
        assert_eq!(tally(progress(Some(most), Some(most), 7, 30)), (1256, 500, TallySource::Estimated, true));
        let free = ClaimBounds { max_output: None, ..BOUNDS };
        assert_eq!(free.tally(&progress(Some(26), Some(most), 7, 30)).completion, 131_072 + 37);
    }

    #[test]
    fn a_plain_answer_beyond_its_cap_costs_what_it_wrote() {
        assert_eq!(tally(progress(Some(26), Some(9000), 0, 16_128)).1, 1000);
        assert_eq!(tally(progress(Some(26), Some(9000), 0, 128)).1, 500);
    }

    #[test]
    fn one_chunk_is_not_one_token() {
        assert_eq!(progress(None, None, 1, 100_000).counted(), 6242);
        let free = ClaimBounds { max_output: None, ..BOUNDS };
        assert_eq!(free.tally(&progress(None, None, 1, 100_000)).completion, 6242);
        assert_eq!(free.tally(&progress(Some(26), Some(1), 1, 100_000)).completion, 6242);
        assert!(free.tally(&progress(Some(26), Some(1), 1, 100_000)).is_corrected);
    }

    #[test]
    fn what_is_not_reported_is_counted_or_estimated_and_never_free() {
        assert_eq!(tally(progress(None, None, 7, 30)), (250, 7, TallySource::Counted, false));
        assert_eq!(tally(progress(None, Some(7), 7, 30)), (250, 7, TallySource::Estimated, false));
        assert_eq!(tally(progress(Some(26), None, 7, 30)), (26, 7, TallySource::Counted, false));
        // A plain answer.
        assert_eq!(tally(progress(Some(26), None, 0, 401)), (26, 101, TallySource::Estimated, false));
        let embeds = ClaimBounds { embeds: true, ..BOUNDS };
        let vectors = embeds.tally(&progress(Some(26), Some(i64::MAX as u64), 0, 0));
        assert_eq!((vectors.prompt, vectors.completion, vectors.source), (26, 0, TallySource::Reported));
    }

    proptest! {
        #[test]
        fn no_claim_leaves_its_bounds(
            prompt: Option<u64>, completion: Option<u64>, chunks: u64, bytes: u64,
            prompt_bound: u64, max_output: Option<u64>, embeds: bool,
        ) {
            let bounds = ClaimBounds { prompt_bound, prompt_estimate: prompt_bound / 4, max_output, embeds };
            let tally = bounds.tally(&progress(prompt, completion, chunks, bytes));
            prop_assert!(tally.prompt <= prompt_bound.saturating_add(HIDDEN_PROMPT));
            prop_assert!(max_output.is_none_or(|most| tally.completion <= most.max(bytes / BYTES_PER_TOKEN)));
        }
    }
}
