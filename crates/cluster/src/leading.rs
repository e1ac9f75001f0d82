//! How does a leader schedule for the others, and what does it do about those that it does not hear?

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use scheduler::{Decision, Event, Outcome, Reach, RequestId, Time};

use crate::{
    frame::{Frame, FreeSlots, Reported},
    ledger::{adopted, exhausted},
    member::{DARK, Member},
    role::{Effect, Neighbour, Role},
};

/// A follower that is not heard for this long is silent: it says something every 250 ms.
const QUIET: Duration = Duration::from_millis(600);
/// What a request is expected to need still is multiplied by this.
const MARGIN: f64 = 2.0;
/// No slot stays taken for longer than this on account of a gateway that is silent; and for as long if nobody can tell
/// how long its request takes.
const MOST_REST: Time = Time::from_secs(600);

impl Member {
    /// Gateways that a leader waits for or has lost. The shell looks whether they still listen, and tells them whom to
    /// follow.
    pub fn missing(&self) -> Vec<Neighbour> {
        let is_missing =
            |it: &&Neighbour| !self.followers.contains_key(&it.gateway) && !self.dead.contains(&it.gateway);
        match self.role {
            Role::Leading { .. } => self.neighbours.iter().filter(is_missing).cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// A gateway's address refuses connections: its process has ended, and its connections to the nodes with it.
    pub fn is_dead(&mut self, gateway: &Arc<str>, now: Time) -> Vec<Effect> {
        let mut effects = Vec::new();
        if matches!(self.role, Role::Leading { .. }) && !self.followers.contains_key(gateway) {
            self.dead.insert(gateway.clone());
            self.forget(gateway, now, &mut effects);
        }
        effects
    }

    /// Nothing runs at a gateway any more.
    pub(crate) fn forget(&mut self, gateway: &Arc<str>, now: Time, effects: &mut Vec<Effect>) {
        self.missing.remove(gateway);
        self.busy_until.remove(gateway);
        self.lost.remove(gateway);
        for id in self.requests_of(gateway) {
            self.end_remote(id, now, effects);
        }
        self.open_up(now, effects);
    }

    /// Has the scheduler decide, and passes on what it says to whom it concerns.
    pub(crate) fn decide(&mut self, event: Event, now: Time, effects: &mut Vec<Effect>) {
        for decision in self.scheduler.handle(event, now) {
            let owner = request_of(&decision).and_then(|id| self.remote.get(&id).cloned());
            match owner {
                Some(owner) => self.tell(owner, decision, now, effects),
                None => {
                    if self.can_join {
                        self.take_note(&decision, now);
                    }
                    effects.push(Effect::Decided(decision));
                }
            }
        }
    }

    /// Records a decision about one of this gateway's own requests.
    fn take_note(&mut self, decision: &Decision, now: Time) {
        match decision {
            Decision::Dispatch { id, node, attempt } => {
                let node = self.scheduler.node_name(*node).unwrap_or_default().into();
                self.ledger.send(*id, node, *attempt, now, now + self.rest_of(*id, now));
            }
            Decision::Refuse { id, .. } => self.ledger.end(*id),
            Decision::Abandon { id } if !self.scheduler.is_running(*id) => self.ledger.wait(*id),
            _ => {}
        }
    }

    /// How much longer a running request should take, with a margin: estimates are never exact.
    fn rest_of(&self, id: RequestId, now: Time) -> Time {
        self.scheduler.expected_rest(id, now).map_or(MOST_REST, |rest| rest.mul_f64(MARGIN).min(MOST_REST))
    }

    fn tell(&mut self, gateway: Arc<str>, decision: Decision, now: Time, effects: &mut Vec<Effect>) {
        let frame = match decision {
            Decision::Dispatch { id, node, attempt } => {
                let node = self.scheduler.node_name(node).unwrap_or_default().to_owned();
                Frame::Grant { id, node, attempt, takes: self.rest_of(id, now), foreseen: self.planned(id, now) }
            }
            Decision::Refuse { id, refusal } => {
                self.remote.remove(&id);
                self.orphans.remove(&id);
                Frame::Refuse { id, refusal }
            }
            Decision::Abandon { id } => Frame::Abandon { id },
            Decision::Load { .. } | Decision::Unload { .. } => return,
        };
        if self.followers.contains_key(&gateway) {
            effects.push(Effect::Say { gateway, frame });
        }
    }

    pub(crate) fn hear_follower(&mut self, gateway: &Arc<str>, frame: Frame, now: Time, effects: &mut Vec<Effect>) {
        if let Frame::Report { requests, has_lapsed, free } = frame {
            // While slots are withheld, nothing may follow what it reports: that may have ended long ago.
            self.has_lapsed |= has_lapsed && self.is_gathering();
            return self.reported(gateway, requests, free, now, effects);
        }
        let Some(heard_at) = self.followers.get_mut(gateway) else {
            // A link begins with a report; that of this one came before this gateway began to lead.
            effects.push(Effect::Close { gateway: gateway.clone() });
            return;
        };
        *heard_at = now;
        let is_theirs = |id: &RequestId| self.remote.get(id) == Some(gateway);
        match frame {
            Frame::Arrived { request, patience }
                if !self.remote.contains_key(&request.id) && self.ledger.get(request.id).is_none() =>
            {
                self.remote.insert(request.id, gateway.clone());
                self.decide(Event::Arrived(request.arrival(now + patience)), now, effects);
            }
            Frame::Wanted { model } => self.decide(Event::Wanted { model: model.into() }, now, effects),
            Frame::FirstByte { id, attempt } => {
                // What runs on a node that is unknown here goes on.
                let goes_on = is_theirs(&id) && (!self.scheduler.knows(id) || self.scheduler.runs(id, attempt));
                if goes_on {
                    self.decide(Event::FirstByte { id }, now, effects);
                }
                let frame = Frame::Began { id, attempt, goes_on };
                effects.push(Effect::Say { gateway: gateway.clone(), frame });
            }
            Frame::Progress { id, tokens } if is_theirs(&id) => {
                self.decide(Event::Progress { id, tokens }, now, effects);
            }
            Frame::Worked { id, time, writing } if is_theirs(&id) => {
                self.decide(Event::Worked { id, time, writing }, now, effects)
            }
            Frame::Stalled { id } if is_theirs(&id) => self.decide(Event::Stalled { id }, now, effects),
            Frame::Failed { id, attempt, failure } if is_theirs(&id) && self.scheduler.runs(id, attempt) => {
                self.decide(Event::Failed { id, failure }, now, effects);
            }
            Frame::Failed { id, failure, .. } if is_theirs(&id) && !self.scheduler.knows(id) => {
                self.remote.remove(&id);
                let frame = Frame::Refuse { id, refusal: exhausted(failure) };
                effects.push(Effect::Say { gateway: gateway.clone(), frame });
            }
            Frame::Left { id, outcome } if is_theirs(&id) => {
                self.remote.remove(&id);
                self.decide(Event::Left { id, outcome }, now, effects);
            }
            _ => {}
        }
    }

    /// A gateway reports all that it carries, and slots that are `free`. That replaces what was known of it; meanwhile
    /// nobody gets a slot.
    fn reported(
        &mut self,
        gateway: &Arc<str>,
        requests: Vec<Reported>,
        free: Vec<FreeSlots>,
        now: Time,
        effects: &mut Vec<Effect>,
    ) {
        let mut spare = self.scheduler.spare_slots();
        spare.extend(self.found(free));
        let before = self.scheduler.reach().clone();
        let before = if self.has_lapsed { Reach::Nothing } else { before };
        self.reach(Reach::Nothing, now, effects);
        for id in self.requests_of(gateway) {
            self.end_remote(id, now, effects);
        }
        self.followers.insert(gateway.clone(), now);
        self.dead.remove(gateway);
        for reported in requests {
            let id = reported.request.id;
            if self.remote.contains_key(&id) || self.ledger.get(id).is_some() {
                continue;
            }
            self.remote.insert(id, gateway.clone());
            if let Some(adopted) = adopted(reported, &self.scheduler, now) {
                self.decide(Event::Adopted(Box::new(adopted)), now, effects);
            }
        }
        self.missing.remove(gateway);
        self.busy_until.remove(gateway);
        self.lost.remove(gateway);
        self.reach(before, now, effects);
        self.hold(spare, now, effects);
        self.open_up(now, effects);
    }

    /// A follower's link was lost: what waited there is taken out of the queue, what runs there keeps its slots.
    pub(crate) fn lose_follower(&mut self, gateway: &Arc<str>, now: Time, effects: &mut Vec<Effect>) {
        if self.followers.remove(gateway).is_none() {
            return;
        }
        self.expect_back(gateway, now);
        self.lost.insert(gateway.clone());
        for id in self.requests_of(gateway) {
            if self.scheduler.is_running(id) {
                // Its slot may be in use for as long as it would have run, and never for less than a gateway takes to
                // count as gone.
                let until = now + self.rest_of(id, now).max(DARK);
                self.orphans.insert(id, until);
            } else {
                self.end_remote(id, now, effects);
            }
        }
    }

    /// Ends the patience with silent gateways.
    pub(crate) fn end_patience(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let is_long_silent = |gateway: &Arc<str>| {
            let neighbour = self.neighbours.iter().find(|neighbour| neighbour.gateway == *gateway);
            let silent = |it: &Neighbour| it.silent + now.saturating_sub(self.met_at);
            // Silence alone is not enough: it may be cut off, and running what it was granted.
            let is_busy = self.busy_until.get(gateway).is_some_and(|until| now < *until);
            !is_busy && neighbour.is_none_or(|neighbour| silent(neighbour) >= DARK)
        };
        let is_over = |(id, until): (&RequestId, &Time)| {
            let owner = self.remote.get(id);
            owner.is_none_or(|owner| now >= *until && is_long_silent(owner)).then_some(*id)
        };
        let over: Vec<RequestId> = self.orphans.iter().filter_map(is_over).collect();
        let given_up = self.missing.iter().filter(|(gateway, since)| now >= **since + DARK && is_long_silent(gateway));
        let given_up: Vec<Arc<str>> = given_up.map(|(gateway, _)| gateway.clone()).collect();
        over.into_iter().for_each(|id| self.end_remote(id, now, effects));
        given_up.iter().for_each(|gateway| _ = self.missing.remove(gateway));
        self.open_up(now, effects);
    }

    /// Uses every slot, once everybody who may be using some has reported.
    pub(crate) fn open_up(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if matches!(self.role, Role::Leading { .. }) && self.missing.is_empty() {
            self.has_lapsed = false;
            self.reach(Reach::Whole, now, effects);
        }
    }

    /// A leader that leads no more forgets the others' requests: their gateways know them.
    pub(crate) fn forget_followers(&mut self, now: Time, effects: &mut Vec<Effect>) {
        for gateway in self.followers.keys().cloned().collect::<Vec<_>>() {
            self.expect_back(&gateway, now);
        }
        for id in std::mem::take(&mut self.remote).into_keys() {
            self.decide(Event::Left { id, outcome: Outcome::Cancelled }, now, effects);
        }
        let followers = std::mem::take(&mut self.followers).into_keys();
        effects.extend(followers.map(|gateway| Effect::Close { gateway }));
        self.orphans.clear();
        self.missing.clear();
    }

    /// That nothing is heard of what runs at a silent gateway says nothing about the nodes. A request taken from its node
    /// would run on there, where nobody can stop it, and its slot would be given away.
    pub(crate) fn excuse_silent(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let is_silent = |gateway: &Arc<str>| self.followers.get(gateway).is_some_and(|heard| now > *heard + QUIET);
        let of_silent = self.remote.iter().filter(|(_, owner)| is_silent(owner)).map(|(id, _)| *id);
        let ids: BTreeSet<RequestId> = of_silent.chain(self.orphans.keys().copied()).collect();
        for id in ids {
            self.decide(Event::Stalled { id }, now, effects);
        }
    }

    /// A gateway is out of sight. Even if the database does not show it any more, it may be using slots for a while.
    fn expect_back(&mut self, gateway: &Arc<str>, now: Time) {
        let running = self.requests_of(gateway).into_iter().filter(|id| self.scheduler.is_running(*id));
        let rest = running.map(|id| self.rest_of(id, now)).fold(DARK, Time::max);
        self.busy_until.insert(gateway.clone(), now + rest);
    }

    fn end_remote(&mut self, id: RequestId, now: Time, effects: &mut Vec<Effect>) {
        self.remote.remove(&id);
        self.orphans.remove(&id);
        self.decide(Event::Left { id, outcome: Outcome::Cancelled }, now, effects);
    }

    fn requests_of(&self, gateway: &Arc<str>) -> Vec<RequestId> {
        self.remote.iter().filter(|(_, owner)| *owner == gateway).map(|(id, _)| *id).collect()
    }
}

fn request_of(decision: &Decision) -> Option<RequestId> {
    match decision {
        Decision::Dispatch { id, .. } | Decision::Refuse { id, .. } | Decision::Abandon { id } => Some(*id),
        Decision::Load { .. } | Decision::Unload { .. } => None,
    }
}
