//! Among which gateways are the slots of the fleet divided?
//!
//! Each gateway publishes its [`Stance`] in the database under a lock, so only one gateway at a time reads and writes
//! stances:
//!
//! 1. *Propose.* A gateway that sees another one come or go proposes a division among those that are present. From then
//!    on it uses only the slots that both the old division and the new one give it.
//! 2. *Promise.* Once what it runs fits the new division, it publishes that fact: a promise to stay within it.
//! 3. *Settle.* A gateway that has seen the promise of every member uses the new division alone.
//!
//! So a share that shrinks does so before anybody uses what it gives up, and a share that grows is used only after
//! everybody knows. A gateway that has just started has settled on nothing, and uses nothing until all others have
//! promised. A promise that was never settled on is binding as well, because others may have settled on it.
//!
//! The slots left over by the division belong to one gateway at a time. A gateway that has no slot for a waiting
//! request proposes the next *turn*, which passes them to the next gateway in the ranking.
//!
//! A gateway that is not heard from for too long is excluded, although it may still be running, cut off from the
//! database. When it is back, it finds that the others have promised a division without it, and uses nothing until they
//! include it again.

use std::{sync::Arc, time::Duration};

use scheduler::{Reach, Share};

/// The shortest time between a settled turn and a starved gateway's proposal of the next one.
const TURN: Duration = Duration::from_secs(5);
/// How many unsettled proposals a gateway keeps to. Beyond that, nothing new starts until a division is settled on.
const MOST_PROPOSALS: usize = 8;

/// Which gateways share the fleet, and whose turn it is to have the left-over slots.
#[derive(Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
pub struct Division {
    /// The gateways, sorted.
    pub gateways: Vec<Arc<str>>,
    /// Grows by one each time the left-over slots are passed on.
    pub turn: u64,
}

/// What a gateway publishes for the others to read.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct Stance {
    /// The division that it proposes or has settled on.
    pub division: Division,
    /// Whether it promises to stay within its share of that division.
    pub fits: bool,
}

/// Another gateway as the database shows it, unless it has left or was silent for too long.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct Peer {
    /// Its name.
    pub gateway: Arc<str>,
    /// Its latest stance; `None` if its version does not divide slots.
    pub stance: Option<Stance>,
    /// Where its link listens; `None` if it has none, or cannot use it.
    pub link: Option<Arc<str>>,
    /// How long ago it last told the database that it is alive.
    pub silent: Duration,
    /// How much longer what it ran then should take, from now on.
    pub busy: Duration,
}

/// The other gateways as the database shows them.
#[derive(Clone, Debug)]
pub struct Others {
    /// Those that may be alive.
    pub there: Vec<Peer>,
    /// Those that have said that they end: nothing runs there any more.
    pub left: Vec<Arc<str>>,
}

/// One gateway's view of the division.
#[derive(Clone, Debug)]
pub struct Membership {
    own: Arc<str>,
    /// The division that every member is known to keep to.
    settled: Option<Division>,
    settled_at: Duration,
    /// Proposals since then; the last one is current. All of them are binding, promised or not, because a gateway
    /// cannot always tell whether the others have read a promise.
    proposed: Vec<Division>,
}

impl Membership {
    /// A gateway that has just started and may not use anything yet.
    pub fn new(own: Arc<str>) -> Self {
        Self { own, settled: None, settled_at: Duration::ZERO, proposed: Vec::new() }
    }

    /// A gateway that was alone when it last saw the database; it uses everything until it sees the database again.
    pub fn alone(own: Arc<str>) -> Self {
        let division = Division { gateways: vec![own.clone()], turn: 0 };
        Self { settled: Some(division), ..Self::new(own) }
    }

    /// Promises nothing and uses nothing any more. What comes after it is agreed on as by a newcomer.
    pub fn withdraw(&mut self) {
        let division = self.current().cloned();
        *self = Self { proposed: division.into_iter().collect(), ..Self::new(self.own.clone()) };
    }

