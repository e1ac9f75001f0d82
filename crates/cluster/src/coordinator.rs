//! Do the gateways on one database have a common scheduler, or does each keep to its share of the slots?
//!
//! They have one if every living gateway offers a link. A gateway without one, or one that has found no leader for
//! [`PATIENCE`] although the database answers, offers none; then all of them divide the slots as a [`Membership`]
//! agrees. While a gateway has a part in the common scheduler, it promises nothing to keep to, so nobody uses a share
//! before all have left the common scheduler.

use std::{sync::Arc, time::Duration};

use scheduler::{Scheduler, Time};

use crate::{
    member::Member,
    membership::{Membership, Others, Peer, Stance},
    role::{Effect, Neighbour, Role},
};

/// How long a gateway looks for a leader before it calls for shares.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it offers no link after that.
const WITHDRAWN: Duration = Duration::from_secs(300);

/// A gateway's part among the others, whichever way they schedule.
#[derive(Clone)]
pub struct Coordinator {
    /// Its part in the common scheduler; the scheduler is in there.
    pub member: Member,
    membership: Membership,
    /// Agrees on shares for the time when there is neither a leader nor a database.
    spare: Membership,
    link: Option<Arc<str>>,
    withdrawn_until: Time,
}

impl Coordinator {
    /// A gateway whose link, if it has one, listens at `link`. With `is_sole` it uses every slot until it has seen the
    /// database; else none.
    pub fn new(own: Arc<str>, scheduler: Scheduler, link: Option<Arc<str>>, is_sole: bool) -> Self {
        let membership = if is_sole { Membership::alone(own.clone()) } else { Membership::new(own.clone()) };
        let spare = membership.clone();
        let member = Member::new(own, scheduler, link.is_some());
        Self { member, membership, spare, link, withdrawn_until: Time::ZERO }
    }

    /// The address of its link, while it is fit for use.
    pub fn link(&self, now: Time) -> Option<&Arc<str>> {
        self.link.as_ref().filter(|_| now >= self.withdrawn_until)
    }

    /// How many gateways share the nodes, this one included.
    pub fn gateways(&self) -> usize {
        self.membership.gateways()
    }

    /// Whether everybody knows which slots are whose: by the division, or because this gateway leads or follows.
    pub fn is_settled(&self) -> bool {
        match self.member.role() {
            Role::Local => self.membership.is_settled(),
            Role::Leading { .. } => !self.member.is_gathering(),
            Role::Following { .. } => true,
            Role::Seeking { .. } => false,
        }
    }

    /// Before anybody has been seen: keeps to what a gateway may use that has just started.
    pub fn begin(&mut self, now: Time) -> Vec<Effect> {
        self.member.divide(self.membership.reach(), now)
    }

    /// The database shows these other gateways. What follows holds before anything is published.
    pub fn observe(&mut self, others: &Others, now: Time) -> Vec<Effect> {
        let peers = others.there.as_slice();
        let mut effects = self.member.have_left(&others.left, now);
        let is_starved = *self.member.role() == Role::Local && self.member.scheduler().is_starved(now);
        self.membership.observe(peers, is_starved, now);
        self.prepare(peers, now);
        if let Role::Seeking { since } = self.member.role()
            && now >= *since + PATIENCE
            && !peers.is_empty()
        {
            // There are others, and no leader for too long: the slots are divided instead.
            self.withdrawn_until = now + WITHDRAWN;
        }
        let links = peers.iter().map(|peer| {
            let (gateway, silent, busy) = (peer.gateway.clone(), peer.silent, peer.busy);
            Some(Neighbour { gateway, address: peer.link.clone()?, silent, busy })
        });
        // One gateway without a link is enough, and all divide the slots.
        let neighbours: Option<Vec<Neighbour>> = links.collect();
        match neighbours.filter(|_| self.link(now).is_some()) {
            Some(neighbours) => {
                if *self.member.role() == Role::Local {
                    // Shares are agreed on anew when they are needed again.
                    self.membership.withdraw();
                    self.membership.observe(peers, false, now);
                    effects.extend(self.member.join(now));
                }
                effects.extend(self.member.meet(neighbours, now));
            }
            None => effects.extend(self.member.divide(self.membership.reach(), now)),
        }
        effects
    }

    /// What to publish.
    pub fn stance(&self) -> Option<Stance> {
        let is_local = *self.member.role() == Role::Local;
        self.membership.stance(is_local && self.member.scheduler().is_within_reach())
    }

    /// Everybody can read `published` now. `peers` are the ones it was decided on.
    pub fn published(&mut self, published: &Stance, peers: &[Peer], now: Time) -> Vec<Effect> {
        let promise = Stance { fits: true, ..published.clone() };
        self.spare.published(&promise, &promising(peers), now);
        self.member.set_fallback(self.spare.reach());
        if *self.member.role() != Role::Local {
            return Vec::new();
        }
        self.membership.published(published, peers, now);
        self.member.divide(self.membership.reach(), now)
    }

    /// In the common scheduler every gateway promises that it would keep to its share if it had to go on without it.
    fn prepare(&mut self, peers: &[Peer], now: Time) {
        self.spare.observe(&promising(peers), false, now);
        self.member.set_fallback(self.spare.reach());
    }
}

fn promising(peers: &[Peer]) -> Vec<Peer> {
    let promise = |peer: &Peer| peer.stance.clone().map(|stance| Stance { fits: true, ..stance });
    peers.iter().map(|peer| Peer { stance: promise(peer), ..peer.clone() }).collect()
}
