//! One gateway's part in scheduling for all: it leads, it follows, or it is looking for a leader.
//!
//! ```text
//!              has the lease                 a later epoch, or no lease and not everybody linked
//! seeking ---------------------> leading --------------------------------------------------------> seeking
//!    |     linked to the holder                   link lost, or a later epoch
//!    +-------------------------> following ------------------------------------------------------> seeking
//! ```
//!
//! * *Seeking*: its own requests are in its own scheduler. It uses no more slots than it held when it lost its leader,
//!   as nobody else may use those, and nobody knows who has the others.
//! * *Leading*: everybody's requests are in its scheduler. Until every gateway that may be running something has
//!   reported, is known to be dead, or has been silent for long, it uses no more slots than those that have reported.
//! * *Following*: its scheduler hears of nodes only, so that names are known and a takeover is quick.
//!
//! A leader needs the lease to begin. To go on it needs the lease, or a link with every other gateway: while all of them
//! follow it, nobody else can lead, so an outage of the database changes nothing. That no slot is used twice does not
//! depend on the lease, but on what a leader knows of the others' slots; so two gateways that both believe to lead for
//! a moment do no harm.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use scheduler::{Decision, Event, Outcome, Reach, RequestId, Scheduler, Time};

use crate::{
    frame::Frame,
    kept::Releases,
    ledger::{Ledger, exhausted, is_of_a_request},
    role::{Candidate, Effect, FirstByte, LeaseNews, Neighbour, Role},
};

/// How long a gateway uses the slots that it held, with neither a leader nor the database.
pub(crate) const HOLDS: Duration = Duration::from_secs(10);
/// How long a silent gateway keeps the slots that it may be using at least; longer if what ran there needs longer.
/// Longer than [`HOLDS`] by what an answer takes.
pub(crate) const DARK: Duration = Duration::from_secs(30);
/// How long a gateway is without a leader and without the database before it uses its share of the slots. By then, what
/// the others began in the last [`HOLDS`] should have ended, wherever they lost their leader last.
const FALLBACK: Duration = Duration::from_secs(45);
/// A follower that was not told the time for this long was paused: what it was granted before may be somebody else's.
const PAUSED: Duration = Duration::from_secs(2);
/// How old the list of the others may be when a gateway begins to lead.
const RECENT: Duration = Duration::from_secs(3);

/// One gateway's part; see the module.
#[derive(Clone)]
pub struct Member {
    pub(crate) own: Arc<str>,
    pub(crate) scheduler: Scheduler,
    pub(crate) role: Role,
    /// Whether it can be one of several with a common scheduler. If not, no ledger is kept.
    pub(crate) can_join: bool,
    pub(crate) ledger: Ledger,
    /// The other gateways that live.
    pub(crate) neighbours: Vec<Neighbour>,
    /// When the database last said who they are.
    pub(crate) met_at: Time,
    pub(crate) candidate: Option<Candidate>,
    /// The latest epoch heard of.
    pub(crate) epoch: u64,
    pub(crate) lease_until: Time,
    /// When it last led, or followed.
    pub(crate) contact_at: Time,
    /// Since when it has been awake, without a pause of [`PAUSED`].
    awake_since: Time,
    /// Whether it was out of contact for so long that what it held may be somebody else's.
    pub(crate) has_lapsed: bool,
    pub(crate) is_retiring: bool,
    fallback: Reach,
    ticked_at: Time,
    /// Of a leader: when each follower was last heard.
    pub(crate) followers: BTreeMap<Arc<str>, Time>,
    /// Of a leader: the gateway of each request that is not its own.
    pub(crate) remote: BTreeMap<RequestId, Arc<str>>,
    /// When what ran at other gateways should be over, by what they or their leader knew last.
    pub(crate) busy_until: BTreeMap<Arc<str>, Time>,
    /// Of a leader: what ran at gateways whose link was lost, and until when it keeps its slots at least.
    pub(crate) orphans: BTreeMap<RequestId, Time>,
    /// Of a leader: gateways that may be running something unknown, and since when they are waited for.
    pub(crate) missing: BTreeMap<Arc<str>, Time>,
    /// Of a leader: gateways known to be dead since it began to lead.
    pub(crate) dead: BTreeSet<Arc<str>>,
    /// Of a leader: gateways that followed it, and may follow another one now.
    pub(crate) lost: BTreeSet<Arc<str>>,
    /// Of a follower: what its leader is not told before it is heard.
    pub(crate) releases: Releases,
}

