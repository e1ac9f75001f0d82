//! Why did a request wait, and why was it sent to that node? What was considered for it, step by step.

use serde::{Deserialize, Serialize};

use crate::{
    decision::RefusalReason,
    failure::{Failure, Outcome},
    ids::{NodeId, Time},
};

/// Alternatives kept for each decision, best first.
const ALTERNATIVES: usize = 5;
/// Steps kept for each request.
pub(crate) const STEPS: usize = 12;
/// Those of a stream that found a slot at once. Memory for so many is not given back.
const USUAL_STEPS: usize = 3;

/// A way to serve a request.
#[derive(Copy, Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// Use a free slot.
    Now,
    /// Wait for a slot.
    Wait,
    /// Load the model.
    Load,
}

impl Kind {
    /// One word for it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Now => "now",
            Self::Wait => "wait",
            Self::Load => "load",
        }
    }
}

/// A way to serve a request, and its expected cost in seconds.
#[derive(Copy, Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Alternative {
    /// The node.
    pub node: NodeId,
    /// How it would be served there.
    pub kind: Kind,
    /// Until a slot is free or, before a load, until the models that make room have drained.
    pub wait: f64,
    /// Loading the model.
    pub load: f64,
    /// What other requests lose by the load.
    pub regret: f64,
    /// Reading the prompt.
    pub prefill: f64,
    /// Writing the answer.
    pub decode: f64,
    /// Tokens of the prompt.
    pub prompt: f64,
    /// Prompt tokens that the node is expected to have cached.
    pub cached: f64,
}

/// How the queue influenced a decision. The requests ahead were placed before this one, so the slots that they will use
/// count as taken; those behind would have to wait even longer.
#[derive(Copy, Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Backlog {
    /// Requests that waited for the model.
    pub waiting: usize,
    /// How many of them the plan placed before this one.
    pub ahead: usize,
    /// Set if a free slot on a slower node was used only because of the queue: the number of requests that the slots in
    /// use could have served before this request would have ended in the free slot.
    pub absorbed: Option<usize>,
    /// Users beyond the look-ahead.
    pub users_behind: usize,
    /// How much longer they would wait if the model were not loaded, in seconds.
    pub behind_seconds: f64,
}

impl Alternative {
    /// The sum of all parts, by which alternatives are compared.
    pub fn total(&self) -> f64 {
        self.wait + self.load + self.regret + self.prefill + self.decode
    }

    /// Seconds until the first token.
    pub fn first_token(&self) -> f64 {
        self.wait + self.load + self.prefill
    }
}

/// What happened to a request.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum What {
    /// It had to wait; only the first time is recorded.
    Waits,
    /// A model was loaded for it on this node.
    AskedForLoad(NodeId),
    /// It was sent to this node, as this attempt.
    Dispatched(NodeId, u32),
    /// The node sent the first byte.
    FirstByte,
    /// The attempt failed.
    Failed(NodeId, Failure),
    /// It was refused.
    Refused(RefusalReason),
    /// It is over.
    Ended(Outcome),
}

/// A step, and the alternatives at that moment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Step {
    /// When it happened.
    pub at: Time,
    /// What happened.
    pub what: What,
    /// The alternatives considered, best first; at most five.
    pub alternatives: Vec<Alternative>,
    /// How the queue influenced it; `None` if nothing else waited for the model.
    pub backlog: Option<Backlog>,
}

/// The record of one request.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Story {
    /// When it arrived.
    pub arrived: Time,
    /// How many requests waited when it arrived.
    pub ahead: usize,
    /// Seconds to the first token, as expected at its arrival; `None` if it was too far back in the queue to be
    /// planned.
    pub expected: Option<f64>,
    /// How it would be served by that forecast.
    pub foretold: Option<Kind>,
    /// The latest steps, in order.
    pub steps: Vec<Step>,
}

/// The alternatives that were considered for a request.
#[derive(Copy, Clone, Default)]
pub(crate) struct Weighed<'a> {
    /// Best first.
    pub(crate) alternatives: &'a [Alternative],
    pub(crate) backlog: Option<Backlog>,
}

/// The best alternatives so far, at most five, best first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Best(Vec<Alternative>);

impl Best {
    /// Begins again, in the same memory.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn offer(&mut self, alternative: Alternative) {
        let place = self.0.partition_point(|other| other.total() <= alternative.total());
        if place < ALTERNATIVES {
            self.0.truncate(ALTERNATIVES - 1);
            self.0.insert(place, alternative);
        }
    }

    /// Whether an alternative with this total would be one of them.
    pub(crate) fn takes(&self, total: f64) -> bool {
        self.0.len() < ALTERNATIVES || self.0.last().is_none_or(|worst| total < worst.total())
    }

    pub(crate) fn as_slice(&self) -> &[Alternative] {
        &self.0
    }
}

impl Story {
    /// One that begins now, with so many requests waiting.
    pub(crate) fn new(ahead: usize, now: Time) -> Self {
        Self { arrived: now, ahead, expected: None, foretold: None, steps: Vec::new() }
    }

    /// When it ended; `None` while it goes on.
    pub(crate) fn ended_at(&self) -> Option<Time> {
        let last = self.steps.last()?;
        matches!(last.what, What::Ended(_) | What::Refused(_)).then_some(last.at)
    }

    /// Takes the first token to come as by its best alternative, corrected by a factor.
    pub(crate) fn expect(&mut self, best: &Alternative, factor: f64) {
        (self.expected, self.foretold) = (Some(factor * best.first_token()), Some(best.kind));
    }

    pub(crate) fn add(&mut self, what: What, at: Time, weighed: Weighed<'_>) {
        if self.steps.len() == STEPS {
            // Keep the first step, which says why it waited.
            self.steps.remove(1);
        }
        let (alternatives, backlog) = (weighed.alternatives.to_vec(), weighed.backlog);
        if self.steps.is_empty() {
            self.steps.reserve_exact(USUAL_STEPS);
        }
        self.steps.push(Step { at, what, alternatives, backlog });
        if self.ended_at().is_some() && self.steps.capacity() > USUAL_STEPS {
            self.steps.shrink_to_fit();
        }
    }

    /// Bytes of memory that its steps take.
    pub(crate) fn bytes(&self) -> usize {
        let alternatives: usize = self.steps.iter().map(|step| step.alternatives.capacity()).sum();
        self.steps.capacity() * size_of::<Step>() + alternatives * size_of::<Alternative>()
    }
}
