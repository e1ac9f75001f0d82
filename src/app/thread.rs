//! What must not wait for others gets a thread of its own: the writer of usage, the probes of nodes, and deadlines.
use std::future::Future;
use std::io;

use tokio::sync::oneshot;

/// Runs what `make` makes on a new thread. The future that it returns ends with it.
///
/// # Errors
/// When the operating system has no more threads.
pub(super) fn run<Make, Work>(name: &str, make: Make) -> io::Result<impl Future<Output = ()> + use<Make, Work>>
where
    Make: FnOnce() -> Work + Send + 'static,
    Work: Future<Output = ()> + 'static,
{
    // Never sent through: it closes with the thread, also if that panics.
    let (end, ended) = oneshot::channel::<()>();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        actix_rt::System::new().block_on(make());
        drop(end);
    })?;
    Ok(async {
        let _ = ended.await;
    })
}
