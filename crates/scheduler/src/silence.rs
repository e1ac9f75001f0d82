//! Has a node stopped working although its connections stand? Probes do not tell, since a node whose generation hangs
//! still answers them. Tokens do.
//!
//! | the node | counts as silent, and all its streams are broken off, when none of them sent a token for |
//! |---|---|
//! | answers no probes | 4 s; 20 s if it only has plain requests, which show no tokens |
//! | has begun streams | 10 s, or 4 s and twice the longest prompt it still reads, as measured |
//! | only reads prompts | 20 s, or 8 times what the prompt should take, as measured |
//!
//! A stream that has begun is lost that way. One that has not begun can cheaply go to another node that has its model,
//! so it goes much sooner:
//!
//! | overdue together on the node | streams that have not begun move when no token came for | and the node |
//! |---|---|---|
//! | begun streams, or requests of several users | 2 s and 3 times the longest expected time | gets no new request for 10 s, or until a token comes; it is taken out if nothing has begun there |
//! | requests of one user, none begun | 3 s and 3 times that | is accused (see [`crate::Blame`]): what the user sent may be the cause |
//!
//! A prompt is judged only by a rate that was measured for its model on that node; otherwise a long prompt on a slow
//! card would be broken off again and again. What was not measured is left to the relay's deadlines.
//!
//! A stream whose client is not reading proves nothing until the client reads again. Otherwise one sleeping reader
//! would take a node away from everybody.

use std::{sync::Arc, time::Duration};

use crate::{
    decision::Decision,
    failure::Failure,
    ids::{NodeId, RequestId, Time},
    instance::Instance,
    lookup::Lookup,
    node::Node,
    request::Request,
    running::Running,
    scheduler::Scheduler,
};

const DEAD_SECONDS: f64 = 4.0;
const DEAD_PLAIN_SECONDS: f64 = 20.0;
const LEAST_STREAM_SECONDS: f64 = 10.0;
const LEAST_PROMPT_SECONDS: f64 = 20.0;
const PROMPTS_BESIDE_STREAMS: f64 = 2.0;
const PROMPTS_ALONE: f64 = 8.0;
/// How long after it was last seen stalled a client counts as stalled: two beats and a margin.
const STALL_SECONDS: f64 = 2.5;
/// A stream is overdue after this time plus `OVERDUE_FACTOR` times its expected time.
const OVERDUE_SECONDS: f64 = 1.0;
const OVERDUE_FACTOR: f64 = 2.0;
const SEVERAL_SECONDS: f64 = 2.0;
const ALONE_SECONDS: f64 = 3.0;
const EXPECTED_TIMES: f64 = 3.0;
/// How long a quiet node with begun streams gets no new request.
const QUIET: Duration = Duration::from_secs(10);

impl Scheduler {
    /// Finds silent nodes, takes them out, and moves the requests that can be moved.
    pub(crate) fn listen(&mut self, now: Time, decisions: &mut Vec<Decision>) {
        let seconds = now.as_secs_f64();
        let is_silent = |node: &Node| {
            node.in_flight() > 0 && patience(node, seconds).is_some_and(|patience| quiet(node, seconds) > patience)
        };
        let silent: Vec<NodeId> = self.fleet.ids().filter(|node| is_silent(&self.fleet[*node])).collect();
        for node in silent.iter().copied() {
            self.fleet[node].fell_silent(now);
            self.abandon_all(node, now, decisions);
        }
        for node in self.fleet.ids().filter(|node| !silent.contains(node)).collect::<Vec<_>>() {
            if let Some(overdue) = Overdue::of(&self.fleet[node], &self.requests, seconds) {
                self.move_away(node, &overdue, now, decisions);
            }
        }
    }

    /// Moves requests that have not begun away from a node that is overdue with them.
    fn move_away(&mut self, node: NodeId, overdue: &Overdue, now: Time, decisions: &mut Vec<Decision>) {
        // The index of shelves must know what changed on other nodes in this event.
        self.settle(now);
        let has_alternative = |id: &RequestId| {
            let Some(request) = self.requests.get(id) else { return false };
            let can = |other: &NodeId| {
                let is_barred = request.penalty(*other).is_none();
                // A node that is quiet itself would only be the next one to wait for.
                *other != node && !is_barred && !self.fleet[*other].is_quiet(now)
            };
            self.fleet.of(request.model).shelves.iter().any(can)
        };
        let ids: Vec<RequestId> = overdue.waiting.iter().copied().filter(has_alternative).collect();
        if ids.is_empty() {
            return;
        }
        let failure = if overdue.is_of_several { Failure::Silent } else { Failure::Stuck };
        match (overdue.is_of_several, overdue.has_begun) {
            (true, true) => self.fleet[node].rest(now + QUIET),
            (true, false) => self.fleet[node].fell_silent(now),
            (false, _) => {}
        }
        for id in ids {
            decisions.push(Decision::Abandon { id });
            self.fail(id, failure, now, decisions);
        }
    }

