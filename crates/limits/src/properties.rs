//! Do the limits keep their promises in any order and with many threads? Compared with their plain definition.
#![cfg(test)]
mod race;

use std::time::Duration;

use proptest::prelude::*;

use crate::*;

fn at(seconds: u64) -> Moment {
    at_ms(seconds * 1000)
}

fn at_ms(millis: u64) -> Moment {
    Moment { uptime: Duration::from_millis(millis), unix_ms: i64::try_from(millis).unwrap() }
}

fn need(prompt: u64, output: Option<u64>) -> Need {
    Need { prompt, output, default_output: 2048 }
}

fn rpm(limit: u32) -> Limits {
    Limits { requests_per_minute: Some(limit), ..Limits::default() }
}

fn tpm(limit: u64) -> Limits {
    Limits { tokens_per_minute: Some(limit), ..Limits::default() }
}

fn tpd(limit: u64) -> Limits {
    Limits { tokens_per_day: Some(limit), ..Limits::default() }
}

fn at_a_time(limit: u32) -> Limits {
    Limits { max_concurrency: Some(limit), ..Limits::default() }
}

#[test]
fn the_window_slides_and_says_when_it_opens() {
    let mut budget = Budget::default();
    budget.admit(&rpm(2), need(1, None), at(0)).unwrap();
    budget.admit(&rpm(2), need(1, None), at(20)).unwrap();
    let refused = budget.admit(&rpm(2), need(1, None), at(30)).unwrap_err();
    assert_eq!(refused, Exceeded::Requests { limit: 2, retry_after: Duration::from_secs(30) });
    budget.admit(&rpm(2), need(1, None), at(60)).unwrap();
    assert!(budget.admit(&rpm(2), need(1, None), at(79)).is_err());
    assert!(budget.admit(&rpm(2), need(1, None), at(80)).is_ok());
}

#[test]
fn a_lowered_limit_waits_for_enough_admissions_to_leave() {
    let mut budget = Budget::default();
    for second in [0, 10, 20] {
        budget.admit(&rpm(3), need(1, None), at(second)).unwrap();
    }
    let refused = budget.admit(&rpm(1), need(1, None), at(30)).unwrap_err();
    assert_eq!(refused, Exceeded::Requests { limit: 1, retry_after: Duration::from_secs(50) });
}

#[test]
fn zero_refuses_everything() {
    for limits in [rpm(0), tpd(0), tpm(0), at_a_time(0)] {
        assert!(Budget::default().admit(&limits, need(1, None), at(1)).is_err());
    }
}

#[test]
fn without_max_tokens_the_rest_of_the_day_is_the_cap() {
    let mut budget = Budget::default();
    let (first, allowance) = budget.admit(&tpd(3000), need(100, None), at(1)).unwrap();
    assert_eq!(allowance, Allowance { output: Some(2048), is_cap: true });
    let (_, allowance) = budget.admit(&tpd(3000), need(100, None), at(1)).unwrap();
    assert_eq!(allowance.output, Some(3000 - 2148 - 100));
    assert!(matches!(budget.admit(&tpd(3000), need(100, None), at(1)), Err(Exceeded::TokensReserved { left: 0, .. })));
    budget.settle(first, 150, at(2));
    assert!(budget.admit(&tpd(3000), need(100, None), at(2)).is_ok());
}

#[test]
fn an_explicit_max_tokens_that_cannot_fit_today_is_used_up() {
    let mut budget = Budget::default();
    let refused = budget.admit(&tpd(1000), need(10, Some(1000)), at(1)).unwrap_err();
    assert!(matches!(refused, Exceeded::TokensUsedUp { limit: 1000, used: 0, .. }));
}

#[test]
fn midnight_utc_begins_a_new_day_and_old_reservations_take_nothing_from_it() {
    let mut budget = Budget::default();
    let (late, _) = budget.admit(&tpd(100), need(10, Some(90)), at(86_399)).unwrap();
    assert!(budget.admit(&tpd(100), need(1, Some(1)), at_ms(86_399_999)).is_err());
    let (early, _) = budget.admit(&tpd(100), need(10, Some(90)), at(86_400)).unwrap();
    budget.settle(late, 100, at(86_401));
    budget.settle(early, 60, at(86_401));
    assert_eq!(budget.balance(tpd(100), at(86_402)).tokens_left(), Some(40));
}

