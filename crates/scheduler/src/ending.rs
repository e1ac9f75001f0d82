//! How does an attempt or a request proceed and end, and what does that say about the node?

use std::{sync::Arc, time::Duration};

use crate::{
    accusations::{Accusation, Standing},
    breaker::Epoch,
    decision::{Decision, Refusal, RefusalReason},
    explain::What,
    failure::{Blame, Failure, Outcome},
    ids::{NodeId, RequestId, Time},
    model::ModelId,
    node::{Node, health::Failed},
    prefix::PrefixMemory,
    request::{Attempt, Request, cost},
    running::Running,
    scheduler::Scheduler,
};

/// The advice while no node has the model and none is about to come back.
const NO_NODE_RETRY_AFTER: Duration = Duration::from_secs(5);
const SHORTEST_RETRY_AFTER: Duration = Duration::from_secs(1);

impl Scheduler {
    pub(crate) fn first_byte(&mut self, id: RequestId, now: Time) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        let Some(attempt) = request.attempt.as_mut() else { return };
        attempt.has_first_byte = true;
        let (node, epoch, model) = (attempt.node, attempt.epoch, request.model);
        let is_first_try = request.is_stream && request.attempts == 1;
        let (failures, user) = (request.answered(), request.user.clone());
        self.convict(failures, &user, now);
        if is_first_try {
            self.journal.compare(id, now);
        }
        self.journal.note(id, What::FirstByte, now);
        self.fleet[node].began(id, model, now.as_secs_f64());
        self.judge(node, |node| node.started(epoch, now));
        if self.fleet[node].spec.slots.is_none() {
            // It may have been a probe for one more slot, whose result is now known.
            self.stirred.insert(model);
        }
    }

    /// A node answers a request of this user's, so the nodes that failed it before are to blame.
    fn convict(&mut self, failures: Vec<(NodeId, Epoch, Failure)>, user: &Arc<str>, now: Time) {
        for (node, epoch, failure) in failures {
            self.witnesses.was_right(user, node);
            self.judge(node, |node| node.convicted(user, failure, epoch, now));
        }
    }

    /// Records the tokens so far, and the speed that they show.
    pub(crate) fn progress(&mut self, id: RequestId, tokens: u64, now: Time) {
        let Some(request) = self.requests.get(&id) else { return };
        let Some(attempt) = &request.attempt else { return };
        let node = &mut self.fleet[attempt.node];
        let was_measured = node.speed.alone().is_some();
        node.progressed(id, request.model, tokens as f64, now.as_secs_f64(), self.guess);
        match node.speed.alone() {
            Some(alone) if was_measured => self.guess = self.guess.min(alone),
            Some(_) => self.guess_speed(),
            None => {}
        }
    }

    /// The node says how long it worked on a request.
    pub(crate) fn worked(&mut self, id: RequestId, time: Duration, writing: Option<Duration>) {
        let Some(request) = self.requests.get(&id) else { return };
        let Some(attempt) = &request.attempt else { return };
        let node = self.fleet.untouched(attempt.node);
        let running = node.instance_mut(request.model).and_then(|instance| instance.find_running(id));
        if let Some(running) = running {
            running.worked = Some(time.as_secs_f64());
            running.writing = writing.map(|writing| writing.as_secs_f64());
        }
    }

    pub(crate) fn fail(&mut self, id: RequestId, failure: Failure, now: Time, decisions: &mut Vec<Decision>) {
        let active = self.requests.len();
        let Some(attempt) = self.requests.get_mut(&id).and_then(|request| request.attempt.take()) else { return };
        let Some(mut request) = self.requests.remove(&id) else { return };
        // 5.
        if request.is_budgeted_retry() {
            self.costly_retries -= 1;
        }
        request.failed(attempt.node, failure, attempt.epoch);
        let may_retry = !attempt.has_first_byte && request.may_retry(self.costly_retries, active);
        self.journal.note(id, What::Failed(attempt.node, failure), now);
        self.end_attempt(id, &mut request, &attempt, Outcome::Failed(failure), now);
        if may_retry {
            // 6.
            self.costly_retries += usize::from(request.is_budgeted_retry());
            self.requests.insert(id, request);
            self.enqueue(id, now);
            // The request may be barred from the only nodes that are left, although none of them has changed.
            self.has_losses = true;
        } else {
            // 7.
            let reason = RefusalReason::Exhausted { last: failure };
            decisions.push(self.refusal(id, &request, reason, now));
        }
    }

    pub(crate) fn leave(&mut self, id: RequestId, outcome: Outcome, now: Time) {
        let Some(mut request) = self.requests.remove(&id) else { return };
        self.journal.note(id, What::Ended(outcome), now);
        self.costly_retries -= usize::from(request.is_budgeted_retry());
        match request.attempt.take() {
            Some(attempt) => self.end_attempt(id, &mut request, &attempt, outcome, now),
            None => self.queue.remove(request.lane, request.position(), now),
        }
    }

    /// Frees the slot, settles the user's charge, and counts the outcome for or against the node. The request is apart
    /// from the others meanwhile.
    fn end_attempt(&mut self, id: RequestId, request: &mut Request, attempt: &Attempt, outcome: Outcome, now: Time) {
        self.drain.ended(self.queue.len() > 0, now);
        let (lane, model, most) = (request.lane, request.model, request.max_output);
        let running = self.fleet[attempt.node].vacate(id, model, outcome == Outcome::Completed, now);
        let used = running.map_or(0.0, |running| self.learn_from(attempt.node, model, &running, most, outcome));
        self.queue.settled(lane, model, (attempt.charged, used), now);
        self.stirred.insert(model);
        match outcome {
            Outcome::Completed => {
                self.convict(request.answered(), &request.user, now);
                self.witnesses.was_served(&request.user, now);
                if self.fleet[attempt.node].breaker.was_out_by_word() {
                    self.witnesses.were_wrong(attempt.node);
                }
                self.judge(attempt.node, |node| node.completed(attempt.epoch, now));
            }
            Outcome::Cancelled | Outcome::Rejected => {}
            Outcome::Failed(failure) => self.hold_against(request, attempt, failure, now),
        }
    }

    /// Counts a failure against what is to blame.
    fn hold_against(&mut self, request: &Request, attempt: &Attempt, failure: Failure, now: Time) {
        let Request { model, route, user, .. } = request;
        let (model, route) = (*model, *route);
        let prompt = request.prefixes.last().map(|prefix| prefix.digest);
        let standing = self.standing(user, attempt.node, failure, now);
        let accusation = Accusation { user, prompt, standing };
        let failed = Failed { accusation, model, route, failure, epoch: attempt.epoch };
        self.judge(attempt.node, |node| {
            if attempt.has_first_byte {
                node.broke_off(failed, now);
            } else {
                node.failed(failed, now);
            }
        });
    }

    /// What a failure that may be the request's own fault says about the node.
    fn standing(&mut self, user: &Arc<str>, node: NodeId, failure: Failure, now: Time) -> Standing {
        if failure.blame() != Blame::Undecided {
            return Standing::Witness;
        }
        let standing = self.witnesses.met_failure(user, node, now);
        if standing == Standing::Doubted {
            for node in self.fleet.ids() {
                self.judge(node, |node| node.breaker.doubt(user));
            }
        }
        standing
    }

    /// Returns what an attempt, whose answer had at most `most` tokens, cost in the end. From now on the node is expected to have its prompt cached.
    fn learn_from(
        &mut self,
        node: NodeId,
        model: ModelId,
        running: &Running,
        most: Option<f64>,
        outcome: Outcome,
    ) -> f64 {
        let Some(instance) = self.fleet[node].instance(model) else { return 0.0 };
        let (bytes, slots) = (instance.model_bytes(), instance.slot_count());
        let is_resident = instance.resident_since.is_some();
        if outcome == Outcome::Completed && running.delivered > 0.0 {
            let is_cut = most.is_some_and(|most| running.delivered >= most);
            self.models.get_mut(model).output.observe(running.delivered, is_cut);
        }
        let has_read = outcome == Outcome::Completed || running.began_at.is_some();
        if has_read && is_resident && !running.prefixes.is_empty() {
            if self.memories.len() <= model.0 {
                self.memories.resize_with(model.0 + 1, PrefixMemory::default);
            }
            self.memories[model.0].keep(node, &running.prefixes, running.prompt + running.delivered, slots);
        }
        match outcome {
            // A failure before the first byte costs the user nothing.
            Outcome::Failed(_) if running.began_at.is_none() => 0.0,
            _ => cost(running.uncached, running.delivered, bytes),
        }
    }

    pub(crate) fn tick(&mut self, now: Time, decisions: &mut Vec<Decision>) {
        self.fleet.end_back_offs(now);
        self.fleet.look_for_probes();
        self.let_unused_drift(now);
        self.guess_speed();
        // Before the deadlines: what comes back from a silent node may have passed its own.
        self.listen(now, decisions);
        for id in self.queue.overdue(now) {
            self.refuse_queued(id, RefusalReason::DeadlinePassed, now, decisions);
        }
        self.stirred.extend(self.queue.models());
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

    /// Ends a waiting request.
    fn forget(&mut self, id: RequestId, now: Time) -> Option<Box<Request>> {
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

    /// How long until a model that could not be loaded is tried again.
    fn loads_again_in(&self, model: ModelId, now: Time) -> Duration {
        let instances = self.fleet.of(model).shelves.iter().filter_map(|node| self.fleet[*node].instance(model));
        let again_at = instances.map(|instance| instance.load_again_at).fold(f64::INFINITY, f64::min);
        Duration::try_from_secs_f64(again_at - now.as_secs_f64())
            .map_or(SHORTEST_RETRY_AFTER, |time| time.max(SHORTEST_RETRY_AFTER))
    }

    /// How long until a node that has the model may be back.
    fn returns_in(&self, model: ModelId, now: Time) -> Duration {
        let having = self.fleet.iter().filter(|node| node.lists(model) && !node.has_left);
        let returns_at = having.filter_map(Node::reopens_at).min();
        returns_at.map_or(NO_NODE_RETRY_AFTER, |time| time.saturating_sub(now).max(SHORTEST_RETRY_AFTER))
    }
}
