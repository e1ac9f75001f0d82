//! Which slots may a gateway use if several gateways schedule for the same nodes?
//!
//! A [`Share`] divides the slots of each model on each node: every gateway gets `slots / gateways`, and the left-over
//! slots go to the gateways that a hash ranks first on that node. The first of them also loads and unloads there, so it
//! always has a slot for what it loads. All gateways compute the same division from the same list, so all shares
//! together are exactly the slots that exist.

use std::sync::Arc;

use crate::ids::NodeId;

/// One gateway's part of a division of the fleet's slots.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct Share {
    own: Arc<str>,
    gateways: Arc<[Arc<str>]>,
    turn: u64,
}

impl Share {
    /// The part of the gateway `own` among `gateways`. Each `turn` passes the left-over slots, and the right to load,
    /// on to the next gateway in the ranking.
    pub fn new(own: Arc<str>, gateways: Arc<[Arc<str>]>, turn: u64) -> Self {
        Self { own, gateways, turn }
    }

    /// How many of the slots of each model on a node this gateway gets.
    pub fn slots(&self, node: &str, slots: u32) -> u32 {
        self.portion(node).of(slots)
    }

    /// Whether this gateway is the one that loads and unloads on a node.
    pub fn loads_on(&self, node: &str) -> bool {
        let portion = self.portion(node);
        portion.gateways > 0 && portion.rank == 0
    }

    fn portion(&self, node: &str) -> Portion {
        if !self.gateways.contains(&self.own) {
            return Portion::NOTHING;
        }
        let own = (mix(&self.own, node), &self.own);
        let rank = self.gateways.iter().filter(|gateway| (mix(gateway, node), *gateway) < own).count() as u64;
        let gateways = self.gateways.len() as u64;
        let rank = (rank + self.turn) % gateways.max(1);
        Portion { gateways: gateways as u32, rank: rank as u32 }
    }
}

/// Which of the fleet's slots a gateway may use.
#[derive(Clone, Default, Eq, PartialEq, Debug)]
pub enum Reach {
    /// All of them.
    #[default]
    Whole,
    /// None: running requests go on, but nothing new starts and nothing is loaded.
    Nothing,
    /// In each place as many as it holds when this begins: a request that ends may be followed by another one, but
    /// nothing is loaded. For a time in which another gateway may be using the other slots.
    Held,
    /// Those that every one of these divisions gives it: while one division replaces another, both apply.
    Within(Arc<[Share]>),
}

impl Reach {
    pub(crate) fn portions(&self, node: &str) -> Vec<Portion> {
        match self {
            Self::Whole | Self::Held => Vec::new(),
            Self::Nothing => vec![Portion::NOTHING],
            Self::Within(shares) => {
                let portions = shares.iter().map(|share| share.portion(node));
                portions.filter(|portion| *portion != Portion::WHOLE).collect()
            }
        }
    }

    pub(crate) fn loads_on(&self, node: &str) -> bool {
        match self {
            Self::Whole => true,
            Self::Nothing | Self::Held => false,
            Self::Within(shares) => shares.iter().all(|share| share.loads_on(node)),
        }
    }
}

/// Free slots of one model on one node that a gateway holds under [`Reach::Held`].
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct Spare {
    /// The node.
    pub node: NodeId,
    /// A name of the model.
    pub model: Arc<str>,
    /// How many.
    pub slots: u32,
}

/// Every `gateways`-th slot of one model on one node, beginning with number `rank`.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(crate) struct Portion {
    gateways: u32,
    rank: u32,
}

impl Portion {
    const WHOLE: Self = Self { gateways: 1, rank: 0 };
    const NOTHING: Self = Self { gateways: 0, rank: 0 };

    pub(crate) fn of(self, slots: u32) -> u32 {
        match self.gateways {
            0 => 0,
            gateways => slots / gateways + u32::from(self.rank < slots % gateways),
        }
    }
}

/// FNV-1a with a finalizer, so that names that differ in one letter are ranked independently. Not `std`'s hasher: all
/// gateways must compute the same ranking, and its results may differ between processes.
fn mix(gateway: &str, node: &str) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in [gateway, node] {
        for byte in part.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(count: usize) -> Arc<[Arc<str>]> {
        (0..count).map(|number| format!("gateway-{number}").into()).collect()
    }

    fn shares(count: usize, turn: u64) -> Vec<Share> {
        names(count).iter().map(|own| Share::new(own.clone(), names(count), turn)).collect()
    }

    proptest! {
        #[test]
        fn shares_are_exactly_the_slots_and_differ_by_one_at_most(
            count in 1..6usize, turn in 0..9u64, node in "[a-z]{1,8}", slots in 0..40u32,
        ) {
            let parts: Vec<u32> =
                shares(count, turn).iter().map(|share| share.slots(&node, slots)).collect();
            prop_assert_eq!(parts.iter().sum::<u32>(), slots);
            prop_assert!(parts.iter().max().unwrap() - parts.iter().min().unwrap() <= 1);
            let shares = shares(count, turn);
            let loaders: Vec<_> = shares.iter().filter(|share| share.loads_on(&node)).collect();
            prop_assert_eq!(loaders.len(), 1);
            prop_assert!(slots == 0 || loaders[0].slots(&node, slots) > 0, "it loads what it cannot use");
        }

        #[test]
        fn gateways_that_believe_in_different_numbers_of_slots_stay_within_the_larger(
            node in "[a-z]{1,8}", believed in prop::collection::vec(0..9u32, 3),
        ) {
            let parts = shares(3, 0).into_iter().zip(&believed).map(|(share, slots)| share.slots(&node, *slots));
            prop_assert!(parts.sum::<u32>() <= *believed.iter().max().unwrap());
        }
    }

    #[test]
    fn a_single_slot_comes_to_everybody_in_turn() {
        let holder = |turn| shares(3, turn).iter().position(|share| share.slots("n", 1) == 1).unwrap();
        let mut holders = vec![holder(0), holder(1), holder(2)];
        holders.sort_unstable();
        assert_eq!(holders, [0, 1, 2]);
        assert_eq!(holder(3), holder(0));
    }

    #[test]
    fn many_single_slots_are_spread() {
        let share = &shares(2, 0)[0];
        let own = (0..1000).filter(|number| share.slots(&format!("node-{number}"), 1) == 1).count();
        assert!((400..600).contains(&own), "{own} of 1000");
    }

    #[test]
    fn who_is_not_on_the_list_has_nothing() {
        let share = Share::new("stranger".into(), names(2), 0);
        assert_eq!(share.slots("n", 8), 0);
        assert!(!share.loads_on("n"));
    }
}