    /// The client of a stream is not reading.
    pub(crate) fn stalled(&mut self, id: RequestId, now: Time) {
        let Some(request) = self.requests.get(&id) else { return };
        let Some(attempt) = &request.attempt else { return };
        let instance = self.fleet[attempt.node].instance_mut(request.model);
        if let Some(running) = instance.and_then(|instance| instance.find_running(id)) {
            running.stalled_at = Some(now.as_secs_f64());
        }
    }

    fn abandon_all(&mut self, node: NodeId, now: Time, decisions: &mut Vec<Decision>) {
        let running = self.fleet[node].active().flat_map(|(_, instance)| &instance.running);
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

/// The overdue streams of a node.
struct Overdue {
    /// The overdue streams that have not begun.
    waiting: Vec<RequestId>,
    has_begun: bool,
    /// Whether the requests of one user alone cannot be the cause.
    is_of_several: bool,
}

impl Overdue {
    /// `None` while the node still has time, or if what it does was not measured.
    fn of(node: &Node, requests: &Lookup<RequestId, Box<Request>>, now: f64) -> Option<Self> {
        // A plain answer shows no tokens, so a request that waits behind one is not overdue.
        let shows_tokens = running(node).all(|(_, running)| running.is_stream);
        if node.in_flight() == 0 || !node.breaker.is_live() || !shows_tokens {
            return None;
        }
        let longest_prompt = longest_prompt(node, now)?;
        let load = node.load().and_then(|load| node.instance(load.model));
        let load = load.map_or(0.0, |instance| node.load_seconds(instance));
        let (mut waiting, mut users, mut begun, mut longest) = (Vec::new(), Vec::<&Arc<str>>::new(), 0, 0.0_f64);
        for (instance, running) in running(node).filter(|(_, running)| running.is_stream && !is_stalled(running, now)) {
            let token =
                || node.speed.alone().map(|_| node.token_seconds(instance, 0.0) * node.speed.stretch(running.others));
            let expected = load + if running.began_at.is_some() { token()? + longest_prompt } else { longest_prompt };
            longest = longest.max(expected);
            if now - running.heard_at.max(running.sent_at) <= OVERDUE_SECONDS + OVERDUE_FACTOR * expected {
                continue;
            }
            match running.began_at {
                Some(_) => begun += 1,
                None => waiting.push(running.id),
            }
            let user = requests.get(&running.id).map(|request| &request.user);
            users.extend(user.filter(|user| !users.contains(user)));
        }
        let is_of_several = users.len() >= 2 || (begun > 0 && begun + waiting.len() >= 2);
        let base = if is_of_several { SEVERAL_SECONDS } else { ALONE_SECONDS };
        let is_due = !waiting.is_empty() && quiet(node, now) > base + EXPECTED_TIMES * longest;
        is_due.then_some(Self {
            waiting,
            has_begun: running(node).any(|(_, each)| each.began_at.is_some()),
            is_of_several,
        })
    }
}

fn running(node: &Node) -> impl Iterator<Item = (&Instance, &Running)> {
    node.active().flat_map(|(_, instance)| instance.running.iter().map(move |each| (instance, each)))
}

fn is_stalled(running: &Running, now: f64) -> bool {
    running.stalled_at.is_some_and(|stalled| now - stalled < STALL_SECONDS)
}

/// Seconds without a token, not counting the time in which no client was reading.
fn quiet(node: &Node, now: f64) -> f64 {
    let taking = running(node).filter(|(_, running)| !is_stalled(running, now));
    let since = taking.map(|(_, running)| running.stalled_at.unwrap_or(0.0).max(node.heard_at));
    now - since.reduce(f64::min).unwrap_or(node.heard_at)
}

/// Seconds without a token after which the node counts as silent; `None` if it cannot be judged.
fn patience(node: &Node, now: f64) -> Option<f64> {
    if !node.breaker.is_live() {
        let has_stream = running(node).any(|(_, running)| running.is_stream);
        return Some(if has_stream { DEAD_SECONDS } else { DEAD_PLAIN_SECONDS });
    }
    let streams = || running(node).filter(|(_, running)| running.is_stream && !is_stalled(running, now));
    let longest_prompt = longest_prompt(node, now)?;
    if streams().any(|(_, running)| running.began_at.is_some()) {
        Some((DEAD_SECONDS + PROMPTS_BESIDE_STREAMS * longest_prompt).max(LEAST_STREAM_SECONDS))
    } else if streams().next().is_some() {
        Some((PROMPTS_ALONE * longest_prompt).max(LEAST_PROMPT_SECONDS))
    } else {
        None
    }
}

/// Seconds to read the longest prompt among the streams that have not begun; `None` if the rate of one was not
/// measured.
fn longest_prompt(node: &Node, now: f64) -> Option<f64> {
    let mut longest: f64 = 0.0;
    let streams = running(node).filter(|(_, running)| running.is_stream && !is_stalled(running, now));
    for (instance, running) in streams.filter(|(_, running)| running.began_at.is_none()) {
        instance.prefill.at(running.uncached)?;
        longest = longest.max(node.prefill_seconds(instance, running.uncached, running.others, 0.0));
    }
    Some(longest)
}
