//! Whose failures count against a node, and whose only against themselves?

use super::*;

#[test]
fn answers_broken_off_for_two_users_take_a_node_out() {
    let mut scheduler = nodes(&[2]);
    answer_each(&mut scheduler, &["a", "b"], at(0));
    for (id, user) in [(0, "a"), (1, "b")] {
        scheduler.handle(arrived(id, user, "m"), at(0));
        scheduler.handle(Event::FirstByte { id: RequestId(id.into()) }, at(0));
    }
    for id in 0..2 {
        scheduler.handle(left(id, Outcome::Failed(Failure::Garbled)), at(1));
    }
    let node = &scheduler.nodes()[0];
    assert_eq!((node.state, node.last_error.as_deref()), (NodeState::Down, Some("sent a broken answer")));
}

#[test]
fn whatever_one_user_sends_the_node_serves_the_others() {
    let mut scheduler = nodes(&[4]);
    for id in 0..100 {
        scheduler.handle(arrived(id, "poisoner", "m"), at(id));
        let failure = [Failure::Crashed, Failure::Garbled, Failure::Reset, Failure::TimedOut][id as usize % 4];
        scheduler.handle(failed(id, failure), at(id));
        // Ends the request, in case it may be tried again.
        scheduler.handle(left(id, Outcome::Cancelled), at(id));
    }
    assert_eq!(scheduler.nodes()[0].state, NodeState::Suspect);
    assert_eq!(scheduler.handle(arrived(200, "b", "m"), at(100)), [dispatch(200, 0, 1)]);
}

#[test]
fn a_user_whose_requests_failed_somewhere_goes_elsewhere_and_others_still_go_there() {
    let mut scheduler = nodes(&[1, 1]);
    for id in 0..2 {
        scheduler.handle(arrived(id, "a", "m"), at(0));
        assert_eq!(scheduler.handle(failed(id, Failure::Crashed), at(0)), [dispatch(id, 1, 2)]);
        scheduler.handle(left(id, Outcome::Cancelled), at(0));
    }
    assert_eq!(scheduler.handle(arrived(2, "a", "m"), at(1)), [dispatch(2, 1, 1)]);
    assert_eq!(scheduler.handle(arrived(3, "b", "m"), at(1)), [dispatch(3, 0, 1)]);
}

#[test]
fn requests_that_fail_on_one_node_and_work_on_another_take_the_first_out() {
    let mut scheduler = nodes(&[1, 1]);
    for id in 0..2 {
        assert_eq!(scheduler.nodes()[0].transitions.open, 0);
        scheduler.handle(arrived(id, "a", "m"), at(0));
        assert_eq!(scheduler.handle(failed(id, Failure::Crashed), at(0)), [dispatch(id, 1, 2)]);
        scheduler.handle(completed(id), at(0));
    }
    let node = &scheduler.nodes()[0];
    assert_eq!((node.state, node.last_error.as_deref()), (NodeState::Down, Some("answered with a server error")));
}

/// A request with a prompt of its own.
fn prompted(id: u64, user: &str, prompt: u64) -> Event {
    let prefixes = [Prefix { digest: prompt, tokens: 10 }].into();
    Event::Arrived(Arrival { prefixes, ..arrival(id, user, "m") })
}

/// Sends one request of each of these users a second, all at a time, with prompts of their own or all the same; each fails
/// wherever it goes. Returns how often nodes went out.
fn poisoned(scheduler: &mut Scheduler, users: &[&str], seconds: u64, is_same: bool) -> u64 {
    let mut id = 1000;
    for second in 0..seconds {
        let ids: Vec<u64> = users.iter().zip(id..).map(|(_, id)| id).collect();
        for (user, id) in users.iter().zip(&ids) {
            scheduler.handle(prompted(*id, user, if is_same { 7 } else { *id }), at(second));
        }
        for _ in 0..3 {
            ids.iter().for_each(|id| drop(scheduler.handle(failed(*id, Failure::Crashed), at(second))));
        }
        ids.iter().for_each(|id| drop(scheduler.handle(left(*id, Outcome::Cancelled), at(second))));
        for node in 0..scheduler.nodes().len() {
            scheduler.handle(Event::Answered { node: NodeId(node) }, at(second));
        }
        id += ids.len() as u64;
    }
    scheduler.nodes().iter().map(|node| node.transitions.open).sum()
}

