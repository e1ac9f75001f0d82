//! What surrounds a serving process? Its log and its signals.
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::app::Reloader;
use crate::telemetry::LogFlusher;

/// Writes the log while `work` is running.
pub(super) async fn logged<T>(log: &LogFlusher, work: impl Future<Output = T>) -> T {
    tokio::select! {
        done = work => done,
        never = log.run() => match never {},
    }
}

/// A token that SIGTERM or ctrl-c cancels.
///
/// # Errors
/// The process cannot listen for signals.
pub(super) fn stop_signal() -> Result<CancellationToken, String> {
    let (mut terminate, mut interrupt) = (listen_for(SignalKind::terminate())?, listen_for(SignalKind::interrupt())?);
    let token = CancellationToken::new();
    let stop = token.clone();
    actix_rt::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(token)
}

/// SIGHUP reads the configuration again, as `POST /admin/reload` does; the outcome is logged.
///
/// # Errors
/// The process cannot listen for signals.
pub(super) fn reload_on_hangup(reloader: Reloader) -> Result<(), String> {
    let mut hangup = listen_for(SignalKind::hangup())?;
    actix_rt::spawn(async move {
        while hangup.recv().await.is_some() {
            reloader.reload_on_signal().await;
        }
    });
    Ok(())
}

fn listen_for(kind: SignalKind) -> Result<Signal, String> {
    signal(kind).map_err(|error| format!("cannot listen for signals: {error}"))
}
