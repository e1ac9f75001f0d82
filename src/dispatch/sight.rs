//! How does the scheduler's state look, at any gateway? The one that schedules for all answers for the others. Where it
//! does not answer in time, a gateway shows what it knows itself, and says so.
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::dispatcher::Dispatcher;
use super::links::Asking;
use cluster::{Reported, Role};
use scheduler::{Alternative, NodeId, NodeView, RequestId, Story, Waiting, What};

/// Longest wait for the gateway that schedules for all.
const PATIENCE: Duration = Duration::from_secs(1);
/// Questions that wait to be asked.
const QUESTIONS: usize = 32;
/// Most waiting requests in an answer.
const MOST_WAITING: usize = 1_000;
/// Instead of a number that no message can carry.
const FOREVER_SECONDS: f64 = 1e9;

/// What somebody wants to see. The sizes are always shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The nodes.
    pub nodes: bool,
    /// How many of the waiting requests.
    pub waiting: usize,
    /// The story of this request.
    pub story: Option<RequestId>,
}

/// Whose state is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// That of the scheduler that decides for every gateway.
    All,
    /// That of this gateway only: it schedules for itself, or the one that schedules for it did not answer.
    Own,
}

impl Scope {
    /// One word for it.
    pub fn label(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Own => "own",
        }
    }
}

/// The scheduler's state, as far as it was asked for. Nodes are named by this gateway's own ids; [`NodeId::NONE`] stands
/// for those that it does not know.
#[derive(Clone, Debug)]
pub struct Sight {
    /// Whose state it is.
    pub scope: Scope,
    /// In the order of joining.
    pub nodes: Vec<NodeView>,
    /// Whoever's turn comes first is first.
    pub waiting: Vec<Waiting>,
    /// `None` if it is not remembered.
    pub story: Option<Story>,
    /// The user and the model of the same request, until it ends.
    pub whose: Option<(Arc<str>, Arc<str>)>,
    /// Requests that wait.
    pub queued: usize,
    /// Requests on nodes.
    pub in_flight: usize,
    /// Between two requests that leave the queue; `None` before it was measured.
    pub drain_interval: Option<Duration>,
}

/// The same as it travels to another gateway.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    nodes: Vec<NodeView>,
    waiting: Vec<ToldWaiting>,
    story: Option<Story>,
    #[serde(default)]
    whose: Option<(String, String)>,
    queued: usize,
    in_flight: usize,
    drain_interval: Option<Duration>,
    /// The nodes that are mentioned, by the sender's ids.
    names: BTreeMap<usize, String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ToldWaiting {
    id: RequestId,
    user: String,
    model: String,
    waited: Duration,
    waits_for: Option<Alternative>,
}

impl Dispatcher {
    /// The questions that this gateway has for its leader. For the one task that asks them.
    pub(crate) fn take_questions(&self) -> mpsc::Receiver<Asking> {
        let (sender, receiver) = mpsc::channel(QUESTIONS);
        self.peek(|core| core.asking = Some(sender));
        receiver
    }

    /// Looks at the scheduler that decides for this gateway, wherever it is.
    pub async fn look(&self, question: Question) -> Sight {
        match tokio::time::timeout(PATIENCE, self.ask(&question)).await {
            Ok(Some(told)) => self.sight(told),
            Ok(None) | Err(_) => self.look_here(&question),
        }
    }

    /// What the leader answers; `None` at once if this gateway follows nobody.
    async fn ask(&self, question: &Question) -> Option<Told> {
        let (leader, asking) =
            self.peek(|core| Some((core.coordinator.member.leader()?.clone(), core.asking.clone()?)))?;
        let (answer, answered) = oneshot::channel();
        let question = serde_json::to_string(question).ok()?;
        // A full queue is answered from here at once: looking must not add to what a busy leader has to do.
        asking.try_send(Asking { leader, question, answer }).ok()?;
        serde_json::from_str(&answered.await.ok()?).ok()
    }

    /// The answer to another gateway; `None` unless this one schedules for it, or if the question is none.
    pub(crate) fn answer(&self, question: &str) -> Option<String> {
        let question: Question = serde_json::from_str(question).ok()?;
        self.welcomes()?;
        serde_json::to_string(&self.told(self.look_here(&question))).ok()
    }

