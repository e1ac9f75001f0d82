use ollama_sim::{Fault, Outcome, SimConfig, SimNode};
use tokio::net::TcpStream;

use crate::client::{Call, Reply, eventually, post, try_call};
use crate::fast_node;

const STREAM: &str = r#"{"model":"llama3.2","messages":[{"role":"user","content":"[[n=5]]"}],"stream":true}"#;
const CHAT: &str = "/v1/chat/completions";

/// One streamed answer under a fault.
async fn struck(node: &SimNode, fault: Fault, path: &str) -> Option<Reply> {
    node.fault_next([fault]);
    try_call(node, "POST", path, STREAM).await
}

fn last_outcome(node: &SimNode) -> Outcome {
    node.requests().last().unwrap().outcome
}

#[actix_web::test]
async fn a_refused_request_gets_no_byte() {
    let node = fast_node().await;
    assert!(struck(&node, Fault::Refuse, CHAT).await.is_none());
    assert_eq!(last_outcome(&node), Outcome::Faulted);
    assert!(post(&node, CHAT, STREAM).await.clean, "the fault strikes once");
}

#[actix_web::test]
async fn a_node_that_dies_leaves_so_many_chunks_and_no_terminator() {
    let node = fast_node().await;
    for chunks in [0, 1, 3] {
        let reply = struck(&node, Fault::DieAfter(chunks), CHAT).await.unwrap();
        assert_eq!((reply.status, reply.clean, reply.events().len()), (200, false, chunks));
    }
    let late = struck(&node, Fault::DieAfter(1000), CHAT).await.unwrap();
    assert_eq!((late.clean, late.events().len()), (false, 6), "all but the terminal marker");
    assert_eq!(node.stats().in_flight, 0);

    node.fault_next([Fault::DieAfter(0)]);
    let plain = post(&node, CHAT, &STREAM.replace("true", "false")).await;
    assert!(!plain.clean && plain.body.starts_with(r#"{"id""#) && !plain.body.ends_with('}'));
}

#[actix_web::test]
async fn a_hang_lasts_until_the_client_leaves() {
    let node = fast_node().await;
    node.fault_next([Fault::HangBeforeHead, Fault::HangAfter(0), Fault::HangAfter(2)]);

    let mut silent = Call::send(node.addr(), "POST", CHAT, STREAM).await;
    assert!(silent.is_silent().await);
    assert!(silent.received().is_empty());
    assert_eq!(node.stats().in_flight, 1);
    drop(silent);
    eventually(|| node.stats().in_flight == 0).await;
    assert_eq!(last_outcome(&node), Outcome::Faulted);

    let mut head_only = Call::send(node.addr(), "POST", CHAT, STREAM).await;
    assert!(head_only.until("\r\n\r\n").await.ends_with("\r\n\r\n"));
    assert!(head_only.is_silent().await);
    drop(head_only);

    let mut two = Call::send(node.addr(), "POST", CHAT, STREAM).await;
    two.until("\"delta\":{\"content\"").await;
    assert!(two.is_silent().await);
    drop(two);
    eventually(|| node.stats().in_flight == 0).await;
    assert_eq!(node.stats().cancelled, 0, "a fault stays the outcome");
}

#[actix_web::test]
async fn garbage_takes_the_place_before_a_chunk() {
    let node = fast_node().await;
    let first = struck(&node, Fault::Garbage, CHAT).await.unwrap();
    assert_eq!(first.events()[0], "this is not json");
    assert_eq!(first.events().len(), 8);
    let third = struck(&node, Fault::GarbageAfter(2), "/api/chat").await.unwrap();
    assert_eq!(third.body.lines().nth(2), Some("this is not json"));
    assert_eq!(third.body.lines().count(), 7);
}

#[actix_web::test]
async fn a_status_comes_with_the_words_of_the_original() {
    let node = fast_node().await;
    let busy = struck(&node, Fault::Status(503), "/api/chat").await.unwrap();
    assert_eq!(busy.status, 503);
    assert_eq!(busy.body, r#"{"error":"server busy, please try again.  maximum pending requests exceeded"}"#);
    let dead = struck(&node, Fault::Status(500), CHAT).await.unwrap();
    assert_eq!((dead.status, &dead.json()["error"]["type"]), (500, &"api_error".into()));
    assert!(dead.body.contains("model runner has unexpectedly stopped"));
    let gone = struck(&node, Fault::Status(404), CHAT).await.unwrap();
    assert_eq!(gone.json()["error"]["message"], "model 'llama3.2' not found");
}

#[actix_web::test]
async fn an_error_in_the_stream_looks_as_the_original_does() {
    let node = fast_node().await;
    let native = struck(&node, Fault::ErrorAfter(2), "/api/chat").await.unwrap();
    assert!(native.clean);
    assert_eq!(
        native.body.lines().nth(2),
        Some(r#"{"error":"an error was encountered while running the model: unexpected EOF"}"#)
    );
    assert_eq!(native.body.lines().count(), 3);

    let openai = struck(&node, Fault::ErrorAfter(2), CHAT).await.unwrap();
    assert!(openai.clean);
    assert_eq!(openai.events().len(), 3);
    assert!(openai.events()[2].contains(r#""model":"","#));
    assert!(openai.events()[2].ends_with(r#""choices":[{"index":0,"delta":{"content":""},"finish_reason":null}]}"#));

    let plain = STREAM.replace("true", "false");
    node.fault_next([Fault::ErrorAfter(2)]);
    assert_eq!(post(&node, CHAT, &plain).await.status, 500);
}

#[actix_web::test]
async fn an_early_end_is_clean_and_without_a_marker() {
    let node = fast_node().await;
    let openai = struck(&node, Fault::EndAfter(3), CHAT).await.unwrap();
    assert!(openai.clean && !openai.body.contains("[DONE]"));
    assert_eq!(openai.events().len(), 3);
    let empty = struck(&node, Fault::EndAfter(0), CHAT).await.unwrap();
    assert_eq!((empty.status, empty.clean, empty.body.as_str()), (200, true, ""));
    let native = struck(&node, Fault::EndAfter(1000), "/api/chat").await.unwrap();
    assert!(native.clean && native.lines().iter().all(|line| line["done"] == false));

    node.fault_next([Fault::EndAfter(0)]);
    let plain = post(&node, "/api/chat", &STREAM.replace("true", "false")).await.json();
    assert!(plain["done"] == false && plain.get("eval_count").is_none());
}

#[actix_web::test]
async fn usage_can_be_missing() {
    let node = fast_node().await;
    node.set_fault(Some(Fault::NoUsage));
    let body = STREAM.replace("\"stream\":true", r#""stream":true,"stream_options":{"include_usage":true}"#);
    let openai = post(&node, CHAT, &body).await;
    assert!(openai.body.ends_with("data: [DONE]\n\n") && !openai.body.contains("usage"));
    let native = post(&node, "/api/chat", STREAM).await;
    let last = native.lines().pop().unwrap();
    assert!(last["done"] == true && last.get("eval_count").is_none() && last.get("prompt_eval_count").is_none());
    let embed = post(&node, "/v1/embeddings", r#"{"model":"all-minilm","input":"a"}"#).await;
    assert!(!embed.body.contains("usage"));
}

#[actix_web::test]
async fn a_redirect_points_elsewhere() {
    let node = fast_node().await;
    let reply = struck(&node, Fault::Redirect("http://example.com/x".to_owned()), CHAT).await.unwrap();
    assert_eq!(reply.status, 307);
    assert!(reply.head.contains("location: http://example.com/x\r\n"));
}

#[actix_web::test]
async fn a_slow_answer_takes_its_time() {
    let node = fast_node().await;
    node.fault_next([Fault::Slow(50.0)]);
    let mut call = Call::send(node.addr(), "POST", CHAT, &STREAM.replace("n=5", "n=1000")).await;
    call.until("\"delta\":{\"content\"").await;
    assert_eq!(node.stats().in_flight, 1, "50 ms a token leave the stream running");
}

#[actix_web::test]
async fn single_faults_come_before_the_standing_one() {
    let node = fast_node().await;
    node.set_fault(Some(Fault::Status(500)));
    node.fault_next([Fault::Status(503), Fault::Status(404)]);
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(post(&node, CHAT, STREAM).await.status);
    }
    node.set_fault(None);
    statuses.push(post(&node, CHAT, STREAM).await.status);
    assert_eq!(statuses, [503, 404, 500, 500, 200]);
}

#[actix_web::test]
async fn a_stopped_node_refuses_connections_and_can_come_back() {
    let node = SimNode::start(SimConfig { tokens_per_second: 1.0, ..SimConfig::fast() }).await.unwrap();
    let mut call = Call::send(node.addr(), "POST", CHAT, STREAM).await;
    call.until("\"role\"").await;
    let idle = TcpStream::connect(node.addr()).await.unwrap();

    node.stop().await;

    assert!(!call.reply("POST").await.unwrap().clean, "the stream breaks");
    assert_eq!(idle.peek(&mut [0]).await.unwrap_or(0), 0, "idle connections close");
    assert!(TcpStream::connect(node.addr()).await.is_err());
    eventually(|| node.stats().in_flight == 0).await;
    assert_eq!((node.stats().cancelled, node.stats().loaded.len()), (1, 0));

    node.restart().await.unwrap();
    assert_eq!(crate::client::call(&node, "GET", "/", "").await.status, 200);
}
