//! Has a node stopped working although its connections stand? Probes do not tell: a node whose generation hangs answers
//! them. Tokens do.
//!
//! | the node | is taken for silent when no token came from any of its streams for |
//! |---|---|
//! | answers no probes | 4 s; 20 s if it has only plain requests, which show no tokens |
//! | has begun streams | 10 s, or 4 s and twice the longest prompt it still reads, as measured |
//! | only reads prompts | 20 s, or 8 times what the prompt should take, as measured |
//!
//! A prompt is judged only by a rate that was measured for its model on that node: otherwise a long prompt on a slow card
//! would be broken off for ever. What was not measured is left to the relay's deadlines.
//!
//! A stream whose client does not take what there is proves nothing until it takes it again: a reader that sleeps would
//! else take a node from everybody.

use crate::{
    decision::Decision,
    failure::Failure,
    ids::{NodeId, RequestId, Time},
    instance::{Instance, Running},
    node::Node,
    scheduler::{Change, Scheduler},
};

const DEAD_SECONDS: f64 = 4.0;
const DEAD_PLAIN_SECONDS: f64 = 20.0;
const LEAST_STREAM_SECONDS: f64 = 10.0;
const LEAST_PROMPT_SECONDS: f64 = 20.0;
const PROMPTS_BESIDE_STREAMS: f64 = 2.0;
const PROMPTS_ALONE: f64 = 8.0;
/// A client that was last seen not to take anything so long ago takes it again: two beats, and something to spare.
const STALL_SECONDS: f64 = 2.5;

impl Scheduler {
    /// Finds silent nodes, takes them out and moves what can be moved.
    pub(crate) fn listen(&mut self, now: Time, decisions: &mut Vec<Decision>) -> Change {
        let seconds = now.as_secs_f64();
        let is_silent = |node: &Node| {
            node.in_flight() > 0 && patience(node, seconds).is_some_and(|patience| quiet(node, seconds) > patience)
        };
        let silent: Vec<usize> = (0..self.nodes.len()).filter(|index| is_silent(&self.nodes[*index])).collect();
        for index in &silent {
            self.nodes[*index].fell_silent(now);
            self.abandon_all(NodeId(*index), now, decisions);
        }
        if silent.is_empty() { Change::Nothing } else { Change::Fleet }
    }

    /// The client of a stream does not take what there is.
    pub(crate) fn stalled(&mut self, id: RequestId, now: Time) {
        let Some(request) = self.requests.get(&id) else { return };
        let Some(attempt) = &request.attempt else { return };
        let instance = self.nodes[attempt.node.0].instance_mut(request.model);
        if let Some(running) = instance.and_then(|instance| instance.find_running(id)) {
            running.stalled_at = Some(now.as_secs_f64());
        }
    }

    fn abandon_all(&mut self, node: NodeId, now: Time, decisions: &mut Vec<Decision>) {
        let running = self.nodes[node.0].instances().flat_map(|(_, instance)| &instance.running);
        let ids: Vec<RequestId> = running.map(|running| running.id).collect();
        for id in ids {
            let Some(attempt) = self.requests.get_mut(&id).and_then(|request| request.attempt.as_mut()) else {
                continue;
            };
            if attempt.has_first_byte {
                if !std::mem::replace(&mut attempt.is_abandoned, true) {
                    decisions.push(Decision::Abandon { id });
                }
            } else {
                decisions.push(Decision::Abandon { id });
                self.fail(id, Failure::Silent, now, decisions);
            }
        }
    }
}

fn running(node: &Node) -> impl Iterator<Item = (&Instance, &Running)> {
    node.instances().flat_map(|(_, instance)| instance.running.iter().map(move |each| (instance, each)))
}

fn is_stalled(running: &Running, now: f64) -> bool {
    running.stalled_at.is_some_and(|stalled| now - stalled < STALL_SECONDS)
}

/// Seconds without a token, as far as somebody would have taken one.
fn quiet(node: &Node, now: f64) -> f64 {
    let taking = running(node).filter(|(_, running)| !is_stalled(running, now));
    let since = taking.map(|(_, running)| running.stalled_at.unwrap_or(0.0).max(node.heard_at));
    now - since.reduce(f64::min).unwrap_or(node.heard_at)
}

/// Seconds without a token after which the node is taken for silent; `None` if it is not to be judged.
fn patience(node: &Node, now: f64) -> Option<f64> {
    if !node.breaker.is_live() {
        let has_stream = running(node).any(|(_, running)| running.is_stream);
        return Some(if has_stream { DEAD_SECONDS } else { DEAD_PLAIN_SECONDS });
    }
    let streams = || running(node).filter(|(_, running)| running.is_stream && !is_stalled(running, now));
    let mut longest_prompt: f64 = 0.0;
    for (instance, running) in streams().filter(|(_, running)| running.began_at.is_none()) {
        instance.prefill.at(running.prompt)?;
        longest_prompt = longest_prompt.max(node.prefill_seconds(instance, running.prompt, running.others, 0.0));
    }
    if streams().any(|(_, running)| running.began_at.is_some()) {
        Some((DEAD_SECONDS + PROMPTS_BESIDE_STREAMS * longest_prompt).max(LEAST_STREAM_SECONDS))
    } else if streams().next().is_some() {
        Some((PROMPTS_ALONE * longest_prompt).max(LEAST_PROMPT_SECONDS))
    } else {
        None
    }
}
