use std::time::Duration;

use ollama_sim::{SimConfig, SimModel, SimNode};
use serde_json::Value;

use crate::client::{Call, call, post};
use crate::fast_node;

async fn names(node: &SimNode) -> Vec<String> {
    let tags = call(node, "GET", "/api/tags", "").await.json();
    tags["models"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap().to_owned()).collect()
}

#[actix_web::test]
async fn a_pull_reports_its_progress_and_then_the_model_is_there() {
    let node = fast_node().await;
    assert_eq!(post(&node, "/api/chat", r#"{"model":"qwen3:8b"}"#).await.status, 404);

    let lines = post(&node, "/api/pull", r#"{"model":"qwen3:8b"}"#).await.lines();

    assert_eq!(lines[0]["status"], "pulling manifest");
    assert!(lines[1]["digest"].as_str().unwrap().starts_with("sha256:"));
    let completed: Vec<u64> = lines.iter().filter_map(|line| line["completed"].as_u64()).collect();
    assert_eq!((completed.len(), completed.last()), (10, Some(&5_200_000_000)));
    assert!(completed.is_sorted());
    assert_eq!(lines.last().unwrap(), &serde_json::json!({"status": "success"}));
    assert!(names(&node).await.contains(&"qwen3:8b".to_owned()));
    assert_eq!(post(&node, "/api/chat", r#"{"model":"qwen3:8b"}"#).await.status, 200);
    let whole = post(&node, "/api/pull", r#"{"name":"qwen3:8b","stream":false}"#).await;
    assert_eq!(whole.body, r#"{"status":"success"}"#);
    assert_eq!(names(&node).await.len(), 6, "a second pull adds nothing");
}

#[actix_web::test]
async fn a_model_that_nobody_has_is_an_error_line() {
    let node = fast_node().await;
    let lines = post(&node, "/api/pull", r#"{"model":"nope"}"#).await.lines();
    assert_eq!(lines.last().unwrap()["error"], "pull model manifest: file does not exist");
    assert_eq!(post(&node, "/api/pull", "{}").await.status, 400);
}

#[actix_web::test]
async fn a_pull_takes_its_time_and_ends_with_its_client() {
    let config = SimConfig { pull_bytes_per_second: 5.2e9, ..SimConfig::fast() };
    let node = SimNode::start(config).await.unwrap();
    let mut pull = Call::send(node.addr(), "POST", "/api/pull", r#"{"model":"qwen3:8b"}"#).await;
    pull.until("completed").await;
    drop(pull);
    tokio::time::sleep(Duration::from_millis(1300)).await;
    assert!(!names(&node).await.contains(&"qwen3:8b".to_owned()));
}

#[actix_web::test]
async fn a_deleted_model_is_gone_from_disk_and_memory() {
    let node = fast_node().await;
    post(&node, "/api/chat", r#"{"model":"llama3.2"}"#).await;
    let gone = call(&node, "DELETE", "/api/delete", r#"{"model":"llama3.2"}"#).await;
    assert_eq!((gone.status, gone.body.as_str()), (200, ""));
    assert!(!names(&node).await.contains(&"llama3.2:latest".to_owned()));
    assert!(node.stats().loaded.is_empty());
    let again = call(&node, "DELETE", "/api/delete", r#"{"model":"llama3.2"}"#).await;
    assert_eq!((again.status, again.body.as_str()), (404, r#"{"error":"model 'llama3.2' not found"}"#));
}

#[actix_web::test]
async fn another_revision_has_another_digest() {
    let models = vec![SimModel::chat("a", 1.0), SimModel::chat("a", 1.0).revised(2)];
    let mut digests = Vec::new();
    for model in models {
        let node = SimNode::start(SimConfig { models: vec![model], ..SimConfig::fast() }).await.unwrap();
        let tags: Value = call(&node, "GET", "/api/tags", "").await.json();
        digests.push(tags["models"][0]["digest"].clone());
    }
    assert_ne!(digests[0], digests[1]);
}
