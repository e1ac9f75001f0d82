//! What do the tasks that look after the other gateways ask of the dispatcher, and tell it?
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::dispatcher::{Core, Dispatcher};
use super::sharing::Sharing;
use crate::store::Published;
use cluster::{Candidate, Coordinator, Effect, Frame, LeaseNews, Neighbour, Others, Peer, Role, Stance};

impl Dispatcher {
    /// From now on this gateway is one that may meet others. For the start: nothing runs or waits yet.
    pub(crate) fn meet_others(&self, own: Arc<str>, link: Option<Arc<str>>, is_sole: bool) {
        self.act(|coordinator, now| {
            let scheduler = coordinator.member.scheduler().clone();
            *coordinator = Coordinator::new(own, scheduler, link.clone(), is_sole);
            coordinator.begin(now)
        });
        self.peek(|core| core.is_linkable = link.is_some());
    }

    /// Has the coordinator take something in, and does what follows.
    fn act(&self, act: impl FnOnce(&mut Coordinator, Duration) -> Vec<Effect>) {
        self.with(|core, now| {
            let effects = act(&mut core.coordinator, now);
            core.carry_out(effects, now);
        });
    }

    /// The database shows these others. Returns what to publish.
    pub(crate) fn observe(&self, others: &Others) -> Option<Published> {
        self.act(|coordinator, now| coordinator.observe(others, now));
        let now = self.clock.uptime();
        self.peek(|core| {
            let coordinator = &core.coordinator;
            let (stance, link) = (coordinator.stance()?, coordinator.link(now).cloned());
            Some(Published { stance, link, busy: coordinator.member.busy(now) })
        })
    }

    /// What was to be published is.
    pub(crate) fn published(&self, stance: &Stance, peers: &[Peer]) {
        self.act(|coordinator, now| coordinator.published(stance, peers, now));
    }

    /// Whether to ask for the lease, and the epoch that is known.
    pub(crate) fn lease_wish(&self) -> (bool, u64) {
        self.peek(|core| (core.coordinator.member.wants_lease(), core.coordinator.member.own_epoch()))
    }

    pub(crate) fn has_common_scheduler(&self) -> bool {
        self.peek(|core| *core.coordinator.member.role() != Role::Local)
    }

    pub(crate) fn lease(&self, news: LeaseNews) {
        self.act(|coordinator, now| coordinator.member.lease(news, now));
    }

    /// Leads no more, because this gateway is about to stop.
    pub(crate) fn retire(&self) {
        self.act(|coordinator, now| coordinator.member.retire(now));
    }

    /// Time passes for the member. A follower also says which of its clients do not read.
    pub(crate) fn tick_member(&self, is_whole_second: bool) {
        self.with(|core, now| {
            let effects = core.coordinator.member.tick(now);
            core.carry_out(effects, now);
            if is_whole_second && matches!(core.coordinator.member.role(), Role::Following { .. }) {
                core.tick(now);
            }
        });
    }

    /// The gateway to link with.
    pub(crate) fn target(&self) -> Option<Candidate> {
        self.peek(|core| core.coordinator.member.target().cloned())
    }

    /// Gateways that a leader waits for, and the epoch of its lease.
    pub(crate) fn missing(&self) -> Option<(u64, Vec<Neighbour>)> {
        self.peek(|core| {
            let epoch = core.coordinator.member.welcomes()?;
            Some((epoch, core.coordinator.member.missing())).filter(|(_, missing)| !missing.is_empty())
        })
    }

    pub(crate) fn is_dead(&self, gateway: &Arc<str>) {
        self.act(|coordinator, now| coordinator.member.is_dead(gateway, now));
    }

    /// The epoch with which to welcome a follower; `None` if this gateway does not lead.
    pub(crate) fn welcomes(&self) -> Option<u64> {
        self.peek(|core| core.coordinator.member.welcomes())
    }

    /// A follower's link stands. Returns its number, and what to send on it.
    pub(crate) fn accept(&self, gateway: Arc<str>) -> (u64, mpsc::Receiver<Frame>) {
        self.peek(|core| core.links.open(gateway))
    }

    /// A link with the leader stands. `None` if this gateway does not want it any more.
    pub(crate) fn follow(&self, leader: &Arc<str>, epoch: u64) -> Option<(u64, mpsc::Receiver<Frame>)> {
        self.with(|core, now| {
            let (number, frames) = core.links.open(leader.clone());
            let effects = core.coordinator.member.follows(leader.clone(), epoch, now);
            core.carry_out(effects, now);
            // The member may have refused the link, which closes it.
            core.links.is_open(leader, number).then_some((number, frames))
        })
    }

    /// Frames came on a link. False if the link is no longer in use.
    pub(crate) fn said(&self, gateway: &Arc<str>, number: u64, frames: Vec<Frame>) -> bool {
        self.with(|core, now| {
            for frame in frames {
                // A frame of this batch may have ended the link; what came after it counts for nothing.
                if !core.links.is_open(gateway, number) {
                    return false;
                }
                let effects = core.coordinator.member.said(gateway, frame, now);
                core.carry_out(effects, now);
            }
            core.links.is_open(gateway, number)
        })
    }

    /// A link has ended.
    pub(crate) fn unlinked(&self, gateway: &Arc<str>, number: u64) {
        self.with(|core, now| {
            if core.links.is_open(gateway, number) {
                core.links.close(gateway);
                let effects = core.coordinator.member.unlinked(gateway, now);
                core.carry_out(effects, now);
            }
        });
    }

    /// A link's round trip was measured.
    pub(crate) fn link_took(&self, gateway: &Arc<str>, number: u64, time: Duration) {
        self.peek(|core| core.links.took(gateway, number, time));
    }

    /// The round trip of the slowest open link; zero without one.
    pub fn link_delay(&self) -> Duration {
        self.peek(|core| core.links.slowest())
    }

    /// How often leadership has changed, as far as this gateway has seen.
    pub fn handovers(&self) -> u64 {
        self.peek(|core| core.handovers)
    }

    /// Whether what this gateway's scheduler learns is to be kept: not that of a gateway that follows.
    pub fn learns(&self) -> bool {
        self.peek(|core| !matches!(core.coordinator.member.role(), Role::Following { .. }))
    }
}

impl Core {
    /// Logs a change of role, and returns whether there was one.
    pub(super) fn tell_role(&mut self) -> bool {
        let role = Sharing::of(&self.coordinator);
        if role.headline() == self.told.headline() {
            return false;
        }
        role.log();
        if let Some(epoch) = role.epoch
            && epoch != self.last_epoch
        {
            // The first epoch after the start is no change of leadership.
            self.handovers += u64::from(self.last_epoch != 0);
            self.last_epoch = epoch;
        }
        self.told = role;
        true
    }
}
