//! What goes on in the background: on the main thread, or on one of its own where it must not wait for others, as the
//! writer of usage, the probes of nodes and deadlines must not.
use std::future::Future;
use std::io;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use tokio::sync::oneshot;

/// Ends with what goes on in the background.
pub(super) type Task = LocalBoxFuture<'static, ()>;

/// Runs `work` on the main thread.
pub(super) fn spawn(work: impl Future<Output = ()> + 'static) -> Task {
    let task = actix_rt::spawn(work);
    async move { drop(task.await) }.boxed_local()
}

/// Runs what `make` makes on a new thread.
///
/// # Errors
/// When the operating system has no more threads.
pub(super) fn run<Make, Work>(name: &str, make: Make) -> io::Result<Task>
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
    Ok(async { drop(ended.await) }.boxed_local())
}