#[test]
fn accounts_that_send_the_same_poison_together_take_no_node_out() {
    let mut scheduler = nodes(&[8, 8]);
    let users: Vec<String> = (0..20).map(|number| format!("account {number}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    assert_eq!(poisoned(&mut scheduler, &users, 50, true), 0);
}

/// Users who were answered, so that their word counts.
fn answer_each(scheduler: &mut Scheduler, users: &[&str], now: Time) {
    for (user, id) in users.iter().zip(900..) {
        scheduler.handle(prompted(id, user, id), now);
        scheduler.handle(Event::FirstByte { id: RequestId(id.into()) }, now);
        scheduler.handle(completed(id), now);
    }
}

#[test]
fn accounts_that_only_ever_fail_take_no_node_out_however_many_they_are() {
    for nodes_of in [&[8][..], &[8, 8], &[8, 8, 8]] {
        for count in [2, 4, 8] {
            let users: Vec<String> = (0..count).map(|number| format!("account {number}")).collect();
            let users: Vec<&str> = users.iter().map(String::as_str).collect();
            assert_eq!(poisoned(&mut nodes(nodes_of), &users, 50, false), 0, "{count} of {nodes_of:?}");
        }
    }
}

#[test]
fn accounts_that_worked_before_take_a_node_out_once_and_are_not_believed_again() {
    let accounts = ["a", "b", "c", "d", "e", "f"];
    for nodes_of in [&[8][..], &[8, 8]] {
        let mut scheduler = nodes(nodes_of);
        answer_each(&mut scheduler, &accounts, at(0));
        let first = poisoned(&mut scheduler, &accounts, 1, false);
        // They go on, and the node shows again and again that it works.
        let mut last = first;
        for second in 2..60 {
            for node in 0..nodes_of.len() {
                scheduler.handle(Event::Answered { node: NodeId(node) }, at(second));
            }
            answer_each(&mut scheduler, &["ann"], at(second));
            answer_each(&mut scheduler, &accounts, at(second));
            for (user, id) in accounts.iter().zip(5000 + 10 * second..) {
                scheduler.handle(prompted(id, user, id), at(second));
            }
            for id in (5000 + 10 * second..).take(accounts.len()) {
                (0..3).for_each(|_| drop(scheduler.handle(failed(id, Failure::Crashed), at(second))));
                scheduler.handle(left(id, Outcome::Cancelled), at(second));
            }
            last = scheduler.nodes().iter().map(|node| node.transitions.open).sum();
        }
        assert!(first <= nodes_of.len() as u64 && last <= first + 1, "{first}, then {last} of {nodes_of:?}");
    }
}

#[test]
fn a_broken_node_is_out_as_soon_as_two_users_have_met_it_though_others_are_doubted() {
    let users = ["ann", "ben", "cid", "dot"];
    for doubted in [0, 5, 20] {
        let mut scheduler = nodes(&[8, 8]);
        answer_each(&mut scheduler, &users, at(0));
        let others: Vec<String> = (0..doubted).map(|number| format!("account {number}")).collect();
        for is_same in [true, false] {
            poisoned(&mut scheduler, &others.iter().map(String::as_str).collect::<Vec<_>>(), 1, is_same);
        }
        let mut met = Vec::new();
        for (user, id) in users.iter().zip(1..) {
            let decisions = scheduler.handle(prompted(id, user, id), at(1));
            if decisions == [dispatch(id, 0, 1)] {
                met.push(id);
            }
        }
        for id in &met[..2] {
            assert_ne!(scheduler.nodes()[0].state, NodeState::Down, "{doubted}");
            scheduler.handle(failed(*id, Failure::Crashed), at(1));
        }
        assert_eq!(scheduler.nodes()[0].state, NodeState::Down, "{doubted}");
    }
}

/// A thousand requests, each of a user who was never answered before, while the first `broken` of three nodes fail every
/// request. Returns how many of them failed, and how many attempts went to those nodes.
fn newcomers_meet(broken: usize) -> (usize, usize) {
    let mut scheduler = nodes(&[8, 8, 8]);
    let (mut refused, mut lost) = (0, 0);
    for id in 1..=1000 {
        let now = at(id / 10);
        let mut decisions = scheduler.handle(prompted(id, &format!("user {id}"), id), now);
        while let [Decision::Dispatch { node, .. }] = decisions[..] {
            if node.0 >= broken {
                scheduler.handle(Event::FirstByte { id: RequestId(id.into()) }, now);
                scheduler.handle(completed(id), now);
                break;
            }
            lost += 1;
            decisions = scheduler.handle(failed(id, Failure::Crashed), now);
        }
        refused += reasons(&decisions).len();
        for node in 0..3 {
            scheduler.handle(Event::Answered { node: NodeId(node) }, now);
        }
    }
    (refused, lost)
}

#[test]
fn newcomers_whose_requests_work_elsewhere_are_kept_from_broken_nodes() {
    // Four of them find out again every half a minute, if nobody else does.
    let (refused, lost) = newcomers_meet(1);
    assert!(refused == 0 && lost <= 20, "{refused} requests failed, {lost} attempts");
    let (refused, lost) = newcomers_meet(2);
    assert!(refused <= 16 && lost <= 40, "{refused} requests failed, {lost} attempts");
}
