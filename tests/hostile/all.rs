//! All of it at once: bad users, and a bad node beside two good ones.
use std::cell::Cell;
use std::time::Duration;

use awc::http::Method;
use futures_util::future::{join, join_all, join4, join5};
use ollama_sim::{Fault, OddListing, SimConfig, SimModel, UsageClaim};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::good::{Seen, fleet, hold, hold_to, marked, openings, steady_node_with};
use crate::harness::{TestApp, let_pass, stream_body};

const CHAT: &str = "/v1/chat/completions";

/// A client who asks for a long answer, reads a few bytes of it, and leaves.
async fn sip(app: &TestApp, key: &str) {
    let mut connection = app.send_and_hold(key, &stream_body("llama3.2", "[[n=100]] go on")).await;
    let mut few = [0; 5];
    for _ in 0..3 {
        let _ = tokio::time::timeout(Duration::from_millis(50), connection.read(&mut few)).await;
        let_pass(Duration::from_millis(20)).await;
    }
}

/// A body that is refused because of its many members.
fn of_many_members() -> String {
    format!(r#"{{"model":"llama3.2","messages":[],"x":{{{}"a":0}}}}"#, r#""a":0,"#.repeat(200_000))
}

/// The bad users by what they do, and how often what can succeed did.
struct Bad {
    poisoner: String,
    careless: String,
    misled: String,
    slow: String,
    hasty: String,
    large: String,
    refused: String,
    reader: String,
    swapper: String,
    members: String,
    number: Cell<usize>,
    reports: Cell<usize>,
    swaps: Cell<usize>,
}

impl Bad {
    async fn of(app: &TestApp) -> Self {
        Self {
            poisoner: app.user("poisoner").await,
            careless: app.user("careless").await,
            misled: app.user("misled").await,
            slow: app.user("slow").await,
            hasty: app.user("hasty").await,
            large: app.user("large").await,
            refused: app.user_with("refused", json!({"requests_per_minute": 0})).await,
            reader: app.user("reader").await,
            swapper: app.user("swapper").await,
            members: of_many_members(),
            number: Cell::new(0),
            reports: Cell::new(0),
            swaps: Cell::new(0),
        }
    }

    /// All of it once.
    async fn harm(&self, app: &TestApp) {
        let next = self.number.replace(self.number.get() + 1);
        let marker = ["poison-crash", "poison-hang-up"][next % 2];
        let mistake = json!({"model": "llama3.2", "input": "hi"});
        let of_nodes = join4(
            app.post(CHAT, &self.poisoner, marked(&format!("{marker} {next}"))),
            app.post("/v1/embeddings", &self.careless, mistake),
            app.post(CHAT, &self.misled, marked("lie")),
            let_pass(Duration::from_millis(50)),
        );
        let _ = join4(of_nodes, self.of_users(app, next), self.reads(app), self.swap(app, next)).await;
    }

    async fn of_users(&self, app: &TestApp, next: usize) {
        // The refused are held up longer each time, so that nobody waits for them here.
        let refusal = tokio::time::timeout(Duration::from_millis(100), app.post(CHAT, &self.refused, marked("hi")));
        let guess = tokio::time::timeout(Duration::from_millis(100), app.get("/v1/models", "sk-slow-guess"));
        let route = json!({"model": "llama3.2", "input": "hi"});
        let _ = join5(
            sip(app, &self.slow),
            tokio::time::timeout(Duration::from_millis(10), app.post(CHAT, &self.hasty, marked("left early"))),
            join(refusal, guess),
            app.post("/v1/unknown", &self.careless, route),
            async {
                // Large bodies are rarer, as the test itself has to write them.
                if next.is_multiple_of(10) {
                    app.send(Method::POST, CHAT, Some(&self.large), self.members.clone()).await;
                }
            },
        )
        .await;
    }

    async fn reads(&self, app: &TestApp) {
        let replies = join_all((0..6).map(|_| app.get("/v1/usage/summary", &self.reader))).await;
        self.reports.set(self.reports.get() + replies.iter().filter(|reply| reply.status == 200).count());
    }

    async fn swap(&self, app: &TestApp, next: usize) {
        let mut body = marked("one token");
        body["model"] = ["other", "llama3.2"][next % 2].into();
        body["max_tokens"] = 1.into();
        let asking = app.post(CHAT, &self.swapper, body);
        if let Ok(reply) = tokio::time::timeout(Duration::from_millis(500), asking).await {
            self.swaps.set(self.swaps.get() + usize::from(reply.status == 200));
        }
    }
}

#[actix_rt::test]
async fn all_at_once() {
    let other = |config: &mut SimConfig| config.models.push(SimModel::chat("other:latest", 5.0));
    let mut simulated = Vec::new();
    for _ in 0..4 {
        simulated.push(steady_node_with(other).await);
    }
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    for node in &simulated {
        node.poison("poison-crash", Fault::Status(500));
        node.poison("poison-hang-up", Fault::Refuse);
        let lie = UsageClaim::Counts { prompt: json!(i64::MAX), completion: json!(-1) };
        node.poison("lie", Fault::Usage(lie));
    }
    simulated[2].set_listing(Some(OddListing::Invented(500)));
    simulated[1].set_listing(Some(OddListing::Slow(Duration::from_secs(2))));
    let bad = Bad::of(&app).await;
    let harm = async || bad.harm(&app).await;
    hold(&app, &keys, &harm).await;
    assert_eq!(openings(&app), 0);

    // Whoever is sent to a node that says nothing waits until that shows, and is answered all the same.
    simulated[3].set_fault(Some(Fault::HangBeforeHead));
    let is_within = |alone: &Seen, beside: &Seen| beside.p50 <= alone.p50.mul_f64(1.5);
    hold_to(&app, &keys, &harm, is_within).await;
    simulated[3].set_fault(None);

    assert!(bad.reports.get() > 0 && bad.swaps.get() > 0, "{:?} reports, {:?} swaps", bad.reports, bad.swaps);
    // The harm was done.
    let by = async |key: &str, what: &str, value: &str| {
        app.rows(key).await.iter().filter(|row: &&Value| row[what] == value).count()
    };
    assert!(by(&bad.refused, "limit", "requests_per_minute").await > 0);
    assert!(by(&bad.hasty, "status", "cancelled").await > 0 && by(&bad.slow, "status", "cancelled").await > 0);
    assert!(by(&bad.misled, "tokens_from", "estimated").await > 0);
    app.stop().await;
}