    /// Step 1: proposes the division among these peers. The caller must keep to [`Membership::reach`] before it
    /// publishes anything. `is_starved`: requests wait here for a model that this gateway has no slot for.
    pub fn observe(&mut self, peers: &[Peer], is_starved: bool, now: Duration) {
        let excludes = |stance: &Stance| stance.fits && !stance.division.gateways.contains(&self.own);
        if peers.iter().filter_map(|peer| peer.stance.as_ref()).any(excludes) {
            // Gateways that took this one for dead may be using its slots.
            self.settled = None;
        }
        let mut gateways: Vec<_> = peers.iter().map(|peer| peer.gateway.clone()).chain([self.own.clone()]).collect();
        gateways.sort_unstable();
        gateways.dedup();
        let turns = peers.iter().filter_map(|peer| Some(peer.stance.as_ref()?.division.turn));
        let turn = turns.chain(self.current().map(|division| division.turn)).max().unwrap_or(0);
        let is_due = now >= self.settled_at + TURN && self.is_settled() && gateways.len() > 1;
        let division = Division { gateways, turn: turn + u64::from(is_starved && is_due) };
        if self.current() != Some(&division) {
            self.proposed.retain(|known| *known != division);
            self.proposed.push(division);
        }
        if self.proposed.len() > MOST_PROPOSALS {
            // Others may have settled on any of the proposals, so all are binding until one is settled; nothing is used
            // meanwhile.
            debug_assert_eq!(self.reach(), Reach::Nothing);
            self.proposed.drain(..self.proposed.len() - MOST_PROPOSALS - 1);
        }
    }

    /// Step 2: what to publish. `fits`: whether what runs here fits [`Membership::reach`].
    pub fn stance(&self, fits: bool) -> Option<Stance> {
        Some(Stance { division: self.current()?.clone(), fits })
    }

    /// Step 3: everybody can now read `published`. `peers` are the ones it was decided on.
    pub fn published(&mut self, published: &Stance, peers: &[Peer], now: Duration) {
        let agrees = |peer: &Peer| peer.stance.as_ref().is_none_or(|stance| stance == published);
        if published.fits && Some(&published.division) == self.current() && peers.iter().all(agrees) {
            if !self.is_settled() {
                self.settled_at = now;
            }
            self.settled = Some(published.division.clone());
            self.proposed.clear();
        }
    }

    /// The slots that this gateway may use now.
    pub fn reach(&self) -> Reach {
        let Some(settled) = &self.settled else { return Reach::Nothing };
        if self.proposed.len() > MOST_PROPOSALS {
            return Reach::Nothing;
        }
        let binding = || self.proposed.iter().chain([settled]);
        if binding().all(|division| division.gateways == [self.own.clone()]) {
            return Reach::Whole;
        }
        let share =
            |division: &Division| Share::new(self.own.clone(), division.gateways.as_slice().into(), division.turn);
        Reach::Within(binding().map(share).collect())
    }

    /// How many gateways share the fleet, this one included.
    pub fn gateways(&self) -> usize {
        self.current().map_or(1, |division| division.gateways.len())
    }

    /// Whether every gateway is known to keep to the current division.
    pub fn is_settled(&self) -> bool {
        self.settled.is_some() && self.proposed.is_empty()
    }

