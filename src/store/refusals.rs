//! Which refusals get a row of their own? A user's first few in a minute do. The others of that minute share one row for
//! each reason, which counts them.
//!
//! Nobody waits for these rows, so they are kept apart from the queue of rows that answers wait for.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::usage_row::{Reason, UsageRow};

/// Refusals of one user that leave a row of their own in a minute.
const ROWS_A_MINUTE: u32 = 10;
const MINUTE_MS: i64 = 60_000;
/// Rows that may wait to be written; beyond that, refusals are only counted.
const MOST: usize = 1_024;
/// How long rows gather before they are written.
const GATHER: Duration = Duration::from_millis(20);
/// How often to check whether the minute of a shared row is over.
const LOOK: Duration = Duration::from_secs(1);

/// Refusals on their way to the local file. Shared by all requests.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    state: Mutex<RefusalTally>,
    some: Notify,
}

/// The refusals of this minute by user, and the rows that are ready to be written.
#[derive(Debug, Default)]
struct RefusalTally {
    users: HashMap<Arc<str>, RefusalsOfUser>,
    ready: Vec<UsageRow>,
}

#[derive(Debug)]
struct RefusalsOfUser {
    minute: i64,
    own_rows: u32,
    shared: HashMap<Alike, UsageRow>,
}

/// What the refusals of a shared row have in common.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Alike {
    key: Option<Arc<str>>,
    group: Option<Arc<str>>,
    reason: Reason,
    http_status: Option<u16>,
}

impl Refusals {
    /// Counts a refusal. Returns whether it gets a row of its own.
    pub(super) fn take(&self, row: &UsageRow) -> bool {
        let is_own = self.lock().take(row);
        self.some.notify_one();
        is_own
    }

    /// Waits until there may be something to write.
    pub(super) async fn due(self: Arc<Self>) {
        if self.lock().is_counting() {
            let _ = tokio::time::timeout(LOOK, self.some.notified()).await;
        } else {
            self.some.notified().await;
        }
        tokio::time::sleep(GATHER).await;
    }

    /// Takes the rows that no later refusal can change at `now_ms`.
    pub(super) fn complete(&self, now_ms: i64) -> Vec<UsageRow> {
        self.lock().complete(|minute| minute != now_ms.div_euclid(MINUTE_MS))
    }

    /// Takes every row, for when the gateway stops.
    pub(super) fn all(&self) -> Vec<UsageRow> {
        self.lock().complete(|_| true)
    }

    fn lock(&self) -> MutexGuard<'_, RefusalTally> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RefusalTally {
    fn is_counting(&self) -> bool {
        self.users.values().any(|user| !user.shared.is_empty())
    }

    fn take(&mut self, row: &UsageRow) -> bool {
        let minute = row.created_at_ms.div_euclid(MINUTE_MS);
        let user = self.users.entry(row.user.clone()).or_insert_with(|| RefusalsOfUser::new(minute));
        if user.minute != minute {
            let before = std::mem::replace(user, RefusalsOfUser::new(minute));
            self.ready.extend(before.shared.into_values());
        }
        if user.own_rows < ROWS_A_MINUTE && self.ready.len() < MOST {
            user.own_rows += 1;
            self.ready.push(row.clone());
            return true;
        }
        let alike = Alike {
            key: row.key.clone(),
            group: row.group.clone(),
            reason: row.reason.clone(),
            http_status: row.http_status,
        };
        match user.shared.get_mut(&alike) {
            Some(shared) => shared.requests = shared.requests.saturating_add(row.requests),
            None => {
                // A shared row may stand for several models, so it names none.
                user.shared.insert(alike, UsageRow { model: String::new(), ..row.clone() });
            }
        }
        false
    }

    fn complete(&mut self, is_over: impl Fn(i64) -> bool) -> Vec<UsageRow> {
        let mut complete = std::mem::take(&mut self.ready);
        self.users.retain(|_, user| {
            let is_over = is_over(user.minute);
            if is_over {
                complete.extend(user.shared.drain().map(|(_, shared)| shared));
            }
            !is_over
        });
        complete
    }
}

impl RefusalsOfUser {
    fn new(minute: i64) -> Self {
        Self { minute, own_rows: 0, shared: HashMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn refused(user: &str, limit: &'static str, at_ms: i64) -> UsageRow {
        UsageRow {
            request_id: Uuid::now_v7(),
            user: user.into(),
            key: None,
            created_at_ms: at_ms,
            day: 0,
            model: "m".to_owned(),
            endpoint: "/v1/chat/completions".into(),
            node: None,
            stream: false,
            status: "refused".into(),
            prompt_tokens: 0,
            completion_tokens: 0,
            tokens_from: "counted".into(),
            attempts: 0,
            queue_ms: 0,
            time_to_first_token_ms: None,
            duration_ms: 0,
            load_ms: None,
            prefill_ms: None,
            decode_ms: None,
            reason: Reason::new(Some("rate_limit_exceeded"), Some(limit)),
            http_status: Some(429),
            requests: 1,
            group: None,
        }
    }

    fn requests(rows: &[UsageRow]) -> Vec<u64> {
        let mut requests: Vec<u64> = rows.iter().map(|row| row.requests).collect();
        requests.sort_unstable();
        requests
    }

    #[test]
    fn beyond_the_first_ten_of_a_minute_refusals_share_a_row_for_each_reason() {
        let mut tally = RefusalTally::default();
        let own = (0..1_000).filter(|_| tally.take(&refused("ann", "requests_per_minute", 5))).count();
        for _ in 0..7 {
            assert!(!tally.take(&refused("ann", "max_concurrency", 59_999)));
        }
        assert!(tally.take(&refused("ben", "max_concurrency", 5)), "another user has rows of their own");

        assert_eq!(own, 10);
        assert_eq!(requests(&tally.complete(|minute| minute != 0)), [1; 11], "the minute is not over");
        assert_eq!(requests(&tally.complete(|minute| minute != 1)), [7, 990]);
        assert!(tally.users.is_empty() && tally.complete(|_| true).is_empty());
    }

    #[test]
    fn a_new_minute_begins_with_rows_of_their_own_and_loses_none_of_the_last() {
        let mut tally = RefusalTally::default();
        for _ in 0..12 {
            tally.take(&refused("ann", "requests_per_minute", 0));
        }
        assert!(tally.take(&refused("ann", "requests_per_minute", 60_000)));
        let total: u64 = tally.complete(|_| true).iter().map(|row| row.requests).sum();
        assert_eq!(total, 13);
    }

    #[test]
    fn rows_that_nobody_writes_do_not_pile_up() {
        let mut tally = RefusalTally::default();
        for user in 0..2 * MOST {
            tally.take(&refused(&user.to_string(), "requests_per_minute", 0));
        }
        assert_eq!(tally.ready.len(), MOST);
        assert_eq!(requests(&tally.complete(|_| true)).len(), 2 * MOST);
    }
}
