//! How does an attempt or a request go on and end, and what does that teach of the node?

use std::time::Duration;

use crate::{
    decision::{Decision, Refusal, RefusalReason},
    estimate::{PREFILL_SLOWDOWN, REFERENCE_BYTES},
    explain::What,
    failure::{Failure, Outcome},
    ids::{NodeId, RequestId, Time},
    instance::Running,
    model::ModelId,
    node::{Node, fastest, health::Failed},
    request::{Attempt, Request, cost},
    scheduler::{Change, Scheduler},
};

/// Advised while no node has the model and none is about to come back.
const NO_NODE_RETRY_AFTER: Duration = Duration::from_secs(5);
const SHORTEST_RETRY_AFTER: Duration = Duration::from_secs(1);
/// A stream is measured over at least so long.
const LEAST_WATCHED_SECONDS: f64 = 0.25;
/// A plain answer of so many tokens tells something of the speed.
const LEAST_PLAIN_TOKENS: f64 = 16.0;

impl Scheduler {
    pub(crate) fn first_byte(&mut self, id: RequestId, now: Time) -> Change {
        let Some(request) = self.requests.get_mut(&id) else { return Change::Nothing };
        let Some(attempt) = request.attempt.as_mut() else { return Change::Nothing };
        attempt.has_first_byte = true;
        let (node, epoch, model) = (attempt.node, attempt.epoch, request.model);
        let convicted = self.convict(id, now);
        self.journal.note(id, What::FirstByte, now);
        self.nodes[node.0].began(id, model, now.as_secs_f64());
        match self.judge(node, |node| node.started(epoch, now)) {
            // It may have been a probe for a further slot, or the first of a node that came back.
            Change::Nothing if convicted == Change::Nothing => Change::Slot,
            Change::Nothing => convicted,
            change => change,
        }
    }

    /// A node answers a request: that others failed it was their own doing.
    fn convict(&mut self, id: RequestId, now: Time) -> Change {
        let failures = self.requests.get_mut(&id).map(Request::answered).unwrap_or_default();
        let mut change = Change::Nothing;
        for (node, epoch, failure) in failures {
            if self.judge(node, |node| node.convicted(failure, epoch, now)) != Change::Nothing {
                change = Change::Fleet;
            }
        }
        change
    }

    /// Takes note of tokens, and of the speed they show.
    pub(crate) fn progress(&mut self, id: RequestId, tokens: u64, now: Time) {
        let Some(request) = self.requests.get(&id) else { return };
        let Some(attempt) = &request.attempt else { return };
        let guess = fastest(self.nodes.iter());
        self.nodes[attempt.node.0].progressed(id, request.model, tokens as f64, now.as_secs_f64(), guess);
    }

    pub(crate) fn fail(&mut self, id: RequestId, failure: Failure, now: Time, decisions: &mut Vec<Decision>) -> Change {
        let active = self.requests.len();
        let Some(request) = self.requests.get_mut(&id) else {
            return Change::Nothing;
        };
        let Some(attempt) = request.attempt.take() else {
            return Change::Nothing;
        };
        // 5.
        if request.is_budgeted_retry() {
            self.costly_retries -= 1;
        }
        request.failed(attempt.node, failure, attempt.epoch);
        let may_retry = !attempt.has_first_byte && request.may_retry(self.costly_retries, active);
        self.journal.note(id, What::Failed(attempt.node, failure), now);
        let change = self.end_attempt(id, &attempt, Outcome::Failed(failure), now);
        let Some(request) = self.requests.get(&id) else {
            return change;
        };
        if may_retry {
            // 6.
            self.costly_retries += usize::from(request.is_budgeted_retry());
            self.enqueue(id, now);
        } else if let Some(request) = self.requests.remove(&id) {
            // 7.
            let reason = RefusalReason::Exhausted { last: failure };
            decisions.push(self.refusal(id, &request, reason, now));
        }
        change
    }

    pub(crate) fn leave(&mut self, id: RequestId, outcome: Outcome, now: Time) -> Change {
        if !self.requests.contains_key(&id) {
            return Change::Nothing;
        }
        self.journal.note(id, What::Ended(outcome), now);
        let Some(attempt) = self.requests.get_mut(&id).and_then(|request| request.attempt.take()) else {
            self.forget(id, now);
            return Change::Nothing;
        };
        let change = self.end_attempt(id, &attempt, outcome, now);
        if let Some(request) = self.requests.remove(&id) {
            self.costly_retries -= usize::from(request.is_budgeted_retry());
        }
        change
    }

