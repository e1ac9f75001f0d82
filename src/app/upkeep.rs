//! What goes on in the background beside the requests: users are kept up to date, and what the scheduler learns is kept.
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Correction, Steps};
use crate::dispatch::Dispatcher;
use crate::store::{Accounts, Changes, Store};
use scheduler::Scheduler;

/// How often what the scheduler learned is kept.
const REMEMBER: Duration = Duration::from_secs(60);
/// How often changes that other gateways made to users and keys are looked for, in case they went unheard.
const REFRESH: Duration = Duration::from_secs(2);
/// How often it is written down when keys were last used, milliseconds.
const LAST_USED_MS: i64 = 60_000;
/// Between two looks at the system's clock.
const CLOCK_LOOK: Duration = Duration::from_secs(10);

/// Takes up what other gateways on the same database change, and writes down when keys were last used.
pub(super) async fn refresh(accounts: Arc<Accounts>, mut changes: Changes, clock: Clock, stop: CancellationToken) {
    let mut written_ms = clock.now().unix_ms;
    loop {
        let is_last = tokio::select! {
            () = stop.cancelled() => true,
            () = changes.wait(REFRESH) => false,
        };
        let now_ms = clock.now().unix_ms;
        if is_last || now_ms - written_ms >= LAST_USED_MS {
            // Times are to the minute, so that the minute before counts too.
            match accounts.write_last_used(written_ms - LAST_USED_MS).await {
                Ok(()) => {
                    written_ms = now_ms;
                    accounts.rest(clock.now());
                }
                Err(error) => tracing::warn!(%error, "when keys were last used could not be written down"),
            }
        }
        if is_last {
            return;
        }
        let refreshed = tokio::select! {
            () = stop.cancelled() => continue,
            refreshed = accounts.refresh(clock.now()) => refreshed,
        };
        if let Err(error) = refreshed {
            tracing::warn!(%error, "users could not be read; the last ones known stay in force");
        }
    }
}

/// Follows the system's clock; before that sets another day, what was used of it is learned.
pub(super) async fn follow_clock(clock: Clock, accounts: Arc<Accounts>, stop: CancellationToken) {
    let mut steps = Steps::default();
    while tokio::time::timeout(CLOCK_LOOK, stop.cancelled()).await.is_err() {
        let now = clock.now();
        match steps.look(clock.behind_ms(), now.uptime) {
            Correction::None => {}
            Correction::Small(by_ms) => clock.correct(by_ms),
            Correction::Noticed(by_ms) => {
                tracing::warn!(
                    by_ms,
                    "the system's clock was set; it is followed once it has stayed so for five minutes"
                );
            }
            Correction::Lasting(by_ms) => {
                let after = limits::Moment { unix_ms: now.unix_ms.saturating_add(by_ms), ..now };
                if after.day() != now.day()
                    && let Err(error) = accounts.prepare_day(after).await
                {
                    tracing::warn!(%error, "the clock is not followed yet: what was used of the day could not be read");
                    continue;
                }
                clock.correct(by_ms);
                let (from, to) = (now.day(), after.day());
                tracing::warn!(
                    by_ms,
                    from,
                    to,
                    "the system's clock is followed; limits count this day (since 1970-01-01)"
                );
            }
        }
    }
}

/// Takes up what the scheduler had learned when it was last kept. Without it everything is learned anew.
pub(super) async fn recall(store: &Store, dispatcher: &Dispatcher, clock: Clock) {
    let kept = match store.learned().await {
        Ok(kept) => kept,
        Err(error) => return tracing::warn!(%error, "what was learned of the nodes could not be read"),
    };
    let Some((learned, saved_at_ms)) = kept else { return };
    let age = u64::try_from(clock.now().unix_ms - saved_at_ms).unwrap_or_default();
    match serde_json::from_str(&learned) {
        Ok(learned) => dispatcher.recall(learned, Duration::from_millis(age)),
        // Of another version.
        Err(error) => tracing::info!(%error, "what was learned of the nodes is not understood any more"),
    }
}

/// Keeps what the scheduler learns, now and then and at the end.
pub(super) async fn remember(store: Store, dispatcher: Arc<Dispatcher>, clock: Clock, stop: CancellationToken) {
    let mut stopped = false;
    while !stopped {
        stopped = tokio::time::timeout(REMEMBER, stop.cancelled()).await.is_ok();
        let learned = dispatcher.read(Scheduler::learned);
        let kept = match serde_json::to_string(&learned) {
            Ok(learned) => store.keep_learned(learned, clock.now().unix_ms).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = kept {
            tracing::warn!(error, "what was learned of the nodes could not be kept");
        }
    }
}
