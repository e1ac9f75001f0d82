//! On which thread does a background task run? On the main thread, or on its own if it must not wait for others: the
//! usage writer, the probes and the deadlines have their own.
use std::future::Future;
use std::io;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use tokio::sync::oneshot;

/// Resolves when the background task has ended.
pub(super) type Task = LocalBoxFuture<'static, ()>;

/// Runs `work` on the main thread.
pub(super) fn spawn(work: impl Future<Output = ()> + 'static) -> Task {
    let task = actix_rt::spawn(work);
    async move { drop(task.await) }.boxed_local()
}

/// Runs the future that `make` returns on a new thread.
///
/// # Errors
/// The operating system has no more threads.
pub(super) fn run<Make, Work>(name: &str, make: Make) -> io::Result<Task>
where
    Make: FnOnce() -> Work + Send + 'static,
    Work: Future<Output = ()> + 'static,
{
    // Nothing is sent through it: it closes when the thread ends, even if that panics.
    let (end, ended) = oneshot::channel::<()>();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        actix_rt::System::new().block_on(make());
        drop(end);
    })?;
    Ok(async { drop(ended.await) }.boxed_local())
}
