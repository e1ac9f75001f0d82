//! How are connections to a node used again?
use ollama_sim::{Fault, SimConfig, SimNode};

use crate::harness::{TestApp, TestDatabase, node, spawn_app_with, stream_body};
use crate::scripted::{
    CHAT_END, ScriptedNode, Step, chat_answer, chat_event, chunk, last_chunk, plain, raw, stream_head,
};

/// A gateway whose requests all go through one worker, and so through one pool of connections.
async fn spawn_with_one_worker(url: String) -> TestApp {
    spawn_app_with(vec![node("a", url, 4)], TestDatabase::sqlite(), |config| config.server.workers = 1).await
}

// Connections to nodes

fn whole_stream() -> Vec<Step> {
    vec![stream_head(), chunk(chat_event("Hel")), chunk(chat_event("lo")), chunk(CHAT_END), last_chunk()]
}

#[actix_rt::test]
async fn requests_one_after_the_other_share_a_connection_to_the_node() {
    let node_a = ScriptedNode::start(|received| {
        let text = String::from_utf8_lossy(&received.body);
        if text.contains("\"stream\":true") { whole_stream() } else { vec![plain(&chat_answer("Hello"))] }
    })
    .await;
    let app = spawn_with_one_worker(node_a.url()).await;
    let key = app.user("ann").await;
    for _ in 0..4 {
        let plain = app.chat(&key, "llama3.2", "hi").await;
        let streamed = app.post("/v1/chat/completions", &key, stream_body("llama3.2", "hi")).await;

        assert!(plain.text().contains("Hello"), "{}", plain.text());
        assert!(streamed.text().ends_with("data: [DONE]\n\n"), "{}", streamed.text());
    }
    assert_eq!((node_a.received().len(), node_a.connections()), (8, 1));
    app.stop().await;
}

#[actix_rt::test]
async fn a_connection_that_the_node_closed_meanwhile_costs_no_request() {
    let node_a = ScriptedNode::always(|| vec![plain(&chat_answer("Hello")), Step::Close]).await;
    let app = spawn_with_one_worker(node_a.url()).await;
    let key = app.user("ann").await;
    for _ in 0..5 {
        let reply = app.chat(&key, "llama3.2", "hi").await;

        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    app.stop().await;
}

#[actix_rt::test]
async fn interim_answers_are_skipped() {
    let hints = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    let node_a = ScriptedNode::always(move || vec![raw(hints), plain(&chat_answer("Hello"))]).await;
    let app = spawn_with_one_worker(node_a.url()).await;
    let key = app.user("ann").await;
    for _ in 0..2 {
        let reply = app.chat(&key, "llama3.2", "hi").await;

        assert!(reply.status == 200 && reply.text().contains("Hello"), "{}", reply.text());
    }
    app.stop().await;
}

#[actix_rt::test]
async fn a_late_answer_never_reaches_the_next_client() {
    // An interim answer, or one without a length, looks to a careless client as if it was over.
    let interim = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    for first in
        [interim, "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 102 Processing\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"]
    {
        let node_a = ScriptedNode::start(move |received| {
            // For whoever uses the first connection again.
            let late = plain(&chat_answer("for ann only"));
            match (received.connection, received.earlier) {
                (0, 0) => vec![raw(first)],
                (0, 1) => vec![late],
                _ => vec![plain(&chat_answer("for bob"))],
            }
        })
        .await;
        let other = SimNode::start(SimConfig { slots: 4, ..SimConfig::warm() }).await.unwrap();
        let app = spawn_app_with(
            vec![node("a", node_a.url(), 4), node("b", other.url(), 4)],
            TestDatabase::sqlite(),
            |config| {
                config.server.workers = 1;
                config.relay.first_byte_seconds = 1;
            },
        )
        .await;
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        assert_eq!(app.chat(&ann, "llama3.2", "mine").await.header("x-gateway-node"), Some("b"), "{first}");
        other.set_fault(Some(Fault::HangAfter(1)));
        let mut busy = Vec::new();
        while other.stats().in_flight < 4 {
            let mut stream = app.open_stream(&ann, &stream_body("llama3.2", "hi")).await;
            stream.next().await;
            busy.push(stream);
        }

        let reply = app.chat(&bob, "llama3.2", "hi").await;

        assert_eq!(reply.header("x-gateway-node"), Some("a"), "{first}: {}", reply.text());
        assert!(reply.text().contains("for bob"), "{first}: {}", reply.text());
        drop(busy);
        app.stop().await;
    }
}
