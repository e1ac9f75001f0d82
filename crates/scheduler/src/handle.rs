//! What follows from an event? The steps of the crate's documentation, by their numbers.

use std::time::Duration;

use crate::{
    decision::{Decision, Refusal, RefusalReason},
    event::{Arrival, Event},
    explain::What,
    ids::{NodeId, RequestId, Time},
    model::Models,
    node::Node,
    queue::Entry,
    request::{Request, cost},
    scheduler::{Change, Scheduler},
};

/// How often the plan is made anew while nothing happens, and silent nodes are looked for.
const BEAT: Duration = Duration::from_secs(1);

impl Scheduler {
    /// Takes note of an event and decides what follows from it. `now` must
    /// never go back. Events about unknown requests or nodes are ignored.
    pub fn handle(&mut self, event: Event, now: Time) -> Vec<Decision> {
        let mut decisions = Vec::new();
        let change = match event {
            Event::Arrived(arrival) => self.arrive(arrival, now, &mut decisions),
            Event::Wanted { model } => self.want(&model, now, &mut decisions),
            Event::FirstByte { id } => self.first_byte(id, now),
            Event::Progress { id, tokens } => {
                self.progress(id, tokens, now);
                Change::Nothing
            }
            Event::Stalled { id } => {
                self.stalled(id, now);
                Change::Nothing
            }
            Event::Failed { id, failure } => self.fail(id, failure, now, &mut decisions),
            Event::Left { id, outcome } => self.leave(id, outcome, now),
            Event::Tick => self.tick(now, &mut decisions),
            event => self.hear_of_node(event, now, &mut decisions),
        };
        if change != Change::Nothing {
            self.go_on(change, now, &mut decisions);
        }
        self.arm(now);
        decisions
    }

    fn hear_of_node(&mut self, event: Event, now: Time, decisions: &mut Vec<Decision>) -> Change {
        let seconds = now.as_secs_f64();
        match event {
            Event::Listed { node, models } => {
                let before = self.nodes.get(node.0).map_or(0, |node| node.listings);
                let change = self.with_models(node, |node, known| node.list(models, known));
                self.settle_list(node, before, change)
            }
            Event::Resident { node, loaded } => {
                let change = self.with_models(node, |node, known| node.reside(loaded, known, seconds));
                if change == Change::Nothing { Change::Slot } else { change }
            }
            Event::Routes { node, routes } => {
                self.nodes.get_mut(node.0).into_iter().for_each(|node| node.routes = routes);
                Change::Fleet
            }
            Event::Answered { node } => self.judge(node, |node| node.answered(now)),
            Event::Silent { node, error } => self.judge(node, |node| node.silent(error, now)),
            Event::Loaded { node, model, result } => {
                self.loaded(node, &model, result, now);
                Change::Fleet
            }
            Event::Unloaded { node, model, result } => {
                self.unloaded(node, &model, result, now, decisions);
                Change::Fleet
            }
            Event::NodeJoined { node, spec } => {
                if node.0 == self.nodes.len() {
                    self.nodes.push(Node { reach: self.reach.clone(), ..Node::new(spec) });
                    self.recall_node(node);
                }
                Change::Nothing
            }
            Event::NodeChanged { node, spec } => {
                self.nodes.get_mut(node.0).into_iter().for_each(|node| node.reconfigure(spec.clone()));
                Change::Fleet
            }
            Event::NodeLeft { node } => self.judge(node, |node| node.has_left = true),
            Event::Shared { reach } => {
                self.set_reach(&reach);
                Change::Fleet
            }
            Event::Drain { node, on } => self.judge(node, |node| node.is_draining = on),
            _ => Change::Nothing,
        }
    }

    fn with_models(&mut self, node: NodeId, act: impl FnOnce(&mut Node, &mut Models)) -> Change {
        let mut models = std::mem::take(&mut self.models);
        let change = self.judge(node, |node| act(node, &mut models));
        self.models = models;
        change
    }

    /// Steps 8 to 10.
    fn go_on(&mut self, change: Change, now: Time, decisions: &mut Vec<Decision>) {
        for index in 0..self.nodes.len() {
            if self.nodes[index].load.is_some() {
                self.advance_load(NodeId(index), now, decisions);
            }
        }
        if self.queue.len() == 0 {
            return;
        }
        if change == Change::Fleet {
            self.refuse_unservable(now, decisions);
        }
        self.plan(now, decisions);
    }

