//! How does a scheduler take over requests that another one decided on so far? A request that waits keeps its age, and
//! one that runs keeps its slot.

use std::time::Duration;

use crate::{
    decision::{Decision, Refusal, RefusalReason},
    event::{Adopted, Ongoing},
    explain::What,
    ids::{NodeId, RequestId, Time},
    model::ModelId,
    request::{Attempt, Request, cost},
    running::Running,
    scheduler::Scheduler,
};

/// The advice where no node ever had the model.
const RETRY_AFTER: Duration = Duration::from_secs(5);

impl Scheduler {
    pub(crate) fn adopt(&mut self, adopted: Adopted, now: Time, decisions: &mut Vec<Decision>) {
        let Adopted { arrival, waited, attempts, ongoing } = adopted;
        let id = arrival.id;
        if self.requests.contains_key(&id) {
            return;
        }
        let ongoing = ongoing.filter(|ongoing| self.fleet.get(ongoing.node).is_some());
        self.journal.arrived(id, self.queue.len(), now);
        self.settle(now);
        let model = match self.models.find(&arrival.model) {
            None if ongoing.is_some() => Some(self.models.meet(&arrival.model)),
            model => model,
        };
        let Some(model) = model else {
            let reason = RefusalReason::NoNode;
            self.journal.note(id, What::Refused(reason), now);
            decisions.push(Decision::Refuse { id, refusal: Refusal { reason, retry_after: RETRY_AFTER } });
            return;
        };
        let lane = self.queue.lane(&arrival.user, arrival.weight, arrival.membership.as_ref(), now);
        self.arrivals += 1;
        let mut request = Request::new(arrival, lane, model, self.arrivals, now);
        request.arrived = now.saturating_sub(waited);
        request.attempts = attempts;
        self.requests.insert(id, Box::new(request));
        match ongoing {
            Some(ongoing) => self.resume(id, model, ongoing, now),
            None => {
                self.enqueue(id, now);
                // No node may be left for it here.
                self.has_losses = true;
            }
        }
    }

    /// Gives a request the slot that it holds already.
    fn resume(&mut self, id: RequestId, model: ModelId, ongoing: Ongoing, now: Time) {
        let Ongoing { node, sent_ago, began_ago, tokens } = ongoing;
        let ago = |ago: Duration| now.saturating_sub(ago).as_secs_f64();
        let Some(request) = self.requests.get(&id) else { return };
        let (lane, prompt, output) = (request.lane, request.prompt, self.models.expected_output(request));
        let running = Running {
            id,
            model,
            sent_at: ago(sent_ago),
            is_stream: request.is_stream,
            uncached: prompt,
            prompt,
            output,
            // Those that were taken over before it, which is close to what ran when it was sent.
            others: f64::from(self.fleet[node].in_flight()),
            prefixes: request.prefixes.clone(),
            // What the node's prompt cache holds is not handed over, so the whole prompt counts as read.
            remembered: 0.0,
            is_in_host: false,
            began_at: began_ago.map(ago),
            delivered: tokens as f64,
            heard_at: now.as_secs_f64(),
            stalled_at: None,
            worked: None,
            writing: None,
        };
        let name = self.models.get(model).name.clone();
        let node_state = &mut self.fleet[node];
        let cost = cost(prompt, output, node_state.meet(model, &name).model_bytes());
        if node_state.in_flight() == 0 {
            node_state.heard_at = now.as_secs_f64();
        }
        let epoch = node_state.resume(model, running);
        let charged = self.queue.dispatched(lane, None, (model, cost), now);
        if let Some(request) = self.requests.get_mut(&id) {
            let has_first_byte = began_ago.is_some();
            request.attempt = Some(Attempt { node, epoch, has_first_byte, is_abandoned: false, charged });
        }
    }

    /// Whether a request is queued or running.
    pub fn knows(&self, id: RequestId) -> bool {
        self.requests.contains_key(&id)
    }

    /// Whether a request is on a node.
    pub fn is_running(&self, id: RequestId) -> bool {
        self.requests.get(&id).is_some_and(|request| request.attempt.is_some())
    }

    /// The node of this name, unless it has left.
    pub fn find_node(&self, name: &str) -> Option<NodeId> {
        self.fleet.ids().find(|node| self.fleet.get(*node).is_some_and(|it| !it.has_left && it.spec.name == name))
    }
}
