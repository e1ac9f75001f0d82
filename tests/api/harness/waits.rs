//! How does a test wait? For what can be observed, and never for ever.
use std::time::Duration;

use futures_util::StreamExt;

use super::PATIENCE;

/// Checks many cases, some of which take their time, several at once.
pub async fn each_at_once<Case, Checking: Future<Output = ()>>(
    cases: impl IntoIterator<Item = Case>,
    check: impl Fn(Case) -> Checking,
) {
    futures_util::stream::iter(cases.into_iter().map(check)).buffer_unordered(6).collect::<Vec<()>>().await;
}

/// Between two looks at what a test waits for.
const BEAT: Duration = Duration::from_millis(10);

/// Waits for a condition, but not for ever.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> impl Future<Output = ()> {
    ask_until(what, PATIENCE, async move || holds().then_some(()))
}

/// The same for a condition that has to be asked for.
#[track_caller]
pub fn wait_for(what: &str, mut holds: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    ask_until(what, PATIENCE, async move || holds().await.then_some(()))
}

/// The same where another process, or the time of a lease, is waited for.
#[track_caller]
pub fn wait_long_for(what: &str, mut holds: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    ask_until(what, 2 * PATIENCE, async move || holds().await.then_some(()))
}

/// Asks until there is an answer.
#[track_caller]
pub fn answer_of<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> impl Future<Output = T> {
    ask_until(what, PATIENCE, ask)
}

#[track_caller]
fn ask_until<T>(what: &str, patience: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        let asking = async {
            loop {
                if let Some(answer) = ask().await {
                    return answer;
                }
                tokio::time::sleep(BEAT).await;
            }
        };
        let answer = tokio::time::timeout(patience, asking).await;
        answer.unwrap_or_else(|_| panic!("{place}: waited in vain until {what}"))
    }
}

/// Lets real time pass, where time itself is what a test is about. What can be observed is waited for instead.
pub async fn let_pass(time: Duration) {
    tokio::time::sleep(time).await;
}
