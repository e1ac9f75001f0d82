//! What a node says of its tokens: counts that cannot be, or no count of a whole answer in one chunk.
use std::cell::Cell;

use ollama_sim::{Fault, SimConfig, SimModel, SimNode, UsageClaim};
use serde_json::{Value, json};

use crate::good::{fleet, hold, marked, openings, steady_node};
use crate::harness::{ADMIN_KEY, wait_for};

fn claims() -> Vec<UsageClaim> {
    let counts = |prompt: Value, completion: Value| UsageClaim::Counts { prompt, completion };
    vec![
        counts(json!(i64::MAX), json!(i64::MAX)),
        counts(json!(u64::MAX), json!(1)),
        counts(json!(-5), json!(-5)),
        counts(json!("12"), json!(1.5)),
        counts(json!(null), json!([])),
        UsageClaim::WithoutPrompt,
        UsageClaim::WithoutCompletion,
        UsageClaim::Doubled,
    ]
}

#[actix_rt::test]
async fn a_nodes_false_numbers_cost_its_users_what_is_possible_and_nobody_else_anything() {
    let liar = steady_node().await;
    let (app, keys) = fleet(&[&liar]).await;
    let misled = app.user("misled").await;
    let sent = std::cell::Cell::new(0);
    for (number, claim) in claims().into_iter().enumerate() {
        liar.poison(&format!("lie-{number}-"), Fault::Usage(claim));
    }

    hold(&app, &keys, async || {
        let number = sent.replace(sent.get() + 1) % claims().len();
        let reply = app.post("/v1/chat/completions", &misled, marked(&format!("lie-{number}-"))).await;
        assert_eq!(reply.status, 200, "a good answer with odd numbers: {}", reply.text());
    })
    .await;

    assert_eq!(openings(&app), 0);
    wait_for("each lie was told", async || app.rows(&misled).await.len() >= claims().len()).await;
    let rows = app.rows(&misled).await;
    for row in &rows {
        // Five tokens were asked for; a prompt has at most a token for each byte of its body, of which there are some 320.
        let total = row["total_tokens"].as_u64().unwrap_or_else(|| panic!("{row}"));
        assert!(total <= 400, "{row}");
    }
    let usage = app.get("/admin/usage", ADMIN_KEY).await;
    assert_eq!(usage.status, 200, "{}", usage.text());
    // The next start reads the day's sums.
    let app = app.restart().await;
    assert_eq!(app.chat(&misled, "llama3.2", "hi").await.status, 200);
    app.stop().await;
}

/// What is reserved for an answer without a cap, and where it ends for whoever has a limit.
const RESERVED: u64 = 2048;
/// The text of the answer.
const BYTES: usize = 100_000;
/// The fewest tokens that so much text may be charged as. No tokenizer puts so many bytes into each token of a text.
const FEWEST: u64 = BYTES as u64 / 20;

#[actix_rt::test]
async fn a_chunk_of_a_hundred_kilobytes_is_charged_by_its_bytes() {
    let steady = steady_node().await;
    let models = vec![SimModel::chat("chunky:latest", 5.0)];
    let bad = SimNode::start(SimConfig { models, ..SimConfig::fast() }).await.unwrap();
    let (app, keys) = fleet(&[&steady, &bad]).await;
    bad.set_fault(Some(Fault::OneChunk { bytes: BYTES, reports_usage: false }));
    let ask_for = |stream: bool, most: Value| {
        let mut body = marked("one chunk");
        (body["model"], body["stream"], body["max_tokens"]) = ("chunky".into(), stream.into(), most);
        body
    };
    let of_chunks = app.user("chunks").await;
    let limited = app.user_with("limited", json!({"tokens_per_day": 2 * RESERVED})).await;
    let number = Cell::new(0_usize);

    hold(&app, &keys, async || {
        number.set(number.get() + 1);
        // Streams and plain answers, with and without a cap, which a single chunk cannot keep to.
        let body = ask_for(number.get().is_multiple_of(2), [json!(5), json!(null)][number.get() / 2 % 2].clone());
        let reply = app.post("/v1/chat/completions", &of_chunks, body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    })
    .await;

    assert_eq!(openings(&app), 0);
    let rows = app.rows(&of_chunks).await;
    let completed: Vec<_> = rows.iter().filter(|row| row["status"] == "completed").collect();
    assert!(completed.len() >= 4, "{rows:?}");
    for row in completed {
        let tokens = row["completion_tokens"].as_u64().unwrap();
        assert!(tokens >= FEWEST, "{row}");
    }
    // A limit holds, though one chunk has three times as many tokens as were reserved.
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(app.post("/v1/chat/completions", &limited, ask_for(true, json!(null))).await.status.as_u16());
    }
    let rows = app.rows(&limited).await;
    assert!(statuses[0] == 200 && statuses[3] == 429, "{statuses:?} {rows:?}");
    app.stop().await;
}
