//! What happens in the background beside the requests? Users are kept up to date, and what the scheduler learns is
//! saved.
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Correction, Steps};
use crate::dispatch::Dispatcher;
use crate::store::{Accounts, Changes, Store};
use scheduler::Scheduler;

/// How often what the scheduler learned is saved.
const REMEMBER: Duration = Duration::from_secs(60);
/// How often to look for changes that other gateways made to users and keys, in case a notification was missed.
const REFRESH: Duration = Duration::from_secs(2);
/// How often the last uses of keys are written, in milliseconds.
const LAST_USED_MS: i64 = 60_000;
/// The time between two looks at the file with the password of the database.
const PASSWORD_LOOK: Duration = Duration::from_secs(2);
/// The time between two looks at the system's clock.
const CLOCK_LOOK: Duration = Duration::from_secs(10);

/// Applies what other gateways on the same database change, and writes when keys were last used.
pub(super) async fn refresh(accounts: Arc<Accounts>, mut changes: Changes, clock: Clock, stop: CancellationToken) {
    let mut written_ms = clock.now().unix_ms;
    loop {
        let is_last = tokio::select! {
            () = stop.cancelled() => true,
            () = changes.wait(REFRESH) => false,
        };
        let now_ms = clock.now().unix_ms;
        if is_last || now_ms - written_ms >= LAST_USED_MS {
            // Times are rounded to the minute, so the minute before must be included.
            match accounts.write_last_used(written_ms - LAST_USED_MS).await {
                Ok(()) => {
                    written_ms = now_ms;
                    accounts.rest(clock.now());
                }
                Err(error) => tracing::warn!(%error, "the last uses of keys could not be written"),
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
            tracing::warn!(%error, "users could not be read again; the known ones stay in force");
        }
    }
}

/// Keeps the copy of users and keys with which the gateway starts while the database is away.
pub(super) async fn copy(accounts: Arc<Accounts>, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = accounts.keep_copied() => {}
    }
}

/// Takes up a new password of the database soon after its file has changed, so that a rotation interrupts nothing for long.
pub(super) async fn follow_password(store: Store, stop: CancellationToken) {
    let mut was_read = true;
    while store.has_password_file() && tokio::time::timeout(PASSWORD_LOOK, stop.cancelled()).await.is_err() {
        let renewed = store.renew_password().await;
        match &renewed {
            Ok(true) => tracing::info!("the password of the database has changed: new connections use the new one"),
            Ok(false) => {}
            // Said once, not every two seconds.
            Err(error) if was_read => tracing::warn!(%error, "the password of the database could not be read again"),
            Err(_) => {}
        }
        was_read = renewed.is_ok();
    }
}

/// Follows the system's clock. Before that changes the day, reads what was used on the new day.
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
                    "the system's clock was changed; it is followed once the change has lasted for five minutes"
                );
            }
            Correction::Lasting(by_ms) => {
                let after = limits::Moment { unix_ms: now.unix_ms.saturating_add(by_ms), ..now };
                // Without the usage of that day, everybody would begin it with nothing used.
                if after.day() != now.day()
                    && let Err(error) = accounts.prepare_day(after).await
                {
                    tracing::warn!(%error, "the clock is not followed yet: the usage of the new day could not be read");
                    continue;
                }
                clock.correct(by_ms);
                let (from, to) = (now.day(), after.day());
                tracing::warn!(
                    by_ms,
                    from,
                    to,
                    "the system's clock is followed; limits now count for this day (days since 1970-01-01)"
                );
            }
        }
    }
}

/// Recalls what the scheduler had learned when it was last saved. Without it, everything is learned anew.
pub(super) async fn recall(store: &Store, dispatcher: &Dispatcher, clock: Clock) {
    let kept = match store.learned().await {
        Ok(kept) => kept,
        Err(error) => return tracing::warn!(%error, "what was learned about the nodes could not be read"),
    };
    let Some((learned, saved_at_ms)) = kept else { return };
    let age = u64::try_from(clock.now().unix_ms - saved_at_ms).unwrap_or_default();
    match serde_json::from_str(&learned) {
        Ok(learned) => dispatcher.recall(learned, Duration::from_millis(age)),
        // Written by a different version.
        Err(error) => tracing::info!(%error, "what an earlier version learned about the nodes cannot be read"),
    }
}

/// Saves what the scheduler learns, at intervals and at the end.
pub(super) async fn remember(store: Store, dispatcher: Arc<Dispatcher>, clock: Clock, stop: CancellationToken) {
    let mut stopped = false;
    let mut learns = dispatcher.learns();
    while !stopped {
        let has_new_role = tokio::select! {
            () = stop.cancelled() => {
                stopped = true;
                false
            }
            () = dispatcher.roles.notified() => true,
            () = tokio::time::sleep(REMEMBER) => false,
        };
        let has_learned = std::mem::replace(&mut learns, dispatcher.learns());
        if learns && !has_learned {
            // The leader before has saved what it knew.
            recall(&store, &dispatcher, clock).await;
        }
        if has_new_role || !learns {
            continue;
        }
        let learned = dispatcher.read(Scheduler::learned);
        let kept = match serde_json::to_string(&learned) {
            Ok(learned) => store.keep_learned(learned, clock.now().unix_ms).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = kept {
            tracing::warn!(error, "what was learned about the nodes could not be saved");
        }
    }
}
