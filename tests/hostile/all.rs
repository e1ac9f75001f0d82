//! All of it at once: bad users, and a bad node beside two good ones.
use std::time::Duration;

use awc::http::Method;
use futures_util::future::{join, join4, join5};
use ollama_sim::{Fault, OddListing, UsageClaim};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::good::{fleet, hold, marked, openings, steady_node};
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
    let simulated = [steady_node().await, steady_node().await, steady_node().await];
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
    let number = std::cell::Cell::new(0);

    hold(&app, &keys, async || {
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
        let _ = join(of_nodes, of_users).await;
    })
    .await;

    assert_eq!(openings(&app), 0);
    // The harm was done.
    let by = async |key: &str, what: &str, value: &str| {
        app.rows(key).await.iter().filter(|row: &&Value| row[what] == value).count()
    };
    assert!(by(&refused, "limit", "requests_per_minute").await > 0);
    assert!(by(&hasty, "status", "cancelled").await > 0 && by(&slow, "status", "cancelled").await > 0);
    assert!(by(&misled, "tokens_from", "estimated").await > 0);
    app.stop().await;
}
