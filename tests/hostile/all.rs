//! All of it at once: bad users, and a bad node beside two good ones.
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
    let [poisoner, careless, misled] =
        [app.user("poisoner").await, app.user("careless").await, app.user("misled").await];
    let [slow, hasty, large] = [app.user("slow").await, app.user("hasty").await, app.user("large").await];
    let refused = app.user_with("refused", json!({"requests_per_minute": 0})).await;
    let members = of_many_members();
    let route = json!({"model": "llama3.2", "input": "hi"});
    simulated[2].set_listing(Some(OddListing::Invented(500)));
    simulated[1].set_listing(Some(OddListing::Slow(Duration::from_secs(2))));
    let [reader, swapper] = [app.user("reader").await, app.user("swapper").await];
    let (reports, swaps) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let number = std::cell::Cell::new(0);

    let harm = async || {
        let next = number.replace(number.get() + 1);
        let marker = ["poison-crash", "poison-hang-up"][next % 2];
        let mistake = json!({"model": "llama3.2", "input": "hi"});
        let of_nodes = join4(
            app.post(CHAT, &poisoner, marked(&format!("{marker} {next}"))),
            app.post("/v1/embeddings", &careless, mistake),
            app.post(CHAT, &misled, marked("lie")),
            let_pass(Duration::from_millis(50)),
        );
        // The refused are held up longer each time, so that nobody waits for them here.
        let refusal = tokio::time::timeout(Duration::from_millis(100), app.post(CHAT, &refused, marked("hi")));
        let guess = tokio::time::timeout(Duration::from_millis(100), app.get("/v1/models", "sk-slow-guess"));
        let of_users = join5(
            sip(&app, &slow),
            tokio::time::timeout(Duration::from_millis(10), app.post(CHAT, &hasty, marked("left early"))),
            join(refusal, guess),
            app.post("/v1/unknown", &careless, route.clone()),
            async {
                // Large bodies are rarer, as the test itself has to write them.
                if next.is_multiple_of(10) {
                    app.send(Method::POST, CHAT, Some(&large), members.clone()).await;
                }
            },
        );
        let of_reads = async {
            let replies = join_all((0..6).map(|_| app.get("/v1/usage/summary", &reader))).await;
            reports.set(reports.get() + replies.iter().filter(|reply| reply.status == 200).count());
        };
        let swap = async {
            let mut body = marked("one token");
            body["model"] = ["other", "llama3.2"][next % 2].into();
            body["max_tokens"] = 1.into();
            let asking = app.post(CHAT, &swapper, body);
            if let Ok(reply) = tokio::time::timeout(Duration::from_millis(500), asking).await {
                swaps.set(swaps.get() + usize::from(reply.status == 200));
            }
        };
        let _ = join4(of_nodes, of_users, of_reads, swap).await;
    };
    hold(&app, &keys, &harm).await;
    assert_eq!(openings(&app), 0);

    // Whoever is sent to a node that says nothing waits until that shows, and is answered all the same.
    simulated[3].set_fault(Some(Fault::HangBeforeHead));
    let is_within = |alone: &Seen, beside: &Seen| beside.p50 <= alone.p50.mul_f64(1.5);
    hold_to(&app, &keys, &harm, is_within).await;
    simulated[3].set_fault(None);

    assert!(reports.get() > 0 && swaps.get() > 0, "{} reports, {} swaps", reports.get(), swaps.get());
    // The harm was done.
    let by = async |key: &str, what: &str, value: &str| {
        app.rows(key).await.iter().filter(|row: &&Value| row[what] == value).count()
    };
    assert!(by(&refused, "limit", "requests_per_minute").await > 0);
    assert!(by(&hasty, "status", "cancelled").await > 0 && by(&slow, "status", "cancelled").await > 0);
    assert!(by(&misled, "tokens_from", "estimated").await > 0);
    app.stop().await;
}
