//! What holds where names stand for the same weights, and come and go?

use super::{run::*, *};

/// Two of the models have the same weights. Now and then one of them is replaced, or all three are the same.
fn digest_of(model: usize, arrived: u128) -> &'static str {
    match (model, arrived / 8 % 4) {
        (2, 3) => "ab",
        (2, _) => "c",
        (0, 1) => "new",
        (1, 2) => "newer",
        _ => "ab",
    }
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn slots_and_memory_are_counted_by_weights_however_names_come_and_go(
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut run = Run::new();
        run.digest_of = digest_of;
        (0..NODES).for_each(|node| run.step(&Move::List(node, 7)));
        for step in &steps {
            run.step(step);
            run.check_occupancy();
            run.check_conservation();
        }
        for pick in 0..run.arrived as usize {
            let ids: Vec<RequestId> = run.known.keys().copied().collect();
            if let Some(id) = ids.get(pick % ids.len().max(1)) {
                run.hear(Event::Left { id: *id, outcome: Outcome::Completed });
            }
        }
        prop_assert_eq!((run.scheduler.in_flight(), run.scheduler.queued()), (0, 0));
    }

    #[test]
    fn copies_that_are_in_memory_are_never_moved_whichever_name_is_asked_for(
        steps in prop::collection::vec((0..3usize, 0..2usize, 1..40_000u64), 1..200),
    ) {
        let mut run = Run::new();
        run.digest_of = |model, _| ["ab", "ab", "c"][model];
        for node in 0..NODES {
            run.step(&Move::List(node, 7));
            run.memory[node] = BTreeSet::from([0]);
            run.step(&Move::Reside(node));
        }
        for (user, model, patience) in &steps {
            run.step(&Move::Arrive { user: *user, model: *model, patience: 1_000 + patience, prompt: 100 });
            run.step(&Move::Wait(patience / 10));
            run.step(&Move::FirstByte(*user));
            run.step(&Move::Complete(*user));
        }
        let moved = run.log.iter().find(|it| matches!(it, Decision::Load { .. } | Decision::Unload { .. }));
        prop_assert_eq!(moved, None);
    }
}
