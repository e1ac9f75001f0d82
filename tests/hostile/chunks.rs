//! A node sends a whole answer in one chunk, and says nothing of how many tokens it has.
use std::cell::Cell;

use ollama_sim::{Fault, SimConfig, SimModel, SimNode};
use serde_json::{Value, json};

use crate::good::{fleet, hold, marked, openings, steady_node};

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
