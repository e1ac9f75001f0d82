//! What follows from an event? The numbered steps in the crate's documentation, by their numbers.

use std::time::Duration;

use crate::{
    decision::{Decision, Refusal, RefusalReason},
    event::{Arrival, Event},
    explain::What,
    ids::{NodeId, RequestId, Time},
    model::{ModelId, Models},
    node::Node,
    queue::Entry,
    request::{Request, cost},
    scheduler::Scheduler,
};

/// While nothing else happens, the scheduler plans everything again and looks for silent nodes this often.
const BEAT: Duration = Duration::from_secs(1);

impl Scheduler {
    /// Records an event and decides what follows from it. `now` must never go back. Events about unknown requests or
    /// nodes are ignored.
    pub fn handle(&mut self, event: Event, now: Time) -> Vec<Decision> {
        let mut decisions = Vec::new();
        self.loads_begun = 0;
        match event {
            Event::Arrived(arrival) => self.arrive(arrival, now, &mut decisions),
            Event::Wanted { model } => self.want(&model, now, &mut decisions),
            Event::FirstByte { id } => self.first_byte(id, now),
            Event::Progress { id, tokens } => self.progress(id, tokens, now),
            Event::Worked { id, time, writing } => self.worked(id, time, writing),
            Event::Stalled { id } => self.stalled(id, now),
            Event::Failed { id, failure } => self.fail(id, failure, now, &mut decisions),
            Event::Left { id, outcome } => self.leave(id, outcome, now),
            Event::Adopted(adopted) => self.adopt(*adopted, now, &mut decisions),
            Event::Tick => self.tick(now, &mut decisions),
            event => self.hear_of_node(event, now, &mut decisions),
        }
        // Whatever the event was, slots may have become free, or nodes may have gone.
        self.go_on(now, &mut decisions);
        self.arm(now);
        if cfg!(debug_assertions) {
            self.check(now);
        }
        decisions
    }

    fn hear_of_node(&mut self, event: Event, now: Time, decisions: &mut Vec<Decision>) {
        let seconds = now.as_secs_f64();
        match event {
            Event::Listed { node, models } => {
                let before = self.fleet.get(node).map_or(0, |node| node.listings);
                self.with_models(node, |node, known| node.list(models, known));
                // Nodes are listed again and again, and nearly always alike.
                if self.fleet.get(node).is_some_and(|node| node.listings != before) {
                    self.forget_unlisted(now);
                }
            }
            Event::Resident { node, loaded } => {
                self.with_models(node, |node, known| node.reside(loaded, known, seconds));
            }
            Event::Routes { node, routes } => {
                self.judge(node, |node| node.routes = routes);
            }
            Event::Answered { node } => self.judge(node, |node| node.answered(now)),
            Event::Silent { node, error } => self.judge(node, |node| node.silent(error, now)),
            Event::CanaryEnded { node, verdict } => self.judge(node, |node| node.canary_ended(verdict, now)),
            Event::Loaded { node, model, result } => self.loaded(node, &model, result, now),
            Event::Unloaded { node, model, result } => self.unloaded(node, &model, result, now, decisions),
            // Ids are places in the list: one that leaves a gap, or repeats, is no node that can be known.
            Event::NodeJoined { node, spec } if node.0 == self.fleet.len() => {
                self.fleet.push(Node::new(spec));
                self.fleet[node].set_reach(&self.reach);
                self.recall_node(node);
            }
            Event::NodeChanged { node, spec } => self.judge(node, |node| node.reconfigure(spec)),
            Event::NodeLeft { node } => self.judge(node, |node| node.has_left = true),
            Event::Shared { reach } => self.set_reach(&reach),
            Event::Spared(spare) => self.take_spare(&spare),
            Event::Drain { node, on } => self.judge(node, |node| node.is_draining = on),
            _ => {}
        }
    }

    fn with_models(&mut self, node: NodeId, act: impl FnOnce(&mut Node, &mut Models)) {
        let mut models = std::mem::take(&mut self.models);
        self.judge(node, |node| act(node, &mut models));
        self.models = models;
    }

    /// Changes something about a node that may change which requests it takes.
    pub(crate) fn judge(&mut self, node: NodeId, verdict: impl FnOnce(&mut Node)) {
        if let Some(node) = self.fleet.get_mut(node) {
            verdict(node);
        }
    }

    /// Whether the shell should now send a node a canary, a request of its own that shows whether the node works, and
    /// report [`Event::CanaryEnded`]. The node gets no other request meanwhile. To be asked whenever a probe was answered,
    /// before that is reported.
    pub fn begin_canary(&mut self, node: NodeId, now: Time) -> bool {
        // Of several gateways one tries the node, by a slot that is its own.
        let is_due = self.fleet.get(node).is_some_and(|node| node.is_loader() && node.is_canary_due(now));
        if is_due {
            self.judge(node, |node| node.breaker.begin_canary(now));
        }
        is_due
    }

    /// The process was paused until now. What nodes sent meanwhile is read only from now on, so none has been silent.
    pub fn woke_up(&mut self, now: Time) {
        let now = now.as_secs_f64();
        self.fleet.ids().for_each(|node| self.fleet[node].heard_at = self.fleet[node].heard_at.max(now));
    }

