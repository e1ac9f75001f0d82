//! How fast does one stream advance?

use std::sync::Arc;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::Instant;

use crate::clock;
use crate::engine::Engine;
use crate::fault::Fault;

/// The speed an infinitely fast node is taken to have under [`Fault::Slow`].
const SLOWED_INFINITE_SPEED: f64 = 1000.0;
/// How many times faster a prompt is read than an answer is made.
const PREFILL_SPEEDUP: f64 = 25.0;
/// The most time that a stream makes up after a delay.
const CATCH_UP: Duration = Duration::from_millis(100);

/// The pace of one stream.
pub(crate) struct Pace {
    engine: Arc<Engine>,
    /// Tokens per second if it runs alone.
    solo: f64,
    due: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(engine: &Arc<Engine>, solo: f64, fault: Option<&Fault>) -> Self {
        let solo = match fault {
            Some(Fault::Slow(factor)) => {
                let full = if solo.is_infinite() { SLOWED_INFINITE_SPEED } else { solo };
                full / factor.max(f64::MIN_POSITIVE)
            }
            _ => solo,
        };
        Self { engine: Arc::clone(engine), solo, due: None }
    }

    /// Waits for as long as reading the prompt takes.
    pub(crate) async fn prefill(&mut self, tokens: u64) {
        self.spend(tokens as f64 / PREFILL_SPEEDUP).await;
    }

    /// Waits for as long as making one token takes.
    pub(crate) async fn token(&mut self) {
        self.spend(1.0).await;
    }

    async fn spend(&mut self, tokens: f64) {
        if self.solo.is_infinite() {
            yield_now().await;
        } else {
            let seconds = tokens / self.engine.shared_speed(self.solo);
            let now = clock::now();
            let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
            let due = self.due.unwrap_or(now).max(earliest)
                + Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(u32::MAX.into()));
            self.due = Some(due);
            if due > now { tokio::time::sleep_until(due).await } else { yield_now().await }
        }
        self.engine.pauses().until_generating().await;
    }
}
