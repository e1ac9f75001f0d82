//! How does a gateway begin to lead or to look for a leader, and when does it stop leading?

use std::time::Duration;

use scheduler::{Event, Reach, Time};

use crate::{
    member::{HOLDS, Member},
    role::{Effect, Neighbour, Role},
};

/// How recently every other gateway must have been heard for a leader to go on without its lease.
const HEARD: Duration = Duration::from_millis(1200);

impl Member {
    pub(crate) fn lead(&mut self, epoch: u64, now: Time, effects: &mut Vec<Effect>) {
        self.epoch = epoch;
        self.role = Role::Leading { epoch };
        self.dead.clear();
        self.lost.clear();
        self.busy_until.retain(|_, until| now < *until);
        // Each of them may be using slots that the last leader granted. Until all have reported, only own slots are
        // used.
        let others = self.neighbours.iter().map(|neighbour| &neighbour.gateway).chain(self.busy_until.keys());
        self.missing = others.map(|gateway| (gateway.clone(), now)).collect();
        let held = self.held(now);
        self.reach(held, now, effects);
        self.open_up(now, effects);
    }

    pub(crate) fn seek(&mut self, now: Time, effects: &mut Vec<Effect>) {
        // Before the reach changes, which forgets them.
        let mut spare = self.scheduler.spare_slots();
        self.reach(Reach::Nothing, now, effects);
        match std::mem::replace(&mut self.role, Role::Seeking { since: now }) {
            Role::Leading { .. } => self.forget_followers(now, effects),
            Role::Following { leader, .. } => {
                effects.push(Effect::Close { gateway: leader });
                let goes_on = self.held(now) == Reach::Held;
                self.schedule_own(goes_on, now, effects);
                spare = self.take_kept();
            }
            Role::Local | Role::Seeking { .. } => {}
        }
        let held = self.held(now);
        self.reach(held, now, effects);
        self.hold(spare, now, effects);
    }

    /// The slots that it holds are nobody else's, unless it was out of contact for too long.
    pub(crate) fn held(&mut self, now: Time) -> Reach {
        self.has_lapsed |= now >= self.contact_at.max(self.met_at) + HOLDS;
        if self.has_lapsed { Reach::Nothing } else { Reach::Held }
    }

    /// A leader whose lease has ended, and who may have been replaced, stops deciding.
    pub(crate) fn check_lease(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if !matches!(self.role, Role::Leading { .. }) || now < self.lease_until {
            return;
        }
        // If every gateway that lives follows this one, nobody can have taken the lease: it goes on without the
        // database.
        let is_heard = |neighbour: &Neighbour| {
            let heard = self.followers.get(&neighbour.gateway).is_some_and(|at| now <= *at + HEARD);
            heard || self.dead.contains(&neighbour.gateway)
        };
        if !self.neighbours.iter().all(is_heard) || !self.lost.is_empty() {
            self.seek(now, effects);
        }
    }

    pub(crate) fn reach(&mut self, reach: Reach, now: Time, effects: &mut Vec<Effect>) {
        if *self.scheduler.reach() != reach {
            self.decide(Event::Shared { reach }, now, effects);
        }
    }
}
