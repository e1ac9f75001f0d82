//! Who uses the demo while its traffic is on? Four simulated people, who keep asking through the gateway as anybody would.
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::store::{Accounts, ApiKey, NewUser, Terms, UserId};
use limits::Limits;

/// Somebody who uses the demo.
struct Person {
    name: &'static str,
    /// Requests that they keep open, each with a pause after its answer.
    open: u32,
    /// What they ask, in turn.
    models: &'static [&'static str],
    weight: f64,
}

/// Together they ask for somewhat more than the three nodes can do, so that there is a queue to look at.
const PEOPLE: [Person; 4] = [
    Person { name: "alice", open: 9, models: &["llama3.2"], weight: 2.0 },
    Person { name: "bob", open: 9, models: &["llava", "llava", "llama3.2:1b"], weight: 1.0 },
    Person { name: "carol", open: 8, models: &["llama3.2:1b"], weight: 1.0 },
    Person { name: "dan", open: 4, models: &["llama3.2", "llava"], weight: 1.0 },
];

/// Of each of them, so that there are bars to look at: enough for some hours.
const LIMITS: Limits = Limits {
    requests_per_minute: Some(600),
    tokens_per_minute: None,
    tokens_per_day: Some(20_000_000),
    max_concurrency: Some(16),
};
/// For an answer: longer than any takes here.
const PATIENCE: Duration = Duration::from_secs(120);
/// After something failed.
const PAUSE: Duration = Duration::from_secs(2);

/// The simulated people of a demo.
pub(super) struct Traffic {
    /// The address of the gateway.
    pub(super) base: String,
    pub(super) accounts: Arc<Accounts>,
    pub(super) clock: Clock,
    /// Whether they ask.
    pub(super) is_on: watch::Receiver<bool>,
}

impl Traffic {
    /// Has everybody ask while the traffic is on, until `stop`.
    pub(super) async fn flow(mut self, stop: CancellationToken) -> Infallible {
        let mut keys = Vec::new();
        loop {
            let turned_on = self.is_on.wait_for(|is_on| *is_on).await.is_ok();
            if !turned_on || stop.is_cancelled() {
                // The server is gone, or about to go.
                return std::future::pending().await;
            }
            if keys.is_empty() {
                keys = self.make_people().await;
            }
            let client = awc::Client::builder().disable_timeout().disable_redirects().finish();
            let asking = keys.iter().flat_map(|(person, key)| (0..person.open).map(move |place| (*person, key, place)));
            let asking =
                join_all(asking.map(|(person, key, place)| keep_asking(&client, &self.base, person, key, place)));
            // Whoever is dropped here has hung up.
            tokio::select! {
                _ = asking, if !keys.is_empty() => {}
                _ = self.is_on.wait_for(|is_on| !is_on) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Those who could be made, with their keys. Somebody else may have such a name already.
    async fn make_people(&self) -> Vec<(&'static Person, ApiKey)> {
        let mut made = Vec::new();
        for person in &PEOPLE {
            let Some(user) = UserId::parse(person.name) else { continue };
            let terms = Terms { limits: LIMITS, weight: person.weight };
            let new = NewUser { user, terms, group: None };
            match self.accounts.create(new, self.clock.now()).await {
                Ok(account) => made.push((person, account.secret)),
                Err(error) => eprintln!("the demo's traffic goes without {}: {error}", person.name),
            }
        }
        made
    }
}

async fn keep_asking(client: &awc::Client, base: &str, person: &Person, key: &ApiKey, place: u32) -> Infallible {
    for turn in (place..1000).cycle() {
        let (tokens, pause) = (60 + turn * 37 % 240, Duration::from_millis(u64::from(turn * 613 % 3000)));
        let model = person.models.get(turn as usize % person.models.len()).copied().unwrap_or_default();
        let asked = tokio::time::timeout(PATIENCE, ask(client, base, (model, tokens), key)).await;
        let is_answered = matches!(asked, Ok(Some(())));
        tokio::time::sleep(if is_answered { pause } else { PAUSE }).await;
    }
    std::future::pending().await
}

/// Asks, and reads the answer to its end; `None` where there was none.
async fn ask(client: &awc::Client, base: &str, (model, tokens): (&str, u32), key: &ApiKey) -> Option<()> {
    let body = serde_json::json!({
        "model": model, "stream": true, "messages": [{"role": "user", "content": format!("Tell me a story. [[n={tokens}]]")}],
    });
    let request = client.post(format!("{base}/v1/chat/completions")).bearer_auth(key.reveal());
    let mut answer = request.send_json(&body).await.ok().filter(|answer| answer.status().is_success())?;
    while let Some(chunk) = answer.next().await {
        chunk.ok()?;
    }
    Some(())
}
