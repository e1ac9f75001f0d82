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

use super::{
    Change, Scheduler,
    event::{Decision, Failure, NodeId, RequestId, Time},
    node::Node,
};

const DEAD_SECONDS: f64 = 4.0;
const DEAD_PLAIN_SECONDS: f64 = 20.0;
const LEAST_STREAM_SECONDS: f64 = 10.0;
const LEAST_PROMPT_SECONDS: f64 = 20.0;
const PROMPTS_BESIDE_STREAMS: f64 = 2.0;
const PROMPTS_ALONE: f64 = 8.0;

impl Scheduler {
    /// Finds silent nodes, takes them out and moves what can be moved.
    pub(super) fn listen(&mut self, now: Time, decisions: &mut Vec<Decision>) -> Change {
        let seconds = now.as_secs_f64();
        let is_silent = |node: &Node| {
            node.in_flight() > 0 && patience(node).is_some_and(|patience| seconds - node.heard_at > patience)
        };
        let silent: Vec<usize> = (0..self.nodes.len()).filter(|index| is_silent(&self.nodes[*index])).collect();
        for index in &silent {
            self.nodes[*index].fell_silent(now);
            self.abandon_all(NodeId(*index), now, decisions);
        }
        if silent.is_empty() { Change::Nothing } else { Change::Fleet }
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

/// Seconds without a token after which the node is taken for silent; `None` if it is not to be judged.
fn patience(node: &Node) -> Option<f64> {
    let running =
        || node.instances().flat_map(|(_, instance)| instance.running.iter().map(move |each| (instance, each)));
    let streams = || running().filter(|(_, running)| running.is_stream);
    if !node.breaker.is_live() {
        return Some(if streams().next().is_some() { DEAD_SECONDS } else { DEAD_PLAIN_SECONDS });
    }
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
