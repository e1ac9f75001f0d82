//! When does the circuit breaker open and close?

use std::sync::Arc;

use super::*;
use crate::accusations::Standing;

const ID: RequestId = RequestId(1);
const ANN: &str = "ann";
const BEN: &str = "ben";

fn at(seconds: u64) -> Time {
    Duration::from_secs(seconds)
}

/// Of a witness whose prompt was not digested.
fn by(user: &Arc<str>) -> Accusation<'_> {
    Accusation { user, prompt: None, standing: Standing::Witness }
}

fn closed() -> Breaker {
    let mut breaker = Breaker::new();
    breaker.answered(at(0));
    breaker
}

fn half_open() -> Breaker {
    let mut breaker = closed();
    let epoch = breaker.dispatched(ID);
    breaker.unreachable(epoch, at(0));
    breaker.answered(at(1));
    breaker
}

#[test]
fn a_node_never_heard_of_is_down_until_it_answers() {
    let mut breaker = Breaker::new();
    assert_eq!(breaker.state(), NodeState::Down);
    breaker.silent(at(0));
    breaker.silent(at(1));
    breaker.answered(at(2));
    assert_eq!(breaker.state(), NodeState::Up);
}

#[test]
fn one_refused_connection_opens_it() {
    let mut breaker = closed();
    let epoch = breaker.dispatched(ID);
    breaker.unreachable(epoch, at(5));
    assert_eq!(breaker.state(), NodeState::Down);
    assert_eq!(breaker.reopens_at(), Some(at(6)));
}

#[test]
fn the_second_failure_in_a_row_opens_it() {
    let mut breaker = closed();
    let epoch = breaker.dispatched(ID);
    breaker.failed(epoch, at(0));
    assert_eq!(breaker.state(), NodeState::Suspect);
    breaker.succeeded(epoch);
    assert_eq!(breaker.state(), NodeState::Up);
    breaker.failed(epoch, at(1));
    breaker.silent(at(2));
    assert_eq!(breaker.state(), NodeState::Down);
}

#[test]
fn an_answered_probe_does_not_hide_failing_requests() {
    let mut breaker = closed();
    let epoch = breaker.dispatched(ID);
    breaker.failed(epoch, at(0));
    breaker.answered(at(1));
    breaker.failed(epoch, at(2));
    assert_eq!(breaker.state(), NodeState::Down);
}

#[test]
fn first_bytes_do_not_hide_streams_that_break() {
    let mut breaker = closed();
    let epoch = breaker.dispatched(ID);
    for (second, user) in [(1, ANN), (2, BEN)] {
        assert!(breaker.is_live());
        breaker.started(epoch);
        breaker.broke_off(by(&user.into()), epoch, at(second));
    }
    assert_eq!(breaker.reopens_at(), Some(at(3)));
    breaker.answered(at(3));
    let epoch = breaker.dispatched(ID);
    breaker.broke_off(by(&ANN.into()), epoch, at(3));
    assert!(breaker.is_live(), "broken off before, but for one user alone since");
    breaker.broke_off(by(&BEN.into()), epoch, at(3));
    assert_eq!(breaker.reopens_at(), Some(at(5)), "twice as long");
    breaker.answered(at(5));
    let epoch = breaker.dispatched(ID);
    breaker.broke_off(by(&ANN.into()), epoch, at(6));
    breaker.succeeded(epoch);
    breaker.broke_off(by(&BEN.into()), epoch, at(6));
    assert!(breaker.is_live(), "a whole answer takes everything back");
}

#[test]
fn an_answered_probe_takes_back_a_silent_one() {
    let mut breaker = closed();
    for second in 0..10 {
        breaker.silent(at(second));
        breaker.answered(at(second));
    }
    assert_eq!(breaker.state(), NodeState::Up);
}

#[test]
fn an_open_breaker_waits_for_its_time_and_for_a_probe() {
    let mut breaker = closed();
    breaker.silent(at(0));
    breaker.silent(at(0));
    breaker.answered(Duration::from_millis(999));
    assert!(!breaker.is_live());
    breaker.answered(at(1));
    assert!(breaker.admits());
    assert_eq!(breaker.state(), NodeState::Suspect);
}