#[test]
fn the_first_of_a_month_begins_a_new_one_and_old_reservations_take_nothing_from_it() {
    // The last second of February, in 2027 and in the leap year 2028.
    for last_day in [20_877, 21_243] {
        let moment = |seconds: u64| at(last_day * 86_400 + seconds);
        let mut budget = Budget::of(Calendar::Month);
        let (late, _) = budget.admit(&tpd(100), need(10, Some(90)), moment(0)).unwrap();
        let refused = budget.admit(&tpd(100), need(1, Some(1)), moment(86_399)).unwrap_err();
        assert_eq!(refused.limit_name(), "tokens_per_month");
        let (early, _) = budget.admit(&tpd(100), need(10, Some(90)), moment(86_400)).unwrap();
        budget.settle(late, 100, moment(86_401));
        budget.settle(early, 60, moment(86_401));
        assert_eq!(budget.balance(tpd(100), moment(86_402)).tokens_left(), Some(40));
        let refused = budget.admit(&tpd(100), need(41, None), moment(2 * 86_400)).unwrap_err();
        let left_of_march = Duration::from_secs(30 * 86_400);
        let expected =
            Exceeded::TokensUsedUp { per: Calendar::Month, limit: 100, used: 60, retry_after: left_of_march };
        assert_eq!(refused, expected, "the next day is the same month");
    }
}

#[test]
fn a_wall_clock_that_jumps_resets_nothing_but_the_day_that_is_over() {
    let mut budget = Budget::default();
    let both = Limits { requests_per_minute: Some(1), ..tpd(100) };
    let (held, _) = budget.admit(&both, need(10, Some(90)), at(86_400)).unwrap();
    budget.settle(held, 100, at(86_400));
    let back = Moment { uptime: Duration::from_secs(86_500), unix_ms: 1000 };
    assert!(matches!(budget.admit(&both, need(1, Some(1)), back), Err(Exceeded::TokensUsedUp { .. })));
    // A day ahead, yet within the same minute of the monotonic clock.
    let ahead = Moment { uptime: Duration::from_secs(86_401), unix_ms: 3 * 86_400_000 };
    budget.admit(&both, need(1, Some(1)), ahead).unwrap();
    assert!(matches!(budget.admit(&both, need(1, Some(1)), ahead), Err(Exceeded::Requests { .. })));
}

#[test]
fn a_clock_that_ran_ahead_and_is_set_back_locks_nobody_out_and_refunds_nothing() {
    let moment = |uptime: u64, day: i64| Moment { uptime: Duration::from_secs(uptime), unix_ms: day * 86_400_000 };
    let mut budget = Budget::default();
    let (first, _) = budget.admit(&tpd(100), need(10, Some(30)), moment(100, 5)).unwrap();
    budget.settle(first, 40, moment(101, 5));
    // A day ahead, which gets used up.
    let (ahead, _) = budget.admit(&tpd(100), need(10, Some(90)), moment(102, 6)).unwrap();
    assert!(budget.admit(&tpd(100), need(1, Some(1)), moment(103, 6)).is_err());

    // Back again: the day continues where it was, including for requests that end late.
    assert_eq!(budget.balance(tpd(100), moment(104, 5)).tokens_left(), Some(60));
    budget.settle(ahead, 100, moment(105, 5));
    assert_eq!(budget.balance(tpd(100), moment(106, 5)).tokens_left(), Some(60));
    // A thread that read the clock before midnight and arrives late does not go back a day.
    assert_eq!(budget.balance(tpd(100), moment(108, 6)).tokens_left(), Some(0));
    assert_eq!(budget.balance(tpd(100), moment(107, 5)).tokens_left(), Some(0));

    // A day that only the database knows about.
    budget.prepare_day(2, 70);
    assert_eq!(budget.balance(tpd(100), moment(109, 2)).tokens_left(), Some(30));
}