    /// When an [`Event::Tick`] is due, if nothing else happens before.
    pub fn next_deadline(&self) -> Option<Time> {
        let back_offs = self.nodes.iter().filter_map(Node::busy_until);
        back_offs.chain(self.queue.next_deadline()).chain(self.beat_at).min()
    }

    fn arm(&mut self, now: Time) {
        let is_at_rest = self.requests.is_empty();
        self.beat_at = match self.beat_at {
            _ if is_at_rest => None,
            Some(at) if at > now => Some(at),
            _ => Some(now + BEAT),
        };
    }

    fn arrive(&mut self, arrival: Arrival, now: Time, decisions: &mut Vec<Decision>) -> Change {
        let id = arrival.id;
        if self.requests.contains_key(&id) {
            return Change::Nothing;
        }
        self.journal.arrived(id, self.queue.len(), now);
        // 1.
        let model = self.models.find(&arrival.model);
        let servable = model.filter(|model| !self.has_no_node(*model, None, now));
        let Some(model) = servable.filter(|_| arrival.deadline > now) else {
            let reason = match model {
                _ if arrival.deadline <= now => RefusalReason::DeadlinePassed,
                Some(model) => self.why_no_node(model, None),
                None => RefusalReason::NoNode,
            };
            let retry_after = model.map_or(Duration::from_secs(5), |model| self.retry_after(reason, model, now));
            self.journal.note(id, What::Refused(reason), now);
            decisions.push(Decision::Refuse { id, refusal: Refusal { reason, retry_after } });
            return Change::Nothing;
        };
        self.models.get_mut(model).demand.asked(now.as_secs_f64());
        let objection = self.queue.objection(&arrival.user);
        let lane = self.queue.lane(&arrival.user, arrival.weight, now);
        self.arrivals += 1;
        let mut request = Request::new(arrival, lane, model, self.arrivals, now);
        for (index, node) in self.nodes.iter().enumerate() {
            let is_barred = !node.routes.has(request.route);
            if is_barred || node.breaker.is_avoided_by(&request.user, now) {
                request.avoid(NodeId(index), is_barred);
            }
        }
        self.requests.insert(id, request);
        // 2.
        self.enqueue(id, now);
        let Some(reason) = objection else {
            // 4.
            return Change::Slot;
        };
        // 3.
        self.go_on(Change::Slot, now, decisions);
        if self.requests.get(&id).is_some_and(|request| request.attempt.is_none()) {
            self.refuse_queued(id, reason, now, decisions);
        }
        Change::Nothing
    }

    /// Puts a request into the queue.
    pub(crate) fn enqueue(&mut self, id: RequestId, now: Time) {
        let Some(request) = self.requests.get(&id) else { return };
        let size = |node: &Node| Some(node.instance(request.model)?.listing.as_ref()?.size_bytes);
        let bytes = self.nodes.iter().find_map(size).unwrap_or(0);
        let entry = Entry {
            id,
            model: request.model,
            position: request.position(),
            arrived: request.arrived,
            deadline: request.deadline,
            cost: cost(request.prompt, self.expected_output(request), bytes as f64),
        };
        self.queue.push(request.lane, entry, now);
    }

    /// Loads a model that is about to be asked for, where that costs nobody anything.
    fn want(&mut self, asked: &str, now: Time, decisions: &mut Vec<Decision>) -> Change {
        let Some(model) = self.models.find(asked) else { return Change::Nothing };
        let is_there = |node: &Node| {
            let is_loading = node.load.as_ref().is_some_and(|load| load.model == model);
            let is_resident = node.instance(model).is_some_and(|instance| instance.resident_since.is_some());
            node.is_open() && (is_loading || is_resident)
        };
        if self.nodes.iter().any(is_there) {
            return Change::Nothing;
        }
        let seconds = now.as_secs_f64();
        let candidates = self.nodes.iter().enumerate().filter_map(|(index, node)| {
            let instance = node.instance(model)?;
            let can = node.is_open() && node.may_load() && instance.listing.is_some();
            (can && instance.load_again_at <= seconds && node.has_room_for(instance))
                .then(|| (node.load_seconds(instance), NodeId(index)))
        });
        if let Some((_, node)) = candidates.min_by(|a, b| a.0.total_cmp(&b.0)) {
            self.begin_load(node, model, Vec::new(), None, now, decisions);
        }
        Change::Nothing
    }
}