    fn current(&self) -> Option<&Division> {
        self.proposed.last().or(self.settled.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn division(gateways: &[&str], turn: u64) -> Division {
        Division { gateways: gateways.iter().map(|name| Arc::from(*name)).collect(), turn }
    }

    fn peer(gateway: &str, division: Division, fits: bool) -> Peer {
        let stance = Some(Stance { division, fits });
        Peer { gateway: gateway.into(), stance, link: None, silent: Duration::ZERO, busy: Duration::ZERO }
    }

    /// Observes and publishes; everything that runs fits.
    fn beat(membership: &mut Membership, peers: &[Peer], is_starved: bool) -> Stance {
        membership.observe(peers, is_starved, NOW);
        let stance = membership.stance(true).unwrap();
        membership.published(&stance, peers, NOW);
        stance
    }

    fn slots(membership: &Membership) -> u32 {
        match membership.reach() {
            Reach::Whole => 4,
            Reach::Nothing | Reach::Held => 0,
            Reach::Within(shares) => shares.iter().map(|share| share.slots("n", 4)).min().unwrap(),
        }
    }

    #[test]
    fn who_is_alone_has_everything_after_one_look() {
        let mut membership = Membership::new("a".into());
        assert_eq!(membership.reach(), Reach::Nothing);
        beat(&mut membership, &[], false);
        assert_eq!((membership.reach(), membership.gateways()), (Reach::Whole, 1));
    }

    #[test]
    fn a_newcomer_has_nothing_until_the_other_has_promised() {
        let mut membership = Membership::new("b".into());
        let both = division(&["a", "b"], 0);
        assert_eq!(beat(&mut membership, &[peer("a", division(&["a"], 0), true)], false).division, both);
        assert_eq!(slots(&membership), 0);
        beat(&mut membership, &[peer("a", both.clone(), false)], false);
        assert_eq!(slots(&membership), 0);
        beat(&mut membership, &[peer("a", both, true)], false);
        assert_eq!(slots(&membership), 2);
    }

    #[test]
    fn who_was_alone_keeps_to_its_half_from_the_moment_it_sees_another() {
        let mut membership = Membership::alone("a".into());
        let both = division(&["a", "b"], 0);
        membership.observe(&[peer("b", both.clone(), true)], false, NOW);
        assert_eq!(slots(&membership), 2);
        // Too much still runs here.
        let stance = membership.stance(false).unwrap();
        membership.published(&stance, &[peer("b", both.clone(), true)], NOW);
        assert!(!membership.is_settled());
        beat(&mut membership, &[peer("b", both, true)], false);
        assert!(membership.is_settled());
        assert_eq!(slots(&membership), 2);
    }

    #[test]
    fn what_a_peer_leaves_is_used_once_everybody_knows() {
        let three = division(&["a", "b", "c"], 0);
        let mut membership = Membership::new("a".into());
        let peers = [peer("b", three.clone(), true), peer("c", three.clone(), true)];
        beat(&mut membership, &peers, false);
        let third = slots(&membership);
        beat(&mut membership, &[peer("b", three, true)], false);
        assert_eq!(slots(&membership), third, "b may not know yet that c has left");
        beat(&mut membership, &[peer("b", division(&["a", "b"], 0), true)], false);
        assert_eq!(slots(&membership), 2);
    }

    #[test]
    fn promises_that_were_not_settled_bind_as_well() {
        let mut membership = Membership::alone("a".into());
        // Four slots on `n`: with two gateways each has two, with three one of them has two.
        for gateways in [&["b", "c"][..], &["b"], &["b", "c", "d"]] {
            let peers: Vec<_> = gateways.iter().map(|name| peer(name, division(&["?"], 0), false)).collect();
            beat(&mut membership, &peers, false);
        }
        assert_eq!(slots(&membership), 1, "of the one among four");
        beat(&mut membership, &[], false);
        assert_eq!(slots(&membership), 4);
    }

    #[test]
    fn nothing_new_starts_while_too_many_promises_bind() {
        let mut membership = Membership::alone("a".into());
        let unsettled = |number: usize| peer(&format!("b{number}"), division(&["?"], 0), false);
        for number in 0..20 {
            beat(&mut membership, &[unsettled(number)], false);
            assert_eq!(slots(&membership) == 0, number >= MOST_PROPOSALS);
        }
        beat(&mut membership, &[], false);
        assert_eq!(slots(&membership), 4);
    }

    #[test]
    fn a_starved_gateway_asks_for_the_next_turn_and_not_again_before_it_has_had_it() {
        let both = |turn| division(&["a", "b"], turn);
        let mut membership = Membership::new("a".into());
        beat(&mut membership, &[peer("b", both(0), true)], false);
        assert_eq!(beat(&mut membership, &[peer("b", both(0), true)], true).division, both(0), "just settled");
        membership.observe(&[peer("b", both(0), true)], true, NOW + TURN);
        assert_eq!(membership.stance(true).unwrap().division, both(1));
        membership.observe(&[peer("b", both(0), true)], true, NOW + 9 * TURN);
        assert_eq!(membership.stance(true).unwrap().division, both(1), "it was not settled");
        assert_eq!(beat(&mut membership, &[peer("b", both(7), true)], false).division, both(7), "others are ahead");
    }

    #[test]
    fn who_was_counted_out_uses_nothing_until_the_others_count_it_again() {
        let both = division(&["a", "b"], 0);
        let mut membership = Membership::new("b".into());
        beat(&mut membership, &[peer("a", both.clone(), true)], false);
        assert_eq!(slots(&membership), 2);
        beat(&mut membership, &[peer("a", division(&["a"], 0), true)], false);
        assert_eq!(slots(&membership), 0, "a uses all of them");
        beat(&mut membership, &[peer("a", both.clone(), false)], false);
        assert_eq!(slots(&membership), 0, "a still runs too much");
        beat(&mut membership, &[peer("a", both, true)], false);
        assert_eq!(slots(&membership), 2);
    }

    #[test]
    fn a_gateway_of_an_older_version_is_counted_but_not_waited_for() {
        let mut membership = Membership::new("b".into());
        beat(&mut membership, &[Peer { stance: None, ..peer("a", division(&[], 0), false) }], false);
        assert_eq!((slots(&membership), membership.gateways()), (2, 2));
    }
}
