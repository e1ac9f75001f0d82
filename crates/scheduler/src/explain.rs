//! Why did a request wait, and why was it sent to that node? What the scheduler had in mind, kept for the last requests.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    decision::RefusalReason,
    failure::{Failure, Outcome},
    ids::{NodeId, RequestId, Time},
};

/// Requests that are remembered, running ones included.
const REMEMBERED: usize = 2048;
/// Of the alternatives of a decision, so many are kept, the best first.
const ALTERNATIVES: usize = 5;
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

/// One of the things that could be done, and what it was expected to cost, in seconds.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct Alternative {
    /// Where.
    pub node: NodeId,
    /// What.
    pub kind: Kind,
    /// Until a slot is free or, before a load, until what must go has ended.
    pub wait: f64,
    /// Loading the model.
    pub load: f64,
    /// What others lose by the load.
    pub regret: f64,
    /// Reading the prompt.
    pub prefill: f64,
    /// Writing the answer.
    pub decode: f64,
}

impl Alternative {
    /// What is compared.
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

    pub(crate) fn waits(&mut self, id: RequestId, now: Time, alternatives: &[Alternative]) {
        let Some(story) = self.stories.get_mut(&id) else { return };
        if story.arrived == now {
            story.expected = story.expected.or(best(alternatives).map(|best| best.first_token()));
        }
        if story.steps.is_empty() {
            story.add(What::Waits, now, alternatives);
        }
    }

    pub(crate) fn asked_for_load(&mut self, id: RequestId, node: NodeId, now: Time, alternatives: &[Alternative]) {
        let Some(story) = self.stories.get_mut(&id) else { return };
        if story.arrived == now {
            story.expected = story.expected.or(best(alternatives).map(|best| best.first_token()));
        }
        story.add(What::AskedForLoad(node), now, alternatives);
    }

    pub(crate) fn dispatched(
        &mut self,
        id: RequestId,
        node: NodeId,
        attempt: u32,
        now: Time,
        alternatives: &[Alternative],
    ) {
        let Some(story) = self.stories.get_mut(&id) else { return };
        if story.arrived == now {
            story.expected = alternatives.iter().find(|each| each.node == node).map(Alternative::first_token);
        }
        story.add(What::Dispatched(node, attempt), now, alternatives);
    }

    pub(crate) fn note(&mut self, id: RequestId, what: What, now: Time) {
        if let Some(story) = self.stories.get_mut(&id) {
            story.add(what, now, &[]);
        }
    }
}

pub(crate) fn best(alternatives: &[Alternative]) -> Option<&Alternative> {
    alternatives.iter().min_by(|a, b| a.total().total_cmp(&b.total()))
}

impl Story {
    fn add(&mut self, what: What, at: Time, alternatives: &[Alternative]) {
        let mut best: Vec<Alternative> = Vec::with_capacity(ALTERNATIVES.min(alternatives.len()));
        for alternative in alternatives {
            let place = best.partition_point(|other| other.total() <= alternative.total());
            if place < ALTERNATIVES {
                best.truncate(ALTERNATIVES - 1);
                best.insert(place, *alternative);
            }
        }
        if self.steps.len() == STEPS {
            // The first says why it waited.
            self.steps.remove(1);
        }
        self.steps.push(Step { at, what, alternatives: best });
    }
}
