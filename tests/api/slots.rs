//! Is the number of a node's slots learned from requests alone, although the node's queue does not keep their order?
use std::time::Duration;

use futures_util::future::join_all;
use ollama_gateway::fleet::NodeSettings;
use ollama_sim::{SimConfig, SimNode};
use serde_json::json;

use crate::harness::{TestApp, TestDatabase, spawn_app_with};

/// More than any node here has.
const AT_ONCE: usize = 6;
const BATCHES: usize = 40;

fn slots(app: &TestApp) -> u32 {
    app.dispatcher.read(|scheduler| scheduler.nodes()[0].slots)
}

/// How a client asks.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Stream,
    /// Ollama's own dialect tells how long the node worked.
    Native,
    /// A plain answer that tells nothing.
    Plain,
}

async fn ask(app: &TestApp, key: &str, asked: Asked, number: usize) {
    let messages = json!([{"role": "user", "content": format!("[[n={}]]", 12 + number % 7)}]);
    let (path, is_stream) = match asked {
        Asked::Stream => ("/v1/chat/completions", true),
        Asked::Native => ("/api/chat", false),
        Asked::Plain => ("/v1/chat/completions", false),
    };
    let body = json!({"model": "llama3.2", "messages": messages, "stream": is_stream});
    let (head, _) = app.exchange_at(path, key, &body).await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
}

#[actix_rt::test]
async fn the_number_of_slots_is_learned_from_every_kind_of_request() {
    let cases = [(1, Asked::Native), (3, Asked::Native), (3, Asked::Stream), (2, Asked::Plain)];
    for (truly, asked) in cases {
        let jitter = Duration::from_millis(5);
        let config = SimConfig { tokens_per_second: 300.0, slots: truly, queue_jitter: jitter, ..SimConfig::warm() };
        let simulated = SimNode::start(config).await.unwrap();
        let nodes = vec![NodeSettings::new("a", simulated.url())];
        let app = spawn_app_with(nodes, TestDatabase::sqlite(), |_| {}).await;
        let key = app.user("ann").await;
        let truly = truly as u32;
        let mut seen = vec![slots(&app)];
        for batch in 0..BATCHES {
            join_all((0..AT_ONCE).map(|place| ask(&app, &key, asked, batch * AT_ONCE + place))).await;
            seen.push(slots(&app));
            if batch >= 5 && seen.ends_with(&[truly; 5]) {
                break;
            }
        }
        assert!(seen.ends_with(&[truly; 5]), "{asked:?} with {truly} slots: {seen:?}");
        app.stop().await;
    }
}