#[test]
fn a_half_open_breaker_lets_one_request_through_at_a_time() {
    let mut breaker = half_open();
    let epoch = breaker.dispatched(ID);
    assert!(breaker.is_live() && !breaker.admits());
    breaker.released(RequestId(2));
    assert!(!breaker.admits());
    breaker.released(ID);
    assert!(breaker.admits());
    breaker.succeeded(epoch);
    assert_eq!(breaker.state(), NodeState::Up);
    assert_eq!(breaker.transitions(), Transitions { closed: 1, open: 1, half_open: 1 });
}

#[test]
fn a_node_on_trial_that_nobody_needs_is_as_good_as_its_probes_after_ten_seconds() {
    let mut breaker = half_open();
    breaker.answered(at(10));
    assert_eq!(breaker.state(), NodeState::Suspect);
    breaker.answered(at(11));
    assert_eq!(breaker.state(), NodeState::Up);
    let mut breaker = half_open();
    breaker.dispatched(ID);
    breaker.answered(at(11));
    assert_eq!(breaker.state(), NodeState::Suspect, "its trial tells more");
}

/// Out since second 0 because it produced nothing, with one opening.
fn mute() -> Breaker {
    let mut breaker = closed();
    breaker.fell_silent(at(0));
    breaker
}

#[test]
fn a_node_that_fell_silent_is_tried_by_a_canary_and_by_no_request_meanwhile() {
    let mut breaker = mute();
    assert!(!breaker.is_canary_due(at(0)), "it is to rest first");
    breaker.begin_canary(at(1));
    assert!(breaker.is_live() && !breaker.admits() && !breaker.is_canary_due(at(1)));
    breaker.answered(at(12));
    assert!(!breaker.admits(), "probes show nothing");
    breaker.canary_ended(CanaryVerdict::Answered, at(12));
    assert_eq!((breaker.state(), breaker.admits()), (NodeState::Up, true));
    assert_eq!(breaker.transitions(), Transitions { closed: 1, open: 1, half_open: 1 });
}

#[test]
fn each_failed_canary_doubles_the_time_out_until_a_user_has_a_complete_answer() {
    let mut breaker = mute();
    let mut now = at(1);
    for expected in [2, 4, 8, 16, 30, 30] {
        breaker.begin_canary(now);
        breaker.canary_ended(CanaryVerdict::Failed, now);
        assert_eq!(breaker.reopens_at(), Some(now + at(expected)));
        now += at(expected);
    }
    breaker.begin_canary(now);
    breaker.canary_ended(CanaryVerdict::Answered, now);
    breaker.fell_silent(now);
    assert_eq!(breaker.reopens_at(), Some(now + at(30)), "one token does not show that it is well");
    breaker.begin_canary(now + at(30));
    breaker.canary_ended(CanaryVerdict::Answered, now + at(30));
    let epoch = breaker.dispatched(ID);
    breaker.succeeded(epoch);
    breaker.fell_silent(now + at(31));
    assert_eq!(breaker.reopens_at(), Some(now + at(32)));
}

#[test]
fn a_canary_that_shows_nothing_or_is_lost_leaves_the_trial_to_a_request() {
    let mut breaker = mute();
    breaker.begin_canary(at(1));
    breaker.canary_ended(CanaryVerdict::Inconclusive, at(2));
    assert!(breaker.admits() && breaker.state() == NodeState::Suspect);
    let mut breaker = mute();
    breaker.begin_canary(at(1));
    breaker.answered(at(30));
    assert!(!breaker.admits());
    breaker.answered(at(31));
    assert!(breaker.admits());
}

#[test]
fn a_canary_that_the_breaker_overtook_says_nothing() {
    for verdict in [CanaryVerdict::Answered, CanaryVerdict::Failed, CanaryVerdict::Inconclusive] {
        let mut breaker = mute();
        breaker.begin_canary(at(1));
        breaker.silent(at(2));
        breaker.canary_ended(verdict, at(3));
        assert_eq!(breaker.reopens_at(), Some(at(4)), "{verdict:?}");
    }
}

