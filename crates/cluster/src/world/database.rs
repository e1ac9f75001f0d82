//! The database that gateways share: their rows and the lease.
use super::*;

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
        let peers = self.peers(gateway);
        self.with(gateway, |coordinator, now| coordinator.observe(&peers, now));
        let local = self.clock(gateway);
        let Some(coordinator) = &self.gateways[gateway].coordinator else { return };
        let (stance, link) = (coordinator.stance().expect("it has observed"), coordinator.link(local).cloned());
        let row = self.gateways[gateway].row.as_ref().filter(|row| !row.has_left && now - row.at <= LONGEST_GAP);
        let since = row.map_or(now, |row| row.since);
        let busy = coordinator.member.busy(local);
        self.gateways[gateway].row = Some(Row { stance: stance.clone(), link, at: now, busy, since, has_left: false });
        // The database has done it, but the answer may be lost.
        if !self.dice.once_in(12) {
            self.with(gateway, |coordinator, now| coordinator.published(&stance, &peers, now));
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
