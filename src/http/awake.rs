//! How long has a client taken, without the time in which this process did nothing? When it goes on after a SIGSTOP, or its
//! machine's pause, every deadline has passed, while what the client sent in time still waits in the socket.
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

/// A pause counts for this long at most.
const STEP: Duration = Duration::from_millis(500);

/// The output, unless it takes longer than `patience`.
pub(super) async fn within<T>(patience: Duration, work: impl Future<Output = T>) -> Option<T> {
    in_steps(patience, STEP, work).await
}

async fn in_steps<T>(mut patience: Duration, step: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    loop {
        let next = patience.min(step);
        match tokio::time::timeout(next, work.as_mut()).await {
            Ok(output) => return Some(output),
            Err(_) if patience <= step => return None,
            Err(_) => patience -= next,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;
    use tokio::sync::oneshot;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[actix_rt::test]
    async fn a_pause_of_this_process_is_not_held_against_the_client() {
        let (client, arrives) = oneshot::channel();
        let mut waiting = Box::pin(in_steps(100 * MS, 20 * MS, arrives));
        assert!(poll!(&mut waiting).is_pending());
        // Nothing else runs on this thread.
        std::thread::sleep(200 * MS);
        assert!(poll!(&mut waiting).is_pending(), "one step of five");
        client.send(7).unwrap();
        assert_eq!(waiting.await, Some(Ok(7)));
    }

    #[actix_rt::test]
    async fn a_client_that_takes_too_long_is_given_up() {
        let (_client, arrives) = oneshot::channel::<()>();
        assert_eq!(in_steps(50 * MS, 20 * MS, arrives).await, None);
    }
}
