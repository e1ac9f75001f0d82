//! Why did a request wait, and why was it sent to that node? What the scheduler considered, kept for the last requests.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    decision::RefusalReason,
    failure::{Failure, Outcome},
    ids::{NodeId, RequestId, Time},
};

/// Requests that are remembered, running ones included.
const REMEMBERED: usize = 2048;
/// Alternatives that are kept of a decision, the best first.
const ALTERNATIVES: usize = 5;
/// Steps that are kept of a request.
const STEPS: usize = 12;

/// Something that could be done with a request.
#[derive(Copy, Clone, PartialEq, Debug)]
pub enum Kind {
    /// Use a slot that is free.
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

/// One of the things that could be done, and what it was expected to take, in seconds.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct Alternative {
    /// Where.
    pub node: NodeId,
    /// What.
    pub kind: Kind,
    /// Until a slot is free or, before a load, until the models that make room have drained.
    pub wait: f64,
    /// Loading the model.
    pub load: f64,
    /// What others lose by the load.
    pub regret: f64,
    /// Reading the prompt.
    pub prefill: f64,
    /// Writing the answer.
    pub decode: f64,
    /// Tokens of the prompt.
    pub prompt: f64,
    /// Of those, the tokens that the node is expected to have cached.
    pub cached: f64,
}

/// What the queue contributed to a decision. Who stands ahead has been placed before, so that the slots that they are to
/// use count as taken; who stands behind would have to wait longer still.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct Backlog {
    /// Requests that waited for the model.
    pub waiting: usize,
    /// Of those, the requests that the plan placed before this one.
    pub ahead: usize,
    /// Set where a free slot on a slower node was used because of the queue alone: so many requests could have been served
    /// by the slots in use before this one would have ended here.
    pub absorbed: Option<usize>,
    /// Users behind the look-ahead.
    pub users_behind: usize,
    /// What their wait added to the cost of not loading the model, in seconds.
    pub behind_seconds: f64,
}

impl Alternative {
    /// What is compared: the sum of the others.
    pub fn total(&self) -> f64 {
        self.wait + self.load + self.regret + self.prefill + self.decode
    }

    /// Until the first token.
    pub fn first_token(&self) -> f64 {
        self.wait + self.load + self.prefill
    }
}

/// What happened to a request.
#[derive(Clone, PartialEq, Debug)]
pub enum What {
    /// It had to wait; only the first time is kept.
    Waits,
    /// A model was loaded for it on this node.
    AskedForLoad(NodeId),
    /// It was sent to this node, in this attempt.
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

/// A step, and what could have been done instead.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// When.
    pub at: Time,
    /// What happened.
    pub what: What,
    /// What was weighed up, the best first; at most five.
    pub alternatives: Vec<Alternative>,
    /// What the queue contributed; `None` where nothing else waited for the model.
    pub backlog: Option<Backlog>,
}

/// What is remembered of a request.
#[derive(Clone, PartialEq, Debug)]
pub struct Story {
    /// When it arrived.
    pub arrived: Time,
    /// How many waited when it arrived.
    pub ahead: usize,
    /// Seconds to the first token, as expected when it arrived; `None` if it was too far back to be planned.
    pub expected: Option<f64>,
    /// In order; the last ones.
    pub steps: Vec<Step>,
}

/// The stories of the last requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal {
    stories: BTreeMap<RequestId, Story>,
    order: VecDeque<RequestId>,
}

impl Journal {
    pub(crate) fn arrived(&mut self, id: RequestId, ahead: usize, now: Time) {
        self.stories.insert(id, Story { arrived: now, ahead, expected: None, steps: Vec::new() });
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.stories.remove(&oldest);
        }
    }

    pub(crate) fn get(&self, id: RequestId) -> Option<&Story> {
        self.stories.get(&id)
    }

    /// A request waits. Only the first time is kept.
    pub(crate) fn waits(&mut self, id: RequestId, now: Time, weighed: Weighed<'_>) {
        let Some(story) = self.stories.get_mut(&id) else { return };
        story.expect(now, weighed.alternatives.first());
        if story.steps.is_empty() {
            story.add(What::Waits, now, weighed);
        }
    }

    pub(crate) fn asked_for_load(&mut self, id: RequestId, node: NodeId, now: Time, weighed: Weighed<'_>) {
        let Some(story) = self.stories.get_mut(&id) else { return };
        story.expect(now, weighed.alternatives.first());
        story.add(What::AskedForLoad(node), now, weighed);
    }

    pub(crate) fn dispatched(&mut self, id: RequestId, node: NodeId, attempt: u32, now: Time, weighed: Weighed<'_>) {
        let Some(story) = self.stories.get_mut(&id) else { return };
        if story.arrived == now {
            story.expected = weighed.alternatives.iter().find(|each| each.node == node).map(Alternative::first_token);
        }
        story.add(What::Dispatched(node, attempt), now, weighed);
    }

    pub(crate) fn note(&mut self, id: RequestId, what: What, now: Time) {
        if let Some(story) = self.stories.get_mut(&id) {
            story.add(what, now, Weighed::default());
        }
    }
}

/// What was weighed up for a request.
#[derive(Copy, Clone, Default)]
pub(crate) struct Weighed<'a> {
    /// The best first.
    pub(crate) alternatives: &'a [Alternative],
    pub(crate) backlog: Option<Backlog>,
}

/// The best alternatives so far, at most five, the best first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Best(Vec<Alternative>);

impl Best {
    pub(crate) fn offer(&mut self, alternative: Alternative) {
        let place = self.0.partition_point(|other| other.total() <= alternative.total());
        if place < ALTERNATIVES {
            self.0.truncate(ALTERNATIVES - 1);
            self.0.insert(place, alternative);
        }
    }

    pub(crate) fn as_slice(&self) -> &[Alternative] {
        &self.0
    }
}

impl Story {
    /// When a request that has just arrived may expect its first token.
    fn expect(&mut self, now: Time, best: Option<&Alternative>) {
        if self.arrived == now {
            self.expected = self.expected.or(best.map(Alternative::first_token));
        }
    }

    fn add(&mut self, what: What, at: Time, weighed: Weighed<'_>) {
        if self.steps.len() == STEPS {
            // The first says why it waited.
            self.steps.remove(1);
        }
        let (alternatives, backlog) = (weighed.alternatives.to_vec(), weighed.backlog);
        self.steps.push(Step { at, what, alternatives, backlog });
    }
}
