//! What gateways do for their clients, and what nodes count.
use super::*;

impl World {
    pub(super) fn carry_out(&mut self, gateway: usize, effect: Effect) {
        match effect {
            Effect::Decided(Decision::Dispatch { id, node, attempt }) => {
                let begins = self.now + self.dice.millis(50, 800);
                let may_be_long = self.reaches_database(gateway);
                let Some(client) = self.gateways[gateway].clients.get_mut(&id) else { return };
                client.answer = if may_be_long { client.answer } else { client.answer.min(SHORT) };
                let is_long = client.answer > SHORT;
                assert_eq!(client.at, At::Queue, "{id:?} runs twice");
                self.place(gateway, id, At::Node { node: node.0, attempt, begins, has_asked: false });
                self.gateways[gateway].long_at = if is_long { self.now } else { self.gateways[gateway].long_at };
                self.granted.push((self.now, id));
                self.check(node.0, self.gateways[gateway].clients[&id].model);
            }
            Effect::Decided(Decision::Refuse { id, .. }) => {
                assert!(self.ended.insert(id), "{id:?} ends twice");
                self.gateways[gateway].clients.remove(&id);
            }
            Effect::Decided(Decision::Abandon { id }) => {
                match self.gateways[gateway].clients.get(&id).map(|client| client.at) {
                    Some(At::Streaming { .. }) => self.end(gateway, id, Outcome::Failed(Failure::Silent)),
                    _ => self.place(gateway, id, At::Queue),
                }
            }
            Effect::Decided(Decision::Load { node, model, .. }) => {
                self.hear(gateway, Event::Loaded { node, model, result: Ok(()) });
            }
            Effect::Decided(Decision::Unload { node, model }) => {
                self.hear(gateway, Event::Unloaded { node, model, result: Ok(()) });
            }
            Effect::Began { id, attempt, goes_on } => self.began(gateway, id, attempt, goes_on),
            Effect::Say { gateway: other, frame } => self.say(gateway, number(&other), frame),
            Effect::Close { gateway: other } => self.close(gateway, number(&other)),
        }
    }

    pub(super) fn place(&mut self, gateway: usize, id: RequestId, at: At) {
        if let Some(client) = self.gateways[gateway].clients.get_mut(&id) {
            client.at = at;
        }
    }

    pub(super) fn began(&mut self, gateway: usize, id: RequestId, number: u32, goes_on: bool) {
        let Some(client) = self.gateways[gateway].clients.get_mut(&id) else { return };
        let At::Node { node, attempt, begins, .. } = client.at else { return };
        if attempt == number {
            client.at = if goes_on { At::Streaming { node, ends: begins + client.answer } } else { At::Queue };
        }
    }

    pub(super) fn end(&mut self, gateway: usize, id: RequestId, outcome: Outcome) {
        assert!(self.ended.insert(id), "{id:?} ends twice");
        self.gateways[gateway].clients.remove(&id);
        self.hear(gateway, Event::Left { id, outcome });
    }

    /// What clients of a gateway get from nodes meanwhile.
    pub(super) fn serve(&mut self, gateway: usize) {
        let ids: Vec<RequestId> = self.gateways[gateway].clients.keys().copied().collect();
        for id in ids {
            match self.gateways[gateway].clients.get(&id).map(|client| client.at) {
                Some(At::Node { node, attempt, begins, has_asked: false }) if begins <= self.now => {
                    self.place(gateway, id, At::Node { node, attempt, begins, has_asked: true });
                    let now = self.clock(gateway);
                    let Some(coordinator) = &mut self.gateways[gateway].coordinator else { return };
                    let (answer, effects) = coordinator.member.first_byte(id, attempt, now);
                    effects.into_iter().for_each(|effect| self.carry_out(gateway, effect));
                    if answer != FirstByte::Asked {
                        self.began(gateway, id, attempt, answer == FirstByte::GoesOn);
                    }
                }
                Some(At::Streaming { ends, .. }) if ends <= self.now => self.end(gateway, id, Outcome::Completed),
                _ => {}
            }
        }
    }

    /// The nodes' own count. A node does not wait for a gateway that is paused: what it writes is received all the same.
    pub(super) fn check(&self, node: usize, model: usize) {
        let is_there = |client: &&Client| match client.at {
            At::Queue => false,
            At::Node { node: at, begins, .. } => {
                at == node && client.model == model && self.now < begins + client.answer
            }
            At::Streaming { node: at, ends } => at == node && client.model == model && self.now < ends,
        };
        let count = self.gateways.iter().flat_map(|gateway| gateway.clients.values()).filter(is_there).count();
        assert!(count <= NODES[node].1 as usize, "{count} of {} on {}", MODELS[model], NODES[node].0);
    }

    /// Ten tokens a second.
    pub(super) fn progress(&mut self, gateway: usize) {
        let now = self.now;
        let tokens = |(id, client): (&RequestId, &Client)| match client.at {
            At::Streaming { ends, .. } => {
                let left = ends.saturating_sub(now);
                Some((*id, client.answer.saturating_sub(left).as_millis() as u64 / 100))
            }
            _ => None,
        };
        for (id, tokens) in self.gateways[gateway].clients.iter().filter_map(tokens).collect::<Vec<_>>() {
            self.hear(gateway, Event::Progress { id, tokens });
        }
    }

    // The network.
}