    /// Gives the slot back, settles with the user, and lets the outcome speak for or against the node. The request is
    /// still known, but has no attempt.
    fn end_attempt(&mut self, id: RequestId, attempt: &Attempt, outcome: Outcome, now: Time) -> Change {
        self.drain.ended(self.queue.len() > 0, now);
        let Some(request) = self.requests.get(&id) else { return Change::Nothing };
        let (lane, model, epoch) = (request.lane, request.model, attempt.epoch);
        let (user, route) = (request.user.clone(), request.route);
        let node = &mut self.nodes[attempt.node.0];
        let bytes = node.instance(model).map_or(0.0, |instance| instance.model_bytes());
        let running = node.vacate(id, model);
        let used = running.map_or(0.0, |running| self.learn_from(attempt.node, model, &running, outcome, bytes));
        self.queue.settled(lane, attempt.charged, used);
        let convicted = if outcome == Outcome::Completed { self.convict(id, now) } else { Change::Nothing };
        let failed = |failure| Failed { user: &user, model, route, failure, epoch };
        let change = self.judge(attempt.node, |node| match outcome {
            Outcome::Completed => node.completed(epoch, now),
            Outcome::Cancelled | Outcome::Rejected => {}
            Outcome::Failed(failure) if attempt.has_first_byte => node.broke_off(failed(failure), now),
            Outcome::Failed(failure) => node.failed(failed(failure), now),
        });
        match if change == Change::Nothing { convicted } else { change } {
            Change::Nothing => Change::Slot,
            change => change,
        }
    }

    /// What it cost in the end.
    fn learn_from(&mut self, node: NodeId, model: ModelId, running: &Running, outcome: Outcome, bytes: f64) -> f64 {
        if outcome == Outcome::Completed {
            if running.delivered > 0.0 {
                self.models.get_mut(model).output.observe(running.delivered);
            }
            if let (Some(session), Some(instance)) = (running.session, self.nodes[node.0].instance_mut(model)) {
                instance.keep_session(session, running.whole_prompt + running.delivered);
            }
        }
        match outcome {
            // A failure before the answer began costs the user nothing.
            Outcome::Failed(_) if running.began_at.is_none() => 0.0,
            _ => cost(running.prompt, running.delivered, bytes),
        }
    }

    /// Does something to a node that may change whether it takes requests.
    pub(crate) fn judge(&mut self, node: NodeId, verdict: impl FnOnce(&mut Node)) -> Change {
        let Some(node) = self.nodes.get_mut(node.0) else {
            return Change::Nothing;
        };
        let before = node.standing();
        verdict(node);
        if node.standing() == before { Change::Nothing } else { Change::Fleet }
    }

    pub(crate) fn tick(&mut self, now: Time, decisions: &mut Vec<Decision>) -> Change {
        self.nodes.iter_mut().for_each(|node| node.end_back_off(now));
        // What comes back from a silent node may have waited as long as it may.
        let change = self.listen(now, decisions);
        for id in self.queue.overdue(now) {
            self.refuse_queued(id, RefusalReason::DeadlinePassed, now, decisions);
        }
        if change == Change::Nothing { Change::Slot } else { change }
    }

    /// 10.
    pub(crate) fn refuse_unservable(&mut self, now: Time, decisions: &mut Vec<Decision>) {
        let models: Vec<ModelId> = self.queue.models().collect();
        for model in models {
            if self.has_no_node(model, None, now) {
                let ids: Vec<RequestId> = self.queue.for_model(model).collect();
                ids.into_iter().for_each(|id| self.refuse_without_node(id, now, decisions));
            }
        }
        let retries: Vec<RequestId> = self.queue.retries().collect();
        for id in retries {
            let Some(request) = self.requests.get(&id) else { continue };
            if self.has_no_node(request.model, Some(request), now) {
                self.refuse_without_node(id, now, decisions);
            }
        }
    }

    pub(crate) fn refuse_without_node(&mut self, id: RequestId, now: Time, decisions: &mut Vec<Decision>) {
        let Some(request) = self.requests.get(&id) else { return };
        let reason = self.why_no_node(request.model, Some(request));
        self.refuse_queued(id, reason, now, decisions);
    }

    pub(crate) fn refuse_queued(
        &mut self,
        id: RequestId,
        reason: RefusalReason,
        now: Time,
        decisions: &mut Vec<Decision>,
    ) {
        if let Some(request) = self.forget(id, now) {
            decisions.push(self.refusal(id, &request, reason, now));
        }
    }