#[test]
fn a_node_that_went_out_for_another_reason_gets_no_canary() {
    let mut breaker = closed();
    breaker.take_out(at(0));
    assert!(!breaker.is_canary_due(at(60)));
    let mut breaker = mute();
    breaker.answered(at(1));
    let epoch = breaker.dispatched(ID);
    breaker.started(epoch);
    breaker.take_out(at(2));
    assert!(!breaker.is_canary_due(at(60)), "it has produced something since");
}

#[test]
fn a_failed_trial_doubles_the_time_out_up_to_thirty_seconds() {
    let mut breaker = half_open();
    let mut now = at(1);
    for expected in [2, 4, 8, 16, 30, 30] {
        let epoch = breaker.dispatched(ID);
        breaker.failed(epoch, now);
        assert_eq!(breaker.reopens_at(), Some(now + at(expected)));
        now += at(expected);
        breaker.answered(now);
    }
    let epoch = breaker.dispatched(ID);
    breaker.succeeded(epoch);
    breaker.unreachable(epoch, now);
    assert_eq!(breaker.reopens_at(), Some(now + at(1)));
}

#[test]
fn the_requests_a_dying_node_takes_along_count_once() {
    let mut breaker = closed();
    let epoch = breaker.dispatched(ID);
    breaker.unreachable(epoch, at(0));
    breaker.unreachable(epoch, at(0));
    breaker.failed(epoch, at(0));
    assert_eq!(breaker.reopens_at(), Some(at(1)));
    breaker.answered(at(1));
    breaker.failed(epoch, at(1));
    assert!(breaker.is_live());
}

#[test]
fn an_old_stream_that_ends_well_does_not_vouch_for_the_node() {
    let mut breaker = closed();
    let old = breaker.dispatched(ID);
    breaker.silent(at(0));
    breaker.silent(at(0));
    breaker.succeeded(old);
    assert_eq!(breaker.state(), NodeState::Down);
    breaker.answered(at(1));
    breaker.succeeded(old);
    assert_eq!(breaker.state(), NodeState::Suspect);
}

#[test]
fn one_users_failures_alone_do_not_open_it_and_a_second_users_do() {
    let mut breaker = closed();
    let epoch = breaker.dispatched(ID);
    for second in 0..100 {
        breaker.accused(by(&ANN.into()), epoch, at(second));
    }
    assert_eq!(breaker.state(), NodeState::Suspect);
    breaker.started(epoch);
    assert_eq!(breaker.state(), NodeState::Up);
    breaker.accused(by(&ANN.into()), epoch, at(100));
    breaker.accused(by(&BEN.into()), epoch, at(101));
    assert_eq!(breaker.state(), NodeState::Down);
}

#[test]
fn a_user_whose_requests_failed_twice_in_a_row_goes_elsewhere_for_a_while_and_others_do_not() {
    let mut breaker = closed();
    let epoch = breaker.dispatched(ID);
    breaker.accused(by(&ANN.into()), epoch, at(0));
    assert!(!breaker.is_avoided_by(ANN, false, at(0)));
    breaker.accused(by(&ANN.into()), epoch, at(1));
    assert!(breaker.is_avoided_by(ANN, false, at(30)) && !breaker.is_avoided_by(BEN, false, at(1)));
    assert!(!breaker.is_avoided_by(ANN, false, at(31)));
    breaker.accused(by(&ANN.into()), epoch, at(40));
    assert!(breaker.is_avoided_by(ANN, false, at(41)));
    breaker.started(epoch);
    assert!(!breaker.is_avoided_by(ANN, false, at(41)));
}

#[test]
fn the_same_prompt_of_many_users_is_one_piece_of_evidence() {
    let mut breaker = closed();
    let epoch = breaker.dispatched(ID);
    for number in 0..100 {
        let user = format!("{number}").into();
        breaker.accused(Accusation { prompt: Some(7), ..by(&user) }, epoch, at(number));
        breaker.broke_off(Accusation { prompt: Some(7), ..by(&user) }, epoch, at(number));
    }
    assert_eq!(breaker.state(), NodeState::Suspect);
    breaker.accused(Accusation { prompt: Some(8), ..by(&BEN.into()) }, epoch, at(100));
    assert_eq!(breaker.state(), NodeState::Down);
}