impl Member {
    /// A gateway on its own. Without `can_join` it remains so, at no cost.
    pub fn new(own: Arc<str>, scheduler: Scheduler, can_join: bool) -> Self {
        Self {
            own,
            scheduler,
            role: Role::Local,
            can_join,
            ledger: Ledger::default(),
            neighbours: Vec::new(),
            met_at: Time::ZERO,
            candidate: None,
            epoch: 0,
            lease_until: Time::ZERO,
            contact_at: Time::ZERO,
            awake_since: Time::ZERO,
            has_lapsed: false,
            is_retiring: false,
            fallback: Reach::Nothing,
            ticked_at: Time::ZERO,
            followers: BTreeMap::new(),
            remote: BTreeMap::new(),
            busy_until: BTreeMap::new(),
            orphans: BTreeMap::new(),
            missing: BTreeMap::new(),
            dead: BTreeSet::new(),
            lost: BTreeSet::new(),
            releases: Releases::default(),
        }
    }

    // What happens to it.

    /// From now on this gateway is one of several with a common scheduler.
    pub fn join(&mut self, now: Time) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.role == Role::Local && self.can_join {
            (self.role, self.contact_at) = (Role::Seeking { since: now }, now);
            self.reach(Reach::Held, now, &mut effects);
        }
        effects
    }

    /// From now on this gateway schedules for itself, within these slots.
    pub fn divide(&mut self, reach: Reach, now: Time) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.role != Role::Local {
            self.seek(now, &mut effects);
            self.role = Role::Local;
        }
        self.reach(reach, now, &mut effects);
        effects
    }

    /// This gateway is about to stop: it leads no longer, and only carries its requests to their end.
    pub fn retire(&mut self, now: Time) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.is_retiring = true;
        // One that is alone keeps its slots, until another gateway starts and leads.
        if matches!(self.role, Role::Leading { .. }) && !self.neighbours.is_empty() {
            self.lease_until = Time::ZERO;
            self.seek(now, &mut effects);
        }
        effects
    }

    /// Something happened to one of this gateway's requests, or to a node.
    pub fn handle(&mut self, event: Event, now: Time) -> Vec<Effect> {
        let mut effects = self.wake(now);
        self.check_lease(now, &mut effects);
        if let Role::Following { leader, .. } = &self.role {
            let gateway = leader.clone();
            // Made before the ledger takes note of the event: an end would remove what the frame is made of.
            if let Some(frame) = self.frame(&event, now) {
                let frame = self.release(frame, now);
                self.ledger.note(&event, now);
                effects.push(Effect::Say { gateway, frame });
                return effects;
            }
            if is_of_a_request(&event) {
                return effects;
            }
        } else if self.can_join {
            self.ledger.note(&event, now);
        }
        if let Event::Failed { id, failure } = event
            && !self.scheduler.knows(id)
            && self.ledger.get(id).is_some()
        {
            // It ran on a node that has left, so it was not adopted.
            self.ledger.end(id);
            effects.push(Effect::Decided(Decision::Refuse { id, refusal: exhausted(failure) }));
        }
        if matches!(event, Event::Tick) {
            self.excuse_silent(now, &mut effects);
        }
        self.decide(event, now, &mut effects);
        effects
    }

    /// The first byte of an attempt is here. May the client have it?
    pub fn first_byte(&mut self, id: RequestId, attempt: u32, now: Time) -> (FirstByte, Vec<Effect>) {
        let mut effects = self.wake(now);
        self.check_lease(now, &mut effects);
        let runs = if self.can_join { self.ledger.runs(id, attempt) } else { self.scheduler.runs(id, attempt) };
        if !runs {
            return (FirstByte::Over, effects);
        }
        if let Role::Following { leader, .. } = &self.role {
            let gateway = leader.clone();
            if let Some(sent) = self.ledger.sent_mut(id) {
                sent.is_asked = true;
            }
            effects.push(Effect::Say { gateway, frame: Frame::FirstByte { id, attempt } });
            return (FirstByte::Asked, effects);
        }
        effects.extend(self.handle(Event::FirstByte { id }, now));
        (FirstByte::GoesOn, effects)
    }

    /// These gateways have told the database that they end, so nothing runs there any more. The end of a link says less:
    /// its gateway may be cut off.
    pub fn have_left(&mut self, gateways: &[Arc<str>], now: Time) -> Vec<Effect> {
        let mut effects = self.tick(now);
        for gateway in gateways {
            let may_run_something = self.busy_until.contains_key(gateway)
                || self.missing.contains_key(gateway)
                || self.lost.contains(gateway)
                || self.followers.contains_key(gateway);
            if may_run_something {
                self.forget(gateway, now, &mut effects);
            }
        }
        effects
    }

    /// The other gateways that live, by the database.
    pub fn meet(&mut self, neighbours: Vec<Neighbour>, now: Time) -> Vec<Effect> {
        let mut effects = self.tick(now);
        // The tick came first: a pause that was too long must be noticed before `met_at` is renewed.
        (self.neighbours, self.met_at) = (neighbours, now);
        self.busy_until.retain(|_, until| now < *until);
        for Neighbour { gateway, busy, .. } in &self.neighbours {
            let until = self.busy_until.entry(gateway.clone()).or_default();
            *until = (*until).max(now + *busy);
        }
        effects.extend(self.tick(now));
        effects
    }

    /// The database said something about the lease.
    pub fn lease(&mut self, news: LeaseNews, now: Time) -> Vec<Effect> {
        let mut effects = Vec::new();
        match news {
            LeaseNews::Held { epoch, until } if epoch >= self.epoch && !self.is_retiring => {
                let is_mine = self.role == Role::Leading { epoch };
                // The lease was lost and won again: the links that stand belong to the old epoch.
                if !is_mine && matches!(self.role, Role::Leading { .. }) {
                    self.seek(now, &mut effects);
                }
                self.lease_until = until;
                // Whoever leads must know which others may be running something.
                let knows_others = now <= self.met_at + RECENT && now < until;
                if knows_others && matches!(self.role, Role::Seeking { .. }) {
                    self.lead(epoch, now, &mut effects);
                }
            }
            LeaseNews::Taken(candidate) if candidate.epoch >= self.epoch && candidate.gateway != self.own => {
                let is_later = match self.role {
                    Role::Leading { epoch } | Role::Following { epoch, .. } => epoch < candidate.epoch,
                    Role::Local | Role::Seeking { .. } => false,
                };
                self.epoch = candidate.epoch;
                self.candidate = Some(candidate);
                if is_later {
                    self.seek(now, &mut effects);
                }
            }
            LeaseNews::Held { .. } | LeaseNews::Taken(_) | LeaseNews::Free | LeaseNews::Away => {}
        }
        self.check_lease(now, &mut effects);
        effects
    }

    /// A link with a leader stands: it decides from now on.
    pub fn follows(&mut self, leader: Arc<str>, epoch: u64, now: Time) -> Vec<Effect> {
        let mut effects = Vec::new();
        if epoch < self.epoch || !matches!(self.role, Role::Seeking { .. }) {
            effects.push(Effect::Close { gateway: leader });
            return effects;
        }
        (self.epoch, self.ticked_at) = (epoch, now);
        self.releases.begin(now);
        // Before the reach changes, which forgets the spare slots.
        let (has_lapsed, free) = (self.has_lapsed, self.free_slots());
        self.reach(Reach::Nothing, now, &mut effects);
        for id in self.ledger.ids() {
            // There is no slot to use, so nothing follows from it.
            self.scheduler.handle(Event::Left { id, outcome: Outcome::Cancelled }, now);
        }
        self.role = Role::Following { epoch, leader: leader.clone() };
        let frame = Frame::Report { requests: self.ledger.report(now), has_lapsed, free };
        effects.push(Effect::Say { gateway: leader.clone(), frame });
        effects.push(Effect::Say { gateway: leader, frame: Frame::Ping { number: 0 } });
        effects
    }

    /// A link has ended, or was silent for too long.
    pub fn unlinked(&mut self, gateway: &Arc<str>, now: Time) -> Vec<Effect> {
        let mut effects = Vec::new();
        match &self.role {
            Role::Following { leader, .. } if leader == gateway => self.seek(now, &mut effects),
            Role::Leading { .. } => self.lose_follower(gateway, now, &mut effects),
            _ => {}
        }
        effects
    }

    /// Time passed. To be called several times a second.
    pub fn tick(&mut self, now: Time) -> Vec<Effect> {
        let mut effects = Vec::new();
        let was_paused = now > self.ticked_at + PAUSED;
        self.ticked_at = now;
        if was_paused {
            self.awake_since = now;
        }
        self.check_lease(now, &mut effects);
        match self.role {
            Role::Following { .. } if was_paused => self.seek(now, &mut effects),
            Role::Leading { .. } => {
                self.contact_at = now;
                self.end_patience(now, &mut effects);
            }
            Role::Seeking { .. } => {
                let reach = match now.saturating_sub(self.contact_at.max(self.met_at).max(self.awake_since)) {
                    // A short cut changes nothing. After a long one there may be no leader at all, so the gateway falls
                    // back to its share, once nothing that others ran can be running any more.
                    cut_off if cut_off < FALLBACK => self.held(now),
                    _ if self.busy_until.values().any(|until| now < *until) => Reach::Nothing,
                    _ => self.fallback.clone(),
                };
                self.reach(reach, now, &mut effects);
            }
            Role::Following { .. } if self.releases.is_reported => self.contact_at = now,
            Role::Following { .. } => {}
            Role::Local => {}
        }
        effects
    }

    /// After a pause, learns of it before anything else.
    fn wake(&mut self, now: Time) -> Vec<Effect> {
        if self.can_join && now > self.ticked_at + PAUSED { self.tick(now) } else { Vec::new() }
    }

    /// The slots that it may use when it has been without a leader and without the database for long.
    pub(crate) fn set_fallback(&mut self, reach: Reach) {
        self.fallback = reach;
    }
}
