//! Do users who always have something waiting get work by their weights (P3)?

use super::{
    dice::Dice,
    fleet::{Ask, Fleet, Setup},
    run::*,
    *,
};

/// Seconds that a node of 100 tokens a second works on such a request of a 5 GB model.
fn cost(prompt: u64, output: u64) -> f64 {
    (prompt as f64 / 25.0 + output as f64) / 100.0
}

#[test]
fn work_goes_by_the_weights_over_nodes_and_models() {
    const WEIGHTS: [f64; 4] = [0.5, 1.0, 2.0, 4.0];
    for seed in 1..=4 {
        let setups = [Setup::new(20, 3, &[0, 1]), Setup::new(9, 2, &[0, 1]), Setup::new(14, 1, &[1])];
        let mut fleet = Fleet::new(QueueLimits::default(), &setups, &[0, 1, 2], 2);
        let mut dice = Dice::new(seed);
        for _ in 0..3000 {
            for (user, weight) in WEIGHTS.into_iter().enumerate() {
                while fleet.waiting_of(user) < 12 {
                    let (prompt, output) = (50 + dice.below(1000), 10 + dice.below(190));
                    fleet.ask(Ask { user, weight, model: dice.below(2) as usize, prompt, output });
                }
            }
            fleet.step();
        }
        // Whoever came first had the whole fleet for a moment. That counts, as it was not settled when the others came.
        let mut shares = [0.0; 4];
        for asked in fleet.asked.values().filter(|asked| asked.sent_at.is_some()) {
            shares[asked.ask.user] += cost(asked.ask.prompt, asked.ask.output) / WEIGHTS[asked.ask.user];
        }
        let (least, most) =
            shares[1..].iter().fold((f64::MAX, 0.0_f64), |(a, b), share| (a.min(*share), b.max(*share)));
        let dearest = cost(1050, 200) / WEIGHTS[0];
        assert!(most - least <= 2.0 * dearest, "{shares:?}, seed {seed}");
        // A part of its head start remains: the part that was not settled when the others came.
        assert!(shares[0] - least <= 4.0 * dearest && most - shares[0] <= 2.0 * dearest, "{shares:?}, seed {seed}");
        assert!(least > 10.0 * dearest, "too little was done to tell: {shares:?}");
    }
}

/// A user who always has something waiting.
struct Backlogged {
    weight: f64,
    membership: Option<Membership>,
}

fn cost_of(id: u64, prompts: &[(u64, u64)]) -> f64 {
    let (prompt, output) = prompts[(id % 1000) as usize % prompts.len()];
    cost(prompt, output)
}

/// Each user has 400 requests waiting at a node of three slots; one that runs ends at each of `ends`, less than `longest`
/// seconds after the one before. Returns the work that each user was given until each of them.
fn served(users: &[Backlogged], (ends, longest): (&[usize], u64), prompts: &[(u64, u64)]) -> Vec<Vec<f64>> {
    let settings = QueueLimits { max_queued: 10_000, max_queued_per_user: 10_000 };
    let spec = NodeSpec { name: "gpu".into(), slots: Some(3), vram_bytes: None };
    let mut scheduler = Scheduler::new(settings, vec![spec]);
    let node = NodeId(0);
    scheduler.handle(Event::Answered { node }, Duration::ZERO);
    let model = Model { size_bytes: 5_000_000_000, ..listing(0) };
    scheduler.handle(Event::Listed { node, models: vec![model].into() }, Duration::ZERO);
    let loaded = vec![Loaded { name: LISTED[0].into(), vram_bytes: 5_000_000_000, context_length: None }];
    scheduler.handle(Event::Resident { node, loaded }, Duration::ZERO);
    let mut running = BTreeSet::new();
    let mut given = vec![0.0; users.len()];
    let mut hear = |decisions: Vec<Decision>, running: &mut BTreeSet<u64>| {
        for decision in decisions {
            let Decision::Dispatch { id: RequestId(id), .. } = decision else { continue };
            let id = id as u64;
            running.insert(id);
            given[id as usize / 1000] += cost_of(id, prompts);
        }
        given.clone()
    };
    for (user, Backlogged { weight, membership }) in users.iter().enumerate() {
        for index in 0..400 {
            let (prompt_tokens, output) = prompts[index % prompts.len()];
            let decisions = scheduler.handle(
                Event::Arrived(Arrival {
                    id: RequestId((user * 1000 + index) as u128),
                    user: USERS[user].into(),
                    weight: *weight,
                    membership: membership.clone(),
                    model: MODELS[0].into(),
                    prompt_tokens,
                    max_output: Some(output),
                    known_output: None,
                    prefixes: Arc::default(),
                    route: Default::default(),
                    is_stream: true,
                    deadline: Duration::from_secs(1_000_000),
                }),
                Duration::ZERO,
            );
            hear(decisions, &mut running);
        }
    }
    let mut now = Duration::ZERO;
    let mut history = Vec::new();
    for end in ends {
        let Some(id) = running.iter().nth(end % running.len()).copied() else { break };
        running.remove(&id);
        now += Duration::from_secs(*end as u64 % longest);
        let output = prompts[(id % 1000) as usize % prompts.len()].1;
        scheduler.handle(Event::Progress { id: RequestId(id.into()), tokens: output }, now);
        let decisions = scheduler.handle(Event::Left { id: RequestId(id.into()), outcome: Outcome::Completed }, now);
        history.push(hear(decisions, &mut running));
    }
    history
}

