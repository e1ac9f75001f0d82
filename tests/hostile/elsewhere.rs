//! Harm from a thread of its own that runs only when nobody else wants to: what it costs the machine to send the harm is
//! no fault of the gateway.
use std::pin::pin;
use std::thread::JoinHandle;

use futures_util::future::select;
use tokio::sync::oneshot;

/// The lowest priority there is.
const LOWEST: i32 = 19;

/// Goes on until it is dropped.
pub struct Elsewhere {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Elsewhere {
    pub fn start<F: Future<Output = ()>>(harm: impl FnOnce() -> F + Send + 'static) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            // On Linux a priority belongs to a thread.
            rustix::process::nice(LOWEST).unwrap();
            actix_rt::System::new().block_on(async {
                select(pin!(harm()), pin!(stopped)).await;
            });
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))), "the harm failed");
    }
}
