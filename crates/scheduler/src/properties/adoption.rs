//! What another scheduler takes over is exactly what was there, and it breaks no bound.

use super::{run::*, *};

fn reported(run: &Run, id: RequestId, now: Time) -> Adopted {
    let known = &run.known[&id];
    let request = run.scheduler.requests.get(&id).unwrap();
    let arrival = Arrival {
        id,
        user: USERS[known.user].into(),
        weight: 1.0 + known.user as f64,
        membership: None,
        model: MODELS[known.model].into(),
        prompt_tokens: request.prompt as u64,
        max_output: None,
        known_output: None,
        prefixes: Arc::default(),
        route: Default::default(),
        is_stream: request.is_stream,
        deadline: known.deadline,
    };
    let began_ago = known.has_first_byte.then_some(Duration::from_millis(1));
    let ongoing = known.node.map(|node| Ongoing { node: NodeId(node), sent_ago: at_most(now), began_ago, tokens: 1 });
    Adopted { arrival, waited: now.saturating_sub(request.arrived), attempts: request.attempts, ongoing }
}

fn at_most(now: Time) -> Duration {
    now.min(Duration::from_secs(5))
}

/// A scheduler with the same nodes and nothing to do.
fn successor(run: &Run) -> Run {
    let mut successor = Run::new();
    (successor.now, successor.arrived) = (run.now, run.arrived);
    for node in 0..NODES {
        successor.memory[node].clone_from(&run.memory[node]);
        successor.step(&Move::Reside(node));
    }
    successor
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn a_successor_takes_over_every_request_where_it_is(
        before in prop::collection::vec(step(), 20..200),
        after in prop::collection::vec(step(), 1..60),
    ) {
        let mut run = Run::new();
        // Its nodes stay as they are configured, as another gateway's are.
        let is_alike = |step: &&Move| !matches!(step, Move::Reconfigure(_) | Move::List(..));
        before.iter().filter(is_alike).for_each(|step| run.step(step));
        let mut successor = successor(&run);
        successor.hear(Event::Shared { reach: Reach::Held });
        let ids: Vec<RequestId> = run.known.keys().copied().collect();
        let mut running: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        for id in ids {
            let adopted = reported(&run, id, run.now);
            let known = &run.known[&id];
            if let Some(node) = known.node {
                *running.entry((node, known.model)).or_default() += 1;
            }
            let (attempts, ongoing) = (adopted.attempts, adopted.ongoing);
            successor.known.insert(id, known.taken_over(attempts));
            let decisions = successor.scheduler.handle(Event::Adopted(Box::new(adopted)), run.now);
            // Only a request that waits, and that no node could serve, may get an answer.
            for decision in &decisions {
                prop_assert!(ongoing.is_none() && matches!(decision, Decision::Refuse { .. }), "{decision:?}");
                successor.account(decision);
            }
        }
        let waits = |known: &Known| known.node.is_none();
        prop_assert_eq!(successor.scheduler.queued(), successor.known.values().filter(|known| waits(known)).count());
        for ((node, model), count) in running {
            prop_assert_eq!(successor.running(node, model).len(), count);
        }
        successor.check_occupancy();
        successor.hear(Event::Shared { reach: Reach::Whole });
        for step in after.iter().filter(is_alike) {
            successor.step(step);
            successor.check_occupancy();
        }
    }
}
