//! How does serving end? Running requests get their grace period, and then a last frame.
use std::time::Duration;

use actix_web::dev::ServerHandle;
use tokio_util::sync::CancellationToken;

use crate::store::Recorder;

/// How long streams have, after the grace period, to send their last frame.
pub(super) const LAST_FRAME: Duration = Duration::from_secs(2);

/// The parts that take part in the drain.
pub(super) struct Drain {
    pub(super) draining: CancellationToken,
    pub(super) streams: CancellationToken,
    pub(super) recorder: Recorder,
    pub(super) handle: ServerHandle,
    pub(super) grace: Duration,
}

impl Drain {
    pub(super) async fn run(self) {
        tracing::info!(grace_seconds = self.grace.as_secs(), "stopping: new requests are refused");
        self.draining.cancel();
        if tokio::time::timeout(self.grace, self.idle()).await.is_err() {
            tracing::warn!("the grace period is over: running requests are ended");
            self.streams.cancel();
            let _ = tokio::time::timeout(LAST_FRAME, self.idle()).await;
        }
        self.handle.stop(true).await;
    }

    /// Waits until every request has ended and its row is written.
    async fn idle(&self) {
        while self.recorder.backlog() > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