    fn look_here(&self, question: &Question) -> Sight {
        let now = self.clock.uptime();
        let (scope, carried) = self.peek(|core| {
            let member = &core.coordinator.member;
            match member.role() {
                Role::Leading { .. } => (Scope::All, None),
                Role::Local if core.coordinator.gateways() <= 1 => (Scope::All, None),
                // Its scheduler knows of no request.
                Role::Following { .. } => (Scope::Own, Some(member.carried(now))),
                Role::Local | Role::Seeking { .. } => (Scope::Own, None),
            }
        });
        let nodes = if question.nodes { self.nodes() } else { Vec::new() };
        let most = question.waiting.min(MOST_WAITING);
        let mut sight = self.read(|scheduler| Sight {
            scope,
            nodes,
            waiting: scheduler.waiting(most, now),
            story: question.story.and_then(|id| scheduler.story(id, now).cloned()),
            whose: question.story.and_then(|id| scheduler.whose(id)),
            queued: scheduler.queued(),
            in_flight: scheduler.in_flight(),
            drain_interval: scheduler.drain_interval(),
        });
        if let Some(carried) = carried {
            sight.show(carried, most);
        }
        sight
    }

    fn told(&self, sight: Sight) -> Told {
        let Sight { mut nodes, waiting, mut story, whose, queued, in_flight, drain_interval, .. } = sight;
        let whose = whose.map(|(user, model)| (user.to_string(), model.to_string()));
        // The reader knows what is on the nodes' disks by itself.
        nodes.iter_mut().for_each(|node| node.models = Arc::from([]));
        let told = |waiting: Waiting| {
            let Waiting { id, user, model, waited, waits_for } = waiting;
            let waits_for = waits_for.map(finite);
            ToldWaiting { id, user: user.to_string(), model: model.to_string(), waited, waits_for }
        };
        let waiting: Vec<ToldWaiting> = waiting.into_iter().map(told).collect();
        let mut mentioned: Vec<NodeId> =
            waiting.iter().filter_map(|waiting| waiting.waits_for.map(|it| it.node)).collect();
        if let Some(story) = &mut story {
            // JSON has no infinity: serde_json writes it as null, which is no number to the reader.
            story.expected = story.expected.filter(|seconds| seconds.is_finite());
            each_node(story, |node| mentioned.push(*node));
            let all = story.steps.iter_mut().flat_map(|step| &mut step.alternatives);
            all.for_each(|alternative| *alternative = finite(*alternative));
        }
        let named = |node: NodeId| self.read(|scheduler| Some((node.0, scheduler.node_name(node)?.to_owned())));
        mentioned.sort_unstable();
        mentioned.dedup();
        let names = mentioned.into_iter().filter_map(named).collect();
        Told { nodes, waiting, story, whose, queued, in_flight, drain_interval, names }
    }

    /// What was told, with this gateway's own ids of nodes.
    fn sight(&self, told: Told) -> Sight {
        let Told { mut nodes, waiting, mut story, whose, queued, in_flight, drain_interval, names } = told;
        let whose = whose.map(|(user, model)| (user.into(), model.into()));
        let mut own: HashMap<String, NodeView> = if nodes.is_empty() {
            HashMap::new()
        } else {
            self.nodes().into_iter().map(|node| (node.name.clone(), node)).collect()
        };
        for node in &mut nodes {
            if let Some(own) = own.remove(&node.name) {
                (node.id, node.models) = (own.id, own.models);
            }
        }
        let own_id = |name: &String| self.read(|scheduler| scheduler.find_node(name));
        let ids: HashMap<usize, NodeId> =
            names.iter().filter_map(|(theirs, name)| Some((*theirs, own_id(name)?))).collect();
        let translate = |node: &mut NodeId| *node = ids.get(&node.0).copied().unwrap_or(NodeId::NONE);
        let heard = |waiting: ToldWaiting| {
            let ToldWaiting { id, user, model, waited, mut waits_for } = waiting;
            waits_for.iter_mut().for_each(|alternative| translate(&mut alternative.node));
            Waiting { id, user: user.into(), model: model.into(), waited, waits_for }
        };
        let waiting = waiting.into_iter().map(heard).collect();
        if let Some(story) = &mut story {
            each_node(story, translate);
        }
        Sight { scope: Scope::All, nodes, waiting, story, whose, queued, in_flight, drain_interval }
    }
}

