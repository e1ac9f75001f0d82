//! How does serving end? A balancer notices, running requests get their grace period, and then a last frame.
use std::time::Duration;

use actix_web::dev::ServerHandle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::http::Intake;
use crate::store::Recorder;

/// How long streams have, after the grace period, to send their last frame.
pub(super) const LAST_FRAME: Duration = Duration::from_secs(2);

/// The parts that take part in the drain.
pub(super) struct Drain {
    pub(super) intake: Intake,
    pub(super) streams: CancellationToken,
    pub(super) recorder: Recorder,
    pub(super) handle: ServerHandle,
    /// How long all requests are taken, at most half of the grace period.
    pub(super) lame_duck: Duration,
    pub(super) grace: Duration,
}

impl Drain {
    pub(super) async fn run(self) {
        let began = Instant::now();
        // What is taken last has as long again to end.
        let (half, end) = (began + self.grace / 2, began + self.grace);
        tracing::info!(grace_seconds = self.grace.as_secs(), "stopping: this gateway is not ready any more");
        if self.lame_duck.is_zero() {
            // Whoever sees that it is not ready must find that it takes nobody new.
            self.intake.close();
        }
        self.intake.leave();
        sleep_until(half.min(began + self.lame_duck)).await;
        self.intake.close();
        let _ = timeout_at(half, self.idle()).await;
        self.intake.refuse();
        if timeout_at(end, self.idle()).await.is_err() {
            tracing::warn!("the grace period is over: running requests are ended");
            self.streams.cancel();
            let _ = timeout(LAST_FRAME, self.idle()).await;
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