#[test]
fn tokens_of_a_minute_leave_with_their_admission() {
    let mut budget = Budget::default();
    let (first, _) = budget.admit(&tpm(100), need(10, Some(50)), at(0)).unwrap();
    let refused = budget.admit(&tpm(100), need(10, Some(50)), at(10)).unwrap_err();
    // The missing tokens may be released at any moment.
    assert_eq!(
        refused,
        Exceeded::TokensOfMinute { limit: 100, left: 40, reserved: 60, retry_after: Duration::from_secs(2) }
    );
    budget.settle(first, 55, at(20));
    let refused = budget.admit(&tpm(100), need(10, Some(50)), at(20)).unwrap_err();
    assert_eq!(
        refused,
        Exceeded::TokensOfMinute { limit: 100, left: 45, reserved: 0, retry_after: Duration::from_secs(40) }
    );
    assert!(budget.admit(&tpm(100), need(10, Some(50)), at_ms(59_999)).is_err());
    let (second, allowance) = budget.admit(&tpm(100), need(10, None), at(60)).unwrap();
    assert_eq!(allowance, Allowance { output: Some(90), is_cap: true });
    // It ends after its minute is over, and takes nothing from the next one.
    budget.settle(second, 100, at(125));
    assert_eq!(budget.balance(tpm(100), at(125)).minute_tokens_left(), Some(100));
    let refused = budget.admit(&tpm(100), need(60, Some(41)), at(130)).unwrap_err();
    assert_eq!(refused, Exceeded::TooLarge { limit: 100, needed: 101 });
}

#[test]
fn concurrency_counts_from_admission_to_end() {
    let mut budget = Budget::default();
    let (first, allowance) = budget.admit(&at_a_time(2), need(1, None), at(0)).unwrap();
    assert_eq!(allowance, Allowance::default());
    let (second, _) = budget.admit(&at_a_time(2), need(1, None), at(0)).unwrap();
    let refused = budget.admit(&at_a_time(2), need(1, None), at(200)).unwrap_err();
    assert_eq!(refused, Exceeded::Concurrency { limit: 2, retry_after: Duration::from_secs(1) });
    budget.settle(first, 5, at(200));
    budget.cancel(second, at(200));
    assert_eq!(budget.balance(at_a_time(2), at(200)).running, 0);
}

#[test]
fn a_restored_budget_goes_on_where_it_was() {
    let start = Moment { uptime: Duration::from_secs(61), unix_ms: 1_000_000 };
    let seconds = Duration::from_secs;
    let spent = PriorUse {
        tokens_today: 40,
        unsent_today: 0,
        recent: vec![(seconds(30), 7), (seconds(70), 5), (seconds(50), 2)],
    };
    let all = Limits { requests_per_minute: Some(2), tokens_per_minute: Some(10), ..tpd(100) };
    let mut budget = Budget::default();
    budget.restore(&all, spent.clone(), start);
    let balance = budget.balance(all, start);
    assert_eq!(
        (balance.requests_left(), balance.minute_tokens_left(), balance.tokens_left()),
        (Some(0), Some(1), Some(60))
    );
    assert_eq!((balance.requests_reset, balance.minute_reset), (seconds(10), seconds(10)));
    // What is counted only if there is a limit was not counted before.
    let mut budget = Budget::default();
    budget.restore(&Limits::default(), spent, start);
    let balance = budget.balance(all, start);
    assert_eq!((balance.requests_left(), balance.tokens_left()), (Some(2), Some(60)));
}

