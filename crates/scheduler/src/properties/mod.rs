//! Which properties hold under any interleaving of events, and which test holds each?
//!
//! | | property | test |
//! |---|---|---|
//! | P1 | work is conserved | [`work`], after every step of [`random`]`::slots_bounds_and_the_number_of_requests_hold_after_every_step` |
//! | P2 | no more than the slots, and one probe; no more than a share | the same, `::nothing_is_sent_or_loaded_beyond_a_share`, and [`work`]`::learned_slots_reach_the_true_ones_and_never_pass_them_by_more_than_a_probe` |
//! | P3 | fair between backlogged users, by weight | [`fairness`]`::two_backlogged_users_are_served_by_their_weights`, `::work_goes_by_the_weights_over_nodes_and_models`, `::two_backlogged_groups_are_served_by_their_weights_and_then_their_users` |
//! | P4 | nobody starves | [`fairness`]`::whoever_is_accepted_is_sent_or_told_within_the_bound_beside_a_flood_and_failures`, `::a_model_that_is_nowhere_gets_a_busy_node` |
//! | P5 | no thrash | [`random`]`::memory_is_not_thrashed` |
//! | P6 | drain safety | every run of [`run`] and [`small`] |
//! | P7 | one end each, no retry after the first byte | [`random`]`::every_request_ends_once_and_leaves_nothing_behind`, `::what_a_silent_node_had_begun_ends_and_what_it_had_not_goes_on` |
//! | P8 | the scheduler's in-flight lists match the nodes | every run of [`run`], [`fleet`] and [`small`] |
//! | P9 | slower never gets more | [`disuse`]`::a_node_that_becomes_ten_times_slower_gets_no_larger_share` |
//! | P9 | an estimate that is wrong is put right without luck, and a trial costs little | [`disuse`] |
//! | P10 | names, units, idle nodes and groups of one do not matter | [`metamorphic`] |
//! | P11 | same events, same decisions | [`random`]`::a_clone_that_hears_the_same_events_makes_the_same_decisions`, [`metamorphic`]`::the_same_seed_makes_the_same_run` |
//! | P12 | regression gates | `tests/fleet` |
//! | P16 | first tokens come when they were expected | [`forecast`] |
//! | P15 | names of the same weights share slots, loads and memory | [`weights`] |
//! | P14 | a successor takes over every request where it is | [`adoption`] |
//! | P13 | a small case in full | [`small`] |
//!
//! [`run`] throws random events at a scheduler and keeps its own record of them. [`fleet`] is an obedient fleet in virtual
//! time, with real speeds and slots. All seeds are fixed.

mod adoption;
mod disuse;
mod fairness;
mod fleet;
mod forecast;
mod metamorphic;
pub(crate) mod random;
mod run;
mod small;
mod weights;
mod work;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use proptest::{prelude::*, test_runner::RngSeed};

use crate::{estimate::FIRST_GUESS, *};

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        rng_seed: RngSeed::Fixed(7),
        failure_persistence: None,
        cases,
        max_shrink_iters: 300,
        ..ProptestConfig::default()
    }
}