    /// Ends a request that waits.
    fn forget(&mut self, id: RequestId, now: Time) -> Option<Request> {
        let request = self.requests.remove(&id)?;
        self.costly_retries -= usize::from(request.is_budgeted_retry());
        self.queue.remove(request.lane, request.position(), now);
        Some(request)
    }

    pub(crate) fn refusal(&mut self, id: RequestId, request: &Request, reason: RefusalReason, now: Time) -> Decision {
        self.journal.note(id, What::Refused(reason), now);
        let refusal = Refusal { reason, retry_after: self.retry_after(reason, request.model, now) };
        Decision::Refuse { id, refusal }
    }

    pub(crate) fn retry_after(&self, reason: RefusalReason, model: ModelId, now: Time) -> Duration {
        match reason {
            RefusalReason::NoNode => self.returns_in(model, now),
            RefusalReason::NotLoaded { .. } => self.loads_again_in(model, now),
            _ => self.drain.retry_after(self.queue.len(), self.limits.max_queued, now),
        }
    }

    /// When a model that could not be loaded is tried again.
    fn loads_again_in(&self, model: ModelId, now: Time) -> Duration {
        let instances = self.nodes.iter().filter(|node| node.is_open()).filter_map(|node| node.instance(model));
        let again_at = instances.map(|instance| instance.load_again_at).fold(f64::INFINITY, f64::min);
        Duration::try_from_secs_f64(again_at - now.as_secs_f64())
            .map_or(SHORTEST_RETRY_AFTER, |time| time.max(SHORTEST_RETRY_AFTER))
    }

    /// When a node that has the model may be back.
    fn returns_in(&self, model: ModelId, now: Time) -> Duration {
        let having = self.nodes.iter().filter(|node| node.lists(model) && !node.has_left);
        let returns_at = having.filter_map(Node::reopens_at).min();
        returns_at.map_or(NO_NODE_RETRY_AFTER, |time| time.saturating_sub(now).max(SHORTEST_RETRY_AFTER))
    }
}

impl Node {
    /// The first byte of a request came: how long its prompt took is known.
    fn began(&mut self, id: RequestId, model: ModelId, now: f64) {
        (self.heard_at, self.quiet_until) = (now, None);
        let Some(instance) = self.instance_mut(model) else { return };
        instance.slots.began(id, now);
        let Some(running) = instance.find_running(id) else { return };
        running.began_at = Some(now);
        running.heard_at = now;
        let (tokens, stretch) = (running.prompt, 1.0 + PREFILL_SLOWDOWN * running.others);
        let seconds = (now - running.sent_at) / stretch;
        if running.is_stream {
            instance.prefill.observe(tokens, seconds);
        }
    }

    /// Tokens of a request came: how fast the node writes is known.
    fn progressed(&mut self, id: RequestId, model: ModelId, tokens: f64, now: f64, guess: f64) {
        (self.heard_at, self.quiet_until) = (now, None);
        let others = f64::from(self.in_flight().saturating_sub(1));
        let Some(instance) = self.instance(model) else { return };
        let (size, factor) = (instance.model_bytes() / REFERENCE_BYTES, instance.correction.factor);
        let Some(running) = instance.running.iter().find(|running| running.id == id) else { return };
        let new = tokens - running.delivered;
        let (since, is_worth_it) = match running.began_at {
            Some(began) => {
                let since = running.heard_at.max(began);
                (since, now - since >= LEAST_WATCHED_SECONDS && new >= 1.0)
            }
            None => {
                // A plain answer: what reading the prompt took is not known apart.
                let prefill = self.prefill_seconds(instance, running.prompt, running.others, guess);
                (running.sent_at + prefill.min(0.5 * (now - running.sent_at)), new >= LEAST_PLAIN_TOKENS)
            }
        };
        let watched = now - since;
        let sample = watched / new / size;
        if is_worth_it {
            let expected = self.speed.alone().map(|alone| alone * self.speed.stretch(others));
            self.speed.observe(sample / factor, others, watched);
            if let (Some(expected), Some(instance)) = (expected, self.instance_mut(model)) {
                instance.correction.observe(sample / expected);
            }
        }
        let Some(running) = self.instance_mut(model).and_then(|instance| instance.find_running(id)) else { return };
        running.delivered = running.delivered.max(tokens);
        if is_worth_it {
            running.heard_at = now;
        }
    }
}