#[test]
fn users_whose_requests_fail_everywhere_convict_it_only_as_a_crowd() {
    let mut breaker = closed();
    let epoch = breaker.dispatched(ID);
    breaker.accused(by(&ANN.into()), epoch, at(0));
    breaker.doubt(ANN);
    for (number, user) in ["b", "c", "b", "c", "d"].into_iter().enumerate() {
        assert_eq!(breaker.state(), NodeState::Suspect, "{number}");
        breaker.silent(at(0));
        breaker.answered(at(0));
        breaker.accused(Accusation { standing: Standing::Doubted, ..by(&user.into()) }, epoch, at(0));
    }
    assert_eq!(breaker.state(), NodeState::Down);
}

#[test]
fn strangers_never_convict_it_and_never_hide_those_who_do() {
    let mut breaker = closed();
    let epoch = breaker.dispatched(ID);
    for number in 0..100 {
        let stranger = format!("{number}").into();
        let accusation = Accusation { standing: Standing::Stranger, ..by(&stranger) };
        breaker.accused(accusation, epoch, at(0));
        breaker.broke_off(accusation, epoch, at(0));
        assert_eq!(breaker.state(), NodeState::Suspect, "{number}");
        assert_eq!(breaker.is_avoided_by("another", true, at(0)), number >= 3, "{number}");
        assert!(!breaker.is_avoided_by(BEN, false, at(0)));
    }
    assert!(!breaker.is_avoided_by("another", true, at(30)), "strangers try it again");
    breaker.accused(by(&BEN.into()), epoch, at(1));
    assert_eq!(breaker.state(), NodeState::Suspect);
    breaker.accused(by(&ANN.into()), epoch, at(1));
    assert_eq!(breaker.state(), NodeState::Down);
}

#[test]
fn requests_that_work_elsewhere_convict_it() {
    let mut breaker = closed();
    let epoch = breaker.dispatched(ID);
    for second in 0..2 {
        assert!(breaker.is_live());
        breaker.accused(by(&ANN.into()), epoch, at(second));
        breaker.convicted(ANN, Failure::Crashed, epoch, at(second));
    }
    assert_eq!(breaker.state(), NodeState::Down);
    let mut breaker = closed();
    let epoch = breaker.dispatched(ID);
    breaker.accused(by(&ANN.into()), epoch, at(0));
    breaker.convicted(ANN, Failure::Stuck, epoch, at(1));
    assert_eq!(breaker.state(), NodeState::Down, "once is enough where it was stuck");
}

#[test]
fn on_trial_one_user_alone_does_not_keep_it_out() {
    let mut breaker = half_open();
    let epoch = breaker.dispatched(ID);
    breaker.accused(by(&ANN.into()), epoch, at(1));
    breaker.released(ID);
    assert!(breaker.admits());
    let epoch = breaker.dispatched(ID);
    breaker.accused(by(&BEN.into()), epoch, at(2));
    assert_eq!(breaker.state(), NodeState::Down);
}

#[test]
fn answers_that_broke_off_as_it_went_away_do_not_count_once_it_is_back() {
    let gone: [fn(&mut Breaker, Epoch); 2] =
        [|breaker, epoch| breaker.unreachable(epoch, at(0)), |breaker, _| (0..2).for_each(|_| breaker.silent(at(0)))];
    for goes in gone {
        let mut breaker = closed();
        let epoch = breaker.dispatched(ID);
        (0..3).for_each(|_| breaker.broke_off(by(&ANN.into()), epoch, at(0)));
        assert!(breaker.is_avoided_by(ANN, false, at(0)));

        goes(&mut breaker, epoch);
        breaker.answered(at(1));

        assert_eq!(breaker.state(), NodeState::Suspect, "it is on trial");
        assert!(!breaker.is_avoided_by(ANN, false, at(1)), "and anybody's request may be the trial");
    }
}
