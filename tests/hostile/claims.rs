//! One node reports token counts that cannot be.
use ollama_sim::{Fault, UsageClaim};
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