impl Sight {
    /// Fills in what a follower carries.
    fn show(&mut self, carried: Vec<Reported>, most: usize) {
        let (running, waiting): (Vec<_>, Vec<_>) = carried.into_iter().partition(|it| it.attempt.is_some());
        (self.queued, self.in_flight) = (waiting.len(), running.len());
        for attempt in running.iter().filter_map(|it| it.attempt.as_ref()) {
            if let Some(node) = self.nodes.iter_mut().find(|node| node.name == attempt.node) {
                node.in_flight = node.in_flight.saturating_add(1);
            }
        }
        let shown = |it: Reported| {
            let (user, model) = (it.request.user.into(), it.request.model.into());
            Waiting { id: it.request.id, user, model, waited: it.waited, waits_for: None }
        };
        self.waiting = waiting.into_iter().take(most).map(shown).collect();
    }
}

/// Calls `act` with every node that a story mentions.
fn each_node(story: &mut Story, mut act: impl FnMut(&mut NodeId)) {
    for step in &mut story.steps {
        if let What::AskedForLoad(node) | What::Dispatched(node, _) | What::Failed(node, _) = &mut step.what {
            act(node);
        }
        step.alternatives.iter_mut().for_each(|alternative| act(&mut alternative.node));
    }
}

fn finite(alternative: Alternative) -> Alternative {
    let Alternative { node, kind, wait, load, regret, prefill, decode, prompt, cached } = alternative;
    let [wait, load, regret, prefill, decode, prompt, cached] = [wait, load, regret, prefill, decode, prompt, cached]
        .map(|number| if number.is_finite() { number } else { FOREVER_SECONDS });
    Alternative { node, kind, wait, load, regret, prefill, decode, prompt, cached }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::dispatch::dispatcher::tests::{arrival, held};
    use cluster::{Candidate, Frame, LeaseNews, Others, Peer};
    use scheduler::{NodeSpec, QueueLimits};
    use uuid::Uuid;

    /// A gateway that follows `a`, and what it says to it.
    fn follower() -> (Arc<Dispatcher>, mpsc::Receiver<Frame>) {
        let spec = NodeSpec { name: "gpu".to_owned(), slots: Some(1), vram_bytes: None };
        let (dispatcher, _errands) = Dispatcher::new(QueueLimits::default(), vec![spec], Clock::start(), held());
        dispatcher.meet_others("b".into(), Some("http://b".into()), false);
        let (address, silent, busy) = ("http://a".into(), Duration::ZERO, Duration::ZERO);
        let peer = Peer { gateway: "a".into(), stance: None, link: Some("http://a".into()), silent, busy };
        dispatcher.observe(&Others { there: vec![peer], left: Vec::new() });
        dispatcher.lease(LeaseNews::Taken(Candidate { gateway: "a".into(), address, epoch: 1 }));
        let (_, frames) = dispatcher.follow(&"a".into(), 1).unwrap();
        (dispatcher, frames)
    }

    #[actix_rt::test]
    async fn a_follower_whose_leader_does_not_answer_shows_what_it_carries() {
        let (dispatcher, _frames) = follower();
        // Nobody reads them.
        let _questions = dispatcher.take_questions();
        let _ticket = dispatcher.join(Uuid::now_v7(), arrival(), Duration::from_secs(60));
        let sight = dispatcher.look(Question { nodes: true, waiting: 10, story: None }).await;
        assert_eq!((sight.scope, sight.queued, sight.in_flight), (Scope::Own, 1, 0));
        assert_eq!((&*sight.waiting[0].user, sight.nodes.len()), ("ann", 1));
    }

    #[actix_rt::test]
    async fn a_first_byte_does_not_wait_for_ever_for_a_leader_that_says_nothing() {
        let (dispatcher, mut frames) = follower();
        let id = Uuid::now_v7();
        let mut ticket = dispatcher.join(id, arrival(), Duration::from_secs(60));
        let (id, foreseen) = (RequestId(id.as_u128()), Default::default());
        let grant = Frame::Grant { id, node: "gpu".to_owned(), attempt: 1, takes: Duration::ZERO, foreseen };
        dispatcher.said(&"a".into(), 1, vec![grant]);
        assert_eq!(ticket.granted().await.unwrap().attempt, 1);
        let alive = async {
            loop {
                tokio::time::sleep(Duration::from_millis(250)).await;
                dispatcher.tick_member(false);
            }
        };
        let may_begin = tokio::select! {
            may_begin = ticket.first_byte(1) => may_begin,
            () = alive => true,
        };
        assert!(!may_begin);
        let mut said = Vec::new();
        while let Ok(frame) = frames.try_recv() {
            said.push(frame);
        }
        assert!(matches!(said.last(), Some(Frame::Failed { attempt: 1, .. })), "{said:?}");
    }
}
