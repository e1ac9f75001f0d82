//! All of it at once: bad users, and a bad node beside two good ones.
use std::time::Duration;

use futures_util::future::join4;
use ollama_sim::{Fault, OddListing, UsageClaim};
use serde_json::json;

use crate::good::{fleet, hold, marked, openings, steady_node};
use crate::harness::let_pass;

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
    simulated[2].set_listing(Some(OddListing::Invented(500)));
    let number = std::cell::Cell::new(0);

    hold(&app, &keys, async || {
        let next = number.replace(number.get() + 1);
        let marker = ["poison-crash", "poison-hang-up"][next % 2];
        let mistake = json!({"model": "llama3.2", "input": "hi"});
        join4(
            app.post("/v1/chat/completions", &poisoner, marked(&format!("{marker} {next}"))),
            app.post("/v1/embeddings", &careless, mistake),
            app.post("/v1/chat/completions", &misled, marked("lie")),
            let_pass(Duration::from_millis(50)),
        )
        .await;
    })
    .await;

    assert_eq!(openings(&app), 0);
    app.stop().await;
}
