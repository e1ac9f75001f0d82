//! What is between gateways: their links, with what is on its way, what is lost and who is heard; and the database that
//! they share, with their rows and the lease.
use super::*;

impl World {
    pub(super) fn say(&mut self, from: usize, to: usize, frame: Frame) {
        let delay = self.dice.millis(1, 30);
        let Some((link, end)) = self.link_of(from, to) else { return };
        // Never before what was said earlier.
        let last = link.sent[end].back().map_or(Duration::ZERO, |(at, _)| *at);
        link.sent[end].push_back(((delay + link.heard[0].max(link.heard[1])).max(last), frame));
        let now = self.now;
        if let Some((link, end)) = self.link_of(from, to)
            && let Some((at, _)) = link.sent[end].back_mut()
        {
            *at = last.max(now + delay);
        }
    }

    pub(super) fn link_of(&mut self, from: usize, to: usize) -> Option<(&mut Link, usize)> {
        let link = self.links.iter_mut().find(|link| link.ends == [from, to] || link.ends == [to, from])?;
        let end = usize::from(link.ends[0] != from);
        Some((link, end))
    }

    pub(super) fn close(&mut self, from: usize, to: usize) {
        if let Some((link, end)) = self.link_of(from, to) {
            link.closed_for = Some(1 - end);
        }
    }

    /// Hands over what has arrived, and tells each end of a lost link.
    pub(super) fn deliver(&mut self) {
        for index in (0..self.links.len()).rev() {
            let ends = self.links[index].ends;
            let is_through = self.reach(ends[0], ends[1]);
            let closed_for = self.links[index].closed_for;
            if let Some(end) = closed_for {
                if is_through && self.is_running(ends[end]) {
                    self.links.remove(index);
                    self.with(ends[end], |coordinator, now| coordinator.member.unlinked(&name(ends[1 - end]), now));
                } else if self.now > self.links[index].heard[end] + LINK_PATIENCE && self.is_running(ends[end]) {
                    self.links.remove(index);
                    self.with(ends[end], |coordinator, now| coordinator.member.unlinked(&name(ends[1 - end]), now));
                }
                continue;
            }
            for end in [0, 1] {
                let (own, other) = (ends[end], ends[1 - end]);
                if !self.is_running(own) {
                    continue;
                }
                while let Some(link) = self.links.get_mut(index).filter(|link| link.ends == ends && is_through) {
                    let is_due = link.sent[1 - end].front().is_some_and(|(at, _)| *at <= self.now);
                    let Some((_, frame)) = is_due.then(|| link.sent[1 - end].pop_front()).flatten() else { break };
                    link.heard[end] = self.now;
                    if let Frame::Ping { number } = frame {
                        self.say(own, other, Frame::Pong { number });
                    }
                    self.with(own, |coordinator, now| coordinator.member.said(&name(other), frame, now));
                }
                let now = self.now;
                let Some(link) = self.links.get_mut(index).filter(|link| link.closed_for.is_none()) else { break };
                if now > link.heard[end] + LINK_PATIENCE {
                    link.closed_for = Some(1 - end);
                    self.with(own, |coordinator, now| coordinator.member.unlinked(&name(other), now));
                    break;
                }
                if link.beat_at[end] <= now {
                    link.beat_at[end] = now + HEARTBEAT;
                    self.say(own, other, Frame::Heartbeat);
                }
            }
        }
    }

    /// Follows whoever is to be followed, and looks after those that are missing.
    pub(super) fn link(&mut self, gateway: usize) {
        let Some(coordinator) = &self.gateways[gateway].coordinator else { return };
        let target = coordinator.member.target().map(|candidate| number(&candidate.gateway));
        let missing = coordinator.member.missing();
        let own_epoch = coordinator.member.welcomes();
        if let Some(leader) = target
            && self.is_running(leader)
            && self.reach(gateway, leader)
            && self.link_of(gateway, leader).is_none()
            && let Some(epoch) = self.gateways[leader].coordinator.as_ref().and_then(|it| it.member.welcomes())
        {
            let now = self.now;
            let sent = [VecDeque::new(), VecDeque::new()];
            let ends = [gateway, leader];
            self.links.push(Link { ends, sent, heard: [now; 2], beat_at: [now; 2], closed_for: None });
            self.with(gateway, |coordinator, now| coordinator.member.follows(name(leader), epoch, now));
        }
        for other in missing.iter().map(|neighbour| number(&neighbour.gateway)) {
            if !self.reach(gateway, other) {
                continue;
            }
            match (&self.gateways[other].coordinator, own_epoch) {
                (None, _) => self.with(gateway, |coordinator, now| coordinator.member.is_dead(&name(other), now)),
                (Some(_), Some(epoch)) if self.is_running(other) => {
                    let address = format!("http://{}", name(gateway)).into();
                    let candidate = Candidate { gateway: name(gateway), address, epoch };
                    self.with(other, |it, now| it.member.lease(LeaseNews::Taken(candidate), now));
                }
                _ => {}
            }
        }
    }

