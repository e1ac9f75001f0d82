//! What changes when a request goes to a node? It takes a slot, its user is charged, and it leaves the queue.

use crate::{
    decision::Decision,
    explain::Weighed,
    ids::{RequestId, Time},
    model::Models,
    place::Place,
    request::{Attempt, Request, cost},
    running::Running,
    scheduler::Scheduler,
};

impl Scheduler {
    /// Sends a request to a node; its answer is expected to have `output` tokens.
    pub(crate) fn start(
        &mut self,
        id: RequestId,
        place: &Place,
        output: f64,
        weighed: Weighed<'_>,
        now: Time,
        decisions: &mut Vec<Decision>,
    ) {
        let Place { node, cached, .. } = *place;
        let Some(request) = self.requests.get_mut(&id) else { return };
        let node_state = &mut self.fleet[node];
        let Some(instance) = node_state.instance_mut(request.model) else { return };
        let cost = cost(request.prompt - cached, output, instance.model_bytes());
        instance.cache.prompt += request.prompt;
        instance.cache.expected += cached;
        let others = f64::from(node_state.in_flight());
        let running = running(id, request, place, (output, others), now);
        if let Some(memory) = self.memories.get_mut(request.model.0) {
            memory.consume(node, &request.prefixes, cached);
        }
        let charged = self.queue.dispatched(request.lane, Some(request.position()), (request.model, cost), now);
        if node_state.in_flight() == 0 {
            // An idle node owes nobody a word. Its silence counts from here.
            node_state.heard_at = now.as_secs_f64();
        }
        let epoch = node_state.occupy(request.model, running);
        request.attempt = Some(Attempt { node, epoch, has_first_byte: false, is_abandoned: false, charged });
        request.attempts += 1;
        request.waits_for = None;
        node_state.count_routed(request.attempts, request.caused_load);
        self.journal.dispatched(id, node, request.attempts, now, weighed);
        decisions.push(Decision::Dispatch { id, node, attempt: request.attempts });
    }
}

/// A request that is sent to a node beside `others`; its answer is expected to have `output` tokens.
fn running(id: RequestId, request: &Request, place: &Place, (output, others): (f64, f64), now: Time) -> Running {
    let seconds = now.as_secs_f64();
    Running {
        id,
        model: request.model,
        sent_at: seconds,
        is_stream: request.is_stream,
        uncached: request.prompt - place.cached,
        prompt: request.prompt,
        output,
        others,
        prefixes: request.prefixes.clone(),
        remembered: place.remembered,
        is_in_host: place.is_in_host,
        began_at: None,
        delivered: 0.0,
        heard_at: seconds,
        stalled_at: None,
        worked: None,
        writing: None,
    }
}

impl Models {
    /// Tokens that the answer to a request is expected to have, at least 1.
    pub(crate) fn expected_output(&self, request: &Request) -> f64 {
        let length = &self.get(request.model).output;
        let expected = || request.max_output.map_or(length.mean(), |most| length.within(most));
        request.known_output.unwrap_or_else(expected).max(1.0)
    }
}