    /// Steps 8 to 10. What is carried out may make more possible, so the steps repeat until nothing more follows.
    fn go_on(&mut self, now: Time, decisions: &mut Vec<Decision>) {
        loop {
            for node in &self.fleet.take_loads(self.queue.take_emptied()) {
                self.advance_load(*node, now, decisions);
            }
            self.settle(now);
            let (has_losses, has_moves) = (std::mem::take(&mut self.has_losses), std::mem::take(&mut self.has_moves));
            if self.queue.len() == 0 {
                self.stirred.clear();
                break;
            }
            if has_losses {
                self.refuse_unservable(now, decisions);
            }
            if has_moves {
                // There may be room now for models that are in no memory.
                let is_nowhere = |model: &ModelId| self.fleet.of(*model).hosts.is_empty();
                self.stirred.extend(self.queue.models().filter(is_nowhere));
            }
            if self.stirred.is_empty() {
                break;
            }
            self.plan(now, decisions);
        }
        self.newcomer = None;
    }

    /// When an [`Event::Tick`] is due, if nothing else happens before.
    pub fn next_deadline(&self) -> Option<Time> {
        let deadlines = [self.fleet.next_back_off_end(), self.queue.next_deadline(), self.beat_at];
        deadlines.into_iter().flatten().min()
    }

    fn arm(&mut self, now: Time) {
        let is_at_rest = self.requests.is_empty();
        self.beat_at = match self.beat_at {
            _ if is_at_rest => None,
            Some(at) if at > now => Some(at),
            _ => Some(now + BEAT),
        };
    }

    fn arrive(&mut self, arrival: Arrival, now: Time, decisions: &mut Vec<Decision>) {
        let id = arrival.id;
        if self.requests.contains_key(&id) {
            return;
        }
        self.journal.arrived(id, self.queue.len(), now);
        // 1.
        self.settle(now);
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
            return;
        };
        self.models.get_mut(model).demand.asked(now.as_secs_f64());
        let lane = self.queue.lane(&arrival.user, arrival.weight, arrival.membership.as_ref(), now);
        let objection = self.queue.objection(lane);
        self.arrivals += 1;
        let mut request = Request::new(arrival, lane, model, self.arrivals, now);
        let mut is_stranger = None;
        for id in self.fleet.particular() {
            let node = &self.fleet[id];
            let is_barred = !node.routes.has(request.route);
            let is_stranger = *is_stranger.get_or_insert_with(|| self.witnesses.is_stranger(&request.user, now));
            if is_barred || node.breaker.is_avoided_by(&request.user, is_stranger, now) {
                request.avoid(id, is_barred);
            }
        }
        self.requests.insert(id, Box::new(request));
        // 2.
        self.enqueue(id, now);
        if self.has_no_node(model, self.requests.get(&id).map(Box::as_ref), now) {
            // By its route, say; nobody looks at it before its turn, and then in vain.
            self.refuse_without_node(id, now, decisions);
            return;
        }
        self.newcomer = Some(id);
        // 4.
        let Some(reason) = objection else { return };
        // 3.
        self.go_on(now, decisions);
        if self.requests.get(&id).is_some_and(|request| request.attempt.is_none()) {
            self.refuse_queued(id, reason, now, decisions);
        }
    }

    /// Puts a request into the queue.
    pub(crate) fn enqueue(&mut self, id: RequestId, now: Time) {
        let Some(request) = self.requests.get(&id) else { return };
        let listing = self.listing(request.model);
        let bytes = listing.map_or(0, |model| model.size_bytes);
        let entry = Entry {
            id,
            model: request.model,
            position: request.position(),
            arrived: request.arrived,
            deadline: request.deadline,
            cost: cost(request.prompt, self.models.expected_output(request), bytes as f64),
        };
        self.stirred.insert(request.model);
        self.queue.push(request.lane, entry, now);
    }

    /// Loads a model that is about to be asked for, if that costs nobody anything.
    fn want(&mut self, asked: &str, now: Time, decisions: &mut Vec<Decision>) {
        self.settle(now);
        let Some(model) = self.models.find(asked) else { return };
        let whereabouts = self.fleet.of(model);
        let is_there =
            |node: &NodeId| self.fleet[*node].instance(model).is_some_and(|instance| instance.resident_since.is_some());
        if !whereabouts.loading.is_empty() || whereabouts.shelves.iter().any(is_there) {
            return;
        }
        let seconds = now.as_secs_f64();
        let candidates = whereabouts.shelves.iter().filter_map(|id| {
            let node = &self.fleet[*id];
            let instance = node.instance(model)?;
            let can = node.may_load() && instance.load_again_at <= seconds && node.has_room_for(instance);
            can.then(|| (node.load_seconds(instance), *id))
        });
        if let Some((_, node)) = candidates.min_by(|a, b| a.0.total_cmp(&b.0)) {
            self.begin_load(node, model, Vec::new(), None, now, decisions);
        }
    }

    /// Asserts what must hold after every event; in debug builds only.
    fn check(&self, now: Time) {
        self.queue.check();
        debug_assert!(self.stirred.is_empty() && self.newcomer.is_none());
        debug_assert!(self.next_deadline().is_some() || self.requests.is_empty(), "nobody would wake at {now:?}");
        debug_assert!(self.queue.len() <= self.requests.len());
    }
}