#[test]
fn the_tighter_of_two_budgets_decides_and_a_refusal_takes_nothing_of_either() {
    let (mut user, mut key) = (Ledger::default(), Ledger::default());
    let (users, keys) = (tpd(1000), Limits { requests_per_minute: Some(1), ..tpd(100) });
    let (groups, mut group) = (tpd(95), Ledger::of(Budget::of(Calendar::Month), 0, at(1)));
    let admit = |user: &mut Ledger, key: &mut Ledger, group: &mut Ledger| {
        Ledger::admit_all(&mut [(&users, user), (&keys, key), (&groups, group)], need(10, None), at(1))
    };
    let (mut held, allowance) = admit(&mut user, &mut key, &mut group).unwrap();
    assert_eq!(allowance.output, Some(85));
    let (place, refused) = admit(&mut user, &mut key, &mut group).unwrap_err();
    assert_eq!((place, refused.limit_name()), (1, "requests_per_minute"));
    assert_eq!(group.balance(groups, at(1)).tokens_reserved, 95, "what one refuses is taken from none");
    key.cancel(held.remove(1), at(1));
    let (place, refused) = admit(&mut user, &mut key, &mut group).unwrap_err();
    assert_eq!((place, refused.limit_name()), (2, "tokens_per_month"));
    group.cancel(held.remove(1), at(1));
    user.cancel(held.remove(0), at(1));
    let (held, _) = Ledger::admit_all(&mut [(&users, &mut user), (&keys, &mut key)], need(10, None), at(1)).unwrap();
    let [of_user, of_key] = <[Reservation; 2]>::try_from(held).unwrap();
    assert_eq!(user.balance(users, at(1)).tokens_reserved, 100);
    user.settle(of_user, 20, at(2));
    key.settle(of_key, 20, at(2));
    let balance = user.balance(users, at(2));
    assert_eq!((balance.running, balance.tokens_reserved, balance.tokens_used), (0, 0, 20));
    let both = balance.headroom().and(key.balance(keys, at(2)).headroom());
    assert_eq!(both.tokens.unwrap().left, 80);
    assert_eq!(both.requests.unwrap(), Remaining { limit: 1, left: 0, reset: Duration::from_secs(59) });
}

/// One admission as the plain definition of the limits sees it.
struct Admitted {
    at_ms: u64,
    reserved: u64,
    used: Option<u64>,
    prompt_and_output: u64,
}

proptest! {
    /// Any interleaving of admissions, ends and cancellations, compared with the plain definition of all limits.
    #[test]
    fn no_interleaving_goes_over(
        steps in proptest::collection::vec((0u8..4, 0u64..20_000, 1u64..60, 0u64..40), 1..300)
    ) {
        let limits = Limits {
            requests_per_minute: Some(5), tokens_per_minute: Some(150), tokens_per_day: Some(2000), max_concurrency: Some(4),
        };
        let (mut budget, mut now) = (Budget::default(), 100_000u64);
        let mut log: Vec<Admitted> = Vec::new();
        let mut held: Vec<(Reservation, usize)> = Vec::new();
        for (kind, wait, prompt, output) in steps {
            now += wait;
            let moment = at_ms(now);
            match kind {
                0 | 1 => {
                    let asked = (output > 0).then_some(output);
                    let smallest = prompt + asked.unwrap_or(1);
                    let tokens = |admitted: &Admitted| admitted.used.unwrap_or(admitted.reserved);
                    let window = |reach: u64| log.iter().filter(move |a| a.at_ms + reach > now);
                    let day: u64 = log.iter().map(tokens).sum();
                    let running = log.iter().filter(|a| a.used.is_none()).count();
                    let others = window(60_000).count() < 5 && running < 4 && day + smallest <= 2000;
                    let fits = |reach| window(reach).map(tokens).sum::<u64>() + smallest <= 150;
                    match budget.admit(&limits, need(prompt, asked), moment) {
                        Ok((reservation, allowance)) => {
                            prop_assert!(others && fits(60_000));
                            let output = allowance.output.unwrap();
                            prop_assert!(window(60_000).map(tokens).sum::<u64>() + prompt + output <= 150);
                            prop_assert!(asked.is_none_or(|asked| asked == output));
                            let reserved = prompt + output;
                            held.push((reservation, log.len()));
                            log.push(Admitted { at_ms: now, reserved, used: None, prompt_and_output: reserved });
                        }
                        // Refused only for a reason, within a slice's tenth of a second.
                        Err(_) => prop_assert!(!others || !fits(60_100)),
                    }
                }
                2 => if let Some((reservation, index)) = held.pop() {
                    let used = output.min(log[index].prompt_and_output);
                    log[index].used = Some(used);
                    budget.settle(reservation, used, moment);
                },
                _ => if let Some((reservation, index)) = held.pop() {
                    log[index].used = Some(0);
                    // It never happened.
                    log[index].at_ms = 0;
                    budget.cancel(reservation, moment);
                },
            }
        }
        for (reservation, index) in held {
            log[index].used = Some(0);
            budget.settle(reservation, 0, at_ms(now));
        }
        let balance = budget.balance(limits, at_ms(now));
        let used: u64 = log.iter().filter_map(|a| a.used).sum();
        prop_assert_eq!((balance.tokens_used, balance.tokens_reserved, balance.running), (used, 0, 0));
    }
}