    // The database.

    fn others(&self, gateway: usize) -> Others {
        let is_other = |other: &usize| *other != gateway;
        let has_left = |other: &usize| self.gateways[*other].row.as_ref().is_some_and(|row| row.has_left);
        let left = (0..self.gateways.len()).filter(is_other).filter(has_left).map(name).collect();
        Others { there: self.peers(gateway), left }
    }

    fn peers(&self, gateway: usize) -> Vec<Peer> {
        let own = self.gateways[gateway].row.as_ref().filter(|row| !row.has_left && self.now - row.at <= LONGEST_GAP);
        let watched = own.map_or(Duration::ZERO, |row| self.now - row.since);
        let others = self.gateways.iter().enumerate().filter(|(other, _)| *other != gateway);
        let there = others.filter_map(|(other, it)| {
            let row = it.row.as_ref()?;
            let silent = self.now - row.at;
            let is_gone = row.has_left || (silent > GONE && watched > GONE);
            let stance = Some(row.stance.clone());
            let busy = row.busy.saturating_sub(silent);
            (!is_gone).then(|| Peer { gateway: name(other), stance, link: row.link.clone(), silent, busy })
        });
        there.collect()
    }
}

impl World {
    pub(super) fn beat(&mut self, gateway: usize) {
        let now = self.now;
        if self.gateways[gateway].beat_at > now {
            return;
        }
        let is_settled = self.gateways[gateway].coordinator.as_ref().is_some_and(Coordinator::is_settled);
        self.gateways[gateway].beat_at = now + Duration::from_millis(if is_settled { 1000 } else { 200 });
        if !self.reaches_database(gateway) {
            return self.with(gateway, |coordinator, now| coordinator.member.lease(LeaseNews::Away, now));
        }
        let others = self.others(gateway);
        self.with(gateway, |coordinator, now| coordinator.observe(&others, now));
        let local = self.clock(gateway);
        let Some(coordinator) = &self.gateways[gateway].coordinator else { return };
        let (stance, link) = (coordinator.stance().expect("it has observed"), coordinator.link(local).cloned());
        let row = self.gateways[gateway].row.as_ref().filter(|row| !row.has_left && now - row.at <= LONGEST_GAP);
        let since = row.map_or(now, |row| row.since);
        let busy = coordinator.member.busy(local);
        self.gateways[gateway].row = Some(Row { stance: stance.clone(), link, at: now, busy, since, has_left: false });
        // The database has done it, but the answer may be lost.
        if !self.dice.once_in(12) {
            self.with(gateway, |coordinator, now| coordinator.published(&stance, &others.there, now));
        }
        self.lease(gateway);
    }

    pub(super) fn lease(&mut self, gateway: usize) {
        let (now, local) = (self.now, self.clock(gateway));
        let Some(coordinator) = &self.gateways[gateway].coordinator else { return };
        let (wants, known) = (coordinator.member.wants_lease(), coordinator.member.own_epoch());
        let mut news = LeaseNews::Free;
        match &mut self.lease {
            Some(lease) if lease.until > now && lease.holder != gateway => {
                let (holder, epoch) = (lease.holder, lease.epoch);
                let address = format!("http://{}", name(holder)).into();
                news = LeaseNews::Taken(Candidate { gateway: name(holder), address, epoch });
            }
            lease if wants => {
                let last = lease.as_ref().map_or(0, |lease| lease.epoch);
                let is_mine = lease.as_ref().is_some_and(|it| it.holder == gateway && it.epoch == known);
                let epoch = if is_mine { last } else { last + 1 };
                *lease = Some(Lease { holder: gateway, epoch, until: now + LEASE });
                assert_eq!(*self.epochs.entry(epoch).or_insert(gateway), gateway, "an epoch of two gateways");
                news = LeaseNews::Held { epoch, until: local + TRUSTED };
            }
            _ => {}
        }
        if !self.dice.once_in(12) {
            self.with(gateway, |coordinator, now| coordinator.member.lease(news, now));
        }
    }
}