/// By how much the lead of one over the other changed at most, between any two moments.
fn widest(history: &[Vec<f64>], lead: impl Fn(&[f64]) -> f64) -> f64 {
    let leads = history.iter().map(|given| lead(given));
    let (least, most) = leads.fold((f64::MAX, f64::MIN), |(least, most), lead| (least.min(lead), most.max(lead)));
    (most - least).max(0.0)
}

/// The dearest request, for each of the three slots, at its beginning and at its end.
fn slack(prompts: &[(u64, u64)]) -> f64 {
    let dearest = (0..20).map(|id| cost_of(id, prompts)).fold(0.0, f64::max);
    2.0 * dearest * 3.0 + 1e-9
}

proptest! {
    #![proptest_config(config(100))]

    /// Take two users who always have something waiting. Over any period, neither gets more work done than the other by
    /// more than twice the dearest request.
    #[test]
    fn two_backlogged_users_are_served_by_their_weights(
        ends in prop::collection::vec(any::<usize>(), 1..300),
        prompts in prop::collection::vec((1..8000u64, 1..1000u64), 5..20),
        weight in 1..4u32,
    ) {
        let weight = f64::from(weight);
        let users = [1.0, weight].map(|weight| Backlogged { weight, membership: None });
        let widest = widest(&served(&users, (&ends, 30), &prompts), |given| given[0] - given[1] / weight);
        prop_assert!(widest <= slack(&prompts), "the lead moved by {widest}");
    }

    /// The same for two groups, one of which has two users: the groups share by their weights, and those two share what
    /// their group gets by theirs.
    #[test]
    fn two_backlogged_groups_are_served_by_their_weights_and_then_their_users(
        ends in prop::collection::vec(any::<usize>(), 1..300),
        prompts in prop::collection::vec((1..8000u64, 1..1000u64), 5..20),
        of_group in 1..4u32,
        of_user in 1..4u32,
        is_alone in any::<bool>(),
    ) {
        let (of_group, of_user) = (f64::from(of_group), f64::from(of_user));
        let member = |weight, group: &str, of_group| {
            Backlogged { weight, membership: Some(Membership { group: group.into(), weight: of_group }) }
        };
        // A user without a group competes with groups as one of them.
        let other = if is_alone { Backlogged { weight: of_group, membership: None } } else { member(1.0, "b", of_group) };
        // Ends come so often that the right to go first after a minute decides little.
        let users = [member(1.0, "a", 1.0), member(of_user, "a", 1.0), other];
        let history = served(&users, (&ends, 10), &prompts);
        let between_groups = widest(&history, |given| given[0] + given[1] - given[2] / of_group);
        prop_assert!(between_groups <= slack(&prompts), "the group's lead moved by {between_groups}");
        let within_group = widest(&history, |given| given[0] - given[1] / of_user);
        prop_assert!(within_group <= slack(&prompts), "the user's lead moved by {within_group}");
    }
}
