//! How long did nodes work on a request? As they report it; if they report nothing, as measured from here.
//!
//! A measurement counts from the moment the node is given the request, less a load that the node reports:
//!
//! | answer | prompt | answer |
//! |---|---|---|
//! | stream | up to its first byte | from there to its last token |
//! | plain | – | all of it, as the two cannot be told apart |
//! | embedding | all of it | – |
//!
//! A failed attempt counts as far as it got, unless the node never accepted it. Within one attempt, a node's own
//! numbers are not mixed with measured ones.
use std::time::Duration;

use protocol::{Endpoint, Usage};
use scheduler::{Blame, Failure};

/// A node's time; `None` if unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spent {
    /// Time spent on the prompt.
    pub(super) prefill: Option<Duration>,
    /// Time spent on the answer.
    pub(super) decode: Option<Duration>,
}

/// The time that nodes spent on one request, over all its attempts.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeWork {
    shape: Shape,
    /// Time spent in attempts that have ended.
    before: Spent,
    attempt: Option<Attempt>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Shape {
    #[default]
    Plain,
    Stream,
    Embedding,
}

/// Moments of the running attempt, as uptimes.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    since: Duration,
    first_byte: Option<Duration>,
    last_token: Option<Duration>,
}

impl NodeWork {
    /// For a request whose answer has this form.
    pub(super) fn on(endpoint: Endpoint, is_stream: bool) -> Self {
        let shape = match (endpoint.embeds(), is_stream) {
            (true, _) => Shape::Embedding,
            (false, true) => Shape::Stream,
            (false, false) => Shape::Plain,
        };
        Self { shape, ..Self::default() }
    }

    /// A node was given the request.
    pub(super) fn begin(&mut self, now: Duration) {
        self.attempt = Some(Attempt { since: now, first_byte: None, last_token: None });
    }

    /// When the running attempt began.
    pub(super) fn since(&self) -> Option<Duration> {
        Some(self.attempt?.since)
    }

    pub(super) fn first_byte(&mut self, at: Duration) {
        if let Some(attempt) = &mut self.attempt {
            attempt.first_byte = Some(at);
        }
    }

    pub(super) fn token(&mut self, at: Duration) {
        if let Some(attempt) = &mut self.attempt {
            attempt.last_token = Some(at);
        }
    }

    /// The running attempt has failed.
    pub(super) fn fail(&mut self, failure: Failure, now: Duration) {
        let was_taken_up = failure == Failure::Silent || failure.blame() == Blame::Undecided;
        if was_taken_up {
            self.before = self.spent(now, Usage::default());
        }
        self.attempt = None;
    }

    /// The time so far, in all attempts; `usage` is what the running one's node reports.
    pub(super) fn spent(&self, now: Duration, usage: Usage) -> Spent {
        let running = match self.attempt {
            _ if usage.prefill.is_some() || usage.decode.is_some() => {
                Spent { prefill: usage.prefill, decode: usage.decode }
            }
            Some(attempt) => attempt.measured(self.shape, now, usage.load.unwrap_or_default()),
            None => Spent::default(),
        };
        Spent { prefill: sum(self.before.prefill, running.prefill), decode: sum(self.before.decode, running.decode) }
    }
}

impl Attempt {
    fn measured(&self, shape: Shape, now: Duration, load: Duration) -> Spent {
        let until = |end: Duration| Some(end.saturating_sub(self.since).saturating_sub(load));
        match shape {
            Shape::Plain => Spent { prefill: None, decode: until(now) },
            Shape::Embedding => Spent { prefill: until(now), decode: None },
            Shape::Stream => {
                let decode = |first| self.last_token.map(|last| last.saturating_sub(first));
                Spent { prefill: until(self.first_byte.unwrap_or(now)), decode: self.first_byte.and_then(decode) }
            }
        }
    }
}

fn sum(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a + b),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn spent(prefill: Option<u64>, decode: Option<u64>) -> Spent {
        Spent { prefill: prefill.map(ms), decode: decode.map(ms) }
    }

    #[test]
    fn a_stream_is_split_at_its_first_byte() {
        let mut work = NodeWork::on(Endpoint::ChatCompletions, true);
        assert_eq!(work.spent(ms(5), Usage::default()), spent(None, None), "while it waits");
        work.begin(ms(10));
        assert_eq!(work.spent(ms(15), Usage::default()), spent(Some(5), None), "while the prompt is read");
        work.first_byte(ms(30));
        work.token(ms(30));
        work.token(ms(70));
        assert_eq!(work.spent(ms(90), Usage::default()), spent(Some(20), Some(40)));
    }

    #[test]
    fn a_plain_answer_is_all_answer_and_an_embedding_all_prompt() {
        for (endpoint, expected) in
            [(Endpoint::Completions, spent(None, Some(30))), (Endpoint::Embeddings, spent(Some(30), None))]
        {
            let mut work = NodeWork::on(endpoint, false);
            work.begin(ms(10));
            assert_eq!(work.spent(ms(40), Usage::default()), expected);
        }
    }

    #[test]
    fn what_the_node_reports_is_taken_as_it_is() {
        let mut work = NodeWork::on(Endpoint::Chat, true);
        work.begin(ms(10));
        work.first_byte(ms(30));
        let usage = Usage { prefill: Some(ms(3)), decode: None, load: Some(ms(9)), ..Usage::default() };
        assert_eq!(work.spent(ms(90), usage), spent(Some(3), None));
    }

    #[test]
    fn a_load_is_no_work_on_the_prompt() {
        let mut work = NodeWork::on(Endpoint::EmbedOne, false);
        work.begin(ms(10));
        let usage = Usage { load: Some(ms(8)), ..Usage::default() };
        assert_eq!(work.spent(ms(30), usage), spent(Some(12), None));
    }

    #[test]
    fn failed_attempts_count_as_far_as_they_came_if_the_node_took_them_up() {
        let mut work = NodeWork::on(Endpoint::ChatCompletions, true);
        for (failure, began) in [(Failure::Crashed, 0), (Failure::Unreachable, 100), (Failure::Busy, 200)] {
            work.begin(ms(began));
            work.fail(failure, ms(began + 7));
        }
        assert_eq!(work.spent(ms(300), Usage::default()), spent(Some(7), None));
        work.begin(ms(400));
        work.first_byte(ms(402));
        work.token(ms(405));
        assert_eq!(work.spent(ms(500), Usage::default()), spent(Some(9), Some(3)));
        let usage = Usage { prefill: Some(ms(1)), decode: Some(ms(2)), ..Usage::default() };
        assert_eq!(work.spent(ms(500), usage), spent(Some(8), Some(2)));
    }
}
