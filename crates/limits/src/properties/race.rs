//! Do the limits hold when many threads ask at once?
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{at_ms, need};
use crate::*;

/// What eight threads got in half a million attempts, on a clock that advances with every attempt.
struct Race {
    /// Milliseconds and tokens, in the order of admission.
    admitted: Vec<(u64, u64)>,
    most_at_a_time: u64,
    balance: Balance,
    minutes: u64,
}

fn race(limits: Limits) -> Race {
    const THREADS: u64 = 8;
    const ATTEMPTS: u64 = 62_500;
    let budget = Mutex::new(Budget::default());
    let (clock_ms, running, most) = (AtomicU64::new(1000), AtomicU64::new(0), AtomicU64::new(0));
    let admitted: Mutex<Vec<(u64, u64)>> = Mutex::default();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (budget, clock_ms, admitted, running, most) = (&budget, &clock_ms, &admitted, &running, &most);
            scope.spawn(move || {
                for attempt in 0..ATTEMPTS {
                    let need = need(5, Some(1 + (attempt + thread) % 10));
                    let mut locked = budget.lock().unwrap();
                    let now_ms = clock_ms.fetch_add(7, Ordering::SeqCst);
                    let Ok((reservation, allowance)) = locked.admit(&limits, need, at_ms(now_ms)) else { continue };
                    let tokens = 5 + allowance.output.unwrap();
                    admitted.lock().unwrap().push((now_ms, tokens));
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    drop(locked);
                    std::thread::yield_now();
                    let mut locked = budget.lock().unwrap();
                    running.fetch_sub(1, Ordering::SeqCst);
                    locked.settle(reservation, tokens, at_ms(clock_ms.load(Ordering::SeqCst)));
                }
            });
        }
    });
    let end_ms = clock_ms.into_inner();
    Race {
        admitted: admitted.into_inner().unwrap(),
        most_at_a_time: most.into_inner(),
        balance: budget.into_inner().unwrap().balance(limits, at_ms(end_ms)),
        minutes: end_ms / 60_000,
    }
}

/// The most requests and tokens that were admitted in any minute.
fn fullest_minute(admitted: &[(u64, u64)]) -> (usize, u64) {
    let (mut first, mut tokens, mut fullest) = (0, 0, (0, 0));
    for (index, (at, more)) in admitted.iter().enumerate() {
        tokens += more;
        while admitted[first].0 + 60_000 <= *at {
            tokens -= admitted[first].1;
            first += 1;
        }
        fullest = (fullest.0.max(index + 1 - first), fullest.1.max(tokens));
    }
    fullest
}

#[test]
fn no_race_admits_one_too_many_or_leaves_more_than_a_hundredth_unused() {
    let minute = Limits { tokens_per_minute: Some(9_000), ..Limits::default() };
    let busy =
        Limits { requests_per_minute: Some(700), tokens_per_day: Some(100_000), max_concurrency: Some(3), ..minute };

    let free = race(minute);
    let crowded = race(busy);

    for (race, requests) in [(&free, usize::MAX), (&crowded, 700)] {
        let (most_requests, most_tokens) = fullest_minute(&race.admitted);
        assert!(most_requests <= requests, "{most_requests} requests in a minute");
        assert!(most_tokens <= 9_000, "{most_tokens} tokens in a minute");
        let total: u64 = race.admitted.iter().map(|(_, tokens)| tokens).sum();
        let left = (race.balance.running, race.balance.tokens_reserved, race.balance.tokens_used);
        assert_eq!(left, (0, 0, total));
    }
    let total: u64 = free.admitted.iter().map(|(_, tokens)| tokens).sum();
    assert!(total * 100 >= free.minutes * 9_000 * 99, "{total} tokens in {} minutes", free.minutes);
    assert!(crowded.most_at_a_time <= 3, "{} at a time", crowded.most_at_a_time);
    // How much of the day is used depends on the order of the threads, but it is never more than the limit.
    assert!(crowded.balance.tokens_used <= 100_000, "{}", crowded.balance.tokens_used);
}
