//! Does a key, a prompt or an answer get anywhere where it does not belong?
use std::path::{Path, PathBuf};
use std::time::Duration;

use ollama_sim::{Fault, SimNode};
use serde_json::{Value, json};

use crate::gateway::{ADMIN_KEY, Gateway, Home, wait_for};
use crate::kills::nodes;
use crate::load::exchange;
use crate::postgres::Postgres;

const PROMPT: &str = "canary-prompt-5b0c1e";

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn holds(bytes: &[u8], needle: &str) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
}

/// Every route with a body, in its own form, with the canary in every place where a client may put text.
fn requests() -> Vec<(&'static str, Value)> {
    let messages = json!([{"role": "system", "content": PROMPT}, {"role": "user", "content": PROMPT}]);
    let image = json!([{"role": "user", "content": [{"type": "text", "text": PROMPT},
        {"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{PROMPT}")}}]}]);
    let tools = json!([{"type": "function", "function": {"name": "f", "description": PROMPT, "parameters": {}}}]);
    let mut requests = Vec::new();
    for stream in [false, true] {
        requests.extend([
            ("/v1/chat/completions", json!({"model": "llama3.2", "messages": messages, "stream": stream})),
            (
                "/v1/chat/completions",
                json!({"model": "llama3.2", "messages": messages, "tools": tools, "stream": stream}),
            ),
            ("/v1/chat/completions", json!({"model": "llava", "messages": image, "stream": stream})),
            ("/v1/completions", json!({"model": "llama3.2", "prompt": PROMPT, "suffix": PROMPT, "stream": stream})),
            ("/v1/responses", json!({"model": "llama3.2", "input": PROMPT, "instructions": PROMPT, "stream": stream})),
            (
                "/v1/messages",
                json!({"model": "llama3.2", "max_tokens": 9, "system": PROMPT,
                    "messages": [{"role": "user", "content": PROMPT}], "stream": stream}),
            ),
            ("/api/chat", json!({"model": "llama3.2", "messages": messages, "stream": stream})),
            ("/api/generate", json!({"model": "llama3.2", "prompt": PROMPT, "system": PROMPT, "stream": stream})),
        ]);
    }
    requests.extend([
        ("/v1/embeddings", json!({"model": "all-minilm", "input": PROMPT})),
        ("/api/embed", json!({"model": "all-minilm", "input": [PROMPT]})),
        ("/api/embeddings", json!({"model": "all-minilm", "prompt": PROMPT})),
        // Mistakes that an error message might quote.
        ("/v1/chat/completions", json!({"model": "llama3.2", "messages": PROMPT})),
        ("/v1/chat/completions", json!({"model": "llama3.2", "messages": [{"role": PROMPT, "content": 1}]})),
        ("/v1/chat/completions", json!({"model": "llama3.2", "messages": [], "max_tokens": PROMPT})),
        ("/v1/chat/completions", json!({"model": "all-minilm", "messages": messages})),
        ("/v1/completions", json!({"model": "llama3.2", "prompt": {"x": PROMPT}})),
        ("/api/pull", json!({"model": "llama3.2", "x": PROMPT})),
    ]);
    requests
}

/// What clients hear of the gateway: errors, pages, and what comes of a key in the wrong place.
async fn told(gateway: &Gateway, node: &SimNode, key: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let faults = [None, Some(Fault::Status(500)), Some(Fault::Status(400))];
    for fault in faults {
        node.set_fault(fault.clone());
        for (path, body) in requests() {
            let answer = gateway.ask("POST", path, key, &body).await;
            if answer.status >= 400 {
                errors.push(answer.body);
            }
        }
    }
    node.set_fault(None);
    // Clients that leave, broken bodies, the key where it does not belong.
    for (path, body) in requests() {
        exchange(gateway.address, "POST", path, key, &body.to_string(), Duration::from_millis(5)).await;
    }
    let half = format!("{{\"model\":\"llama3.2\",\"messages\":[{{\"content\":\"{PROMPT}");
    for (path, _) in requests() {
        errors.push(exchange(gateway.address, "POST", path, key, &half, Duration::from_secs(5)).await.body);
    }
    let wrong = format!("{key}x");
    for path in ["/v1/models", "/admin/users", &format!("/v1/models?api_key={key}"), &format!("/v1/{key}")] {
        for key in [key, &wrong] {
            errors.push(gateway.ask("GET", path, key, &Value::Null).await.body);
        }
    }
    errors.push(gateway.ask("GET", &format!("/k/{key}/v1/usage"), "", &Value::Null).await.body);
    for path in ["/v1/usage", "/v1/usage/summary", "/v1/models"] {
        errors.push(gateway.ask("GET", path, key, &Value::Null).await.body);
    }
    for path in ["/admin/users", "/admin/users/ann", "/admin/users/ann/usage", "/admin/nodes"] {
        errors.push(gateway.ask("GET", path, ADMIN_KEY, &Value::Null).await.body);
    }
    errors.push(gateway.ask("GET", "/metrics", "", &Value::Null).await.body);
    errors
}

async fn fly(database: String, home_of: &Path) {
    let nodes = nodes(1).await;
    let mut home = Home::new(home_of, &[nodes[0].url()], &database);
    home.set("LOG__LEVEL", "debug");
    home.set("RELAY__FIRST_BYTE_SECONDS", "2");
    home.set("METRICS__USER_LABEL", "all");
    let gateway = home.start().await;
    let key = gateway.user("ann").await;
    gateway.settle().await;
    let errors = told(&gateway, &nodes[0], &key).await;
    // As it is after a crash, so that notes of running requests are looked at, too.
    let mut slow =
        json!({"model": "llama3.2", "messages": [{"role": "user", "content": format!("[[n=900]] {PROMPT}")}]});
    slow["stream"] = true.into();
    let body = slow.to_string();
    exchange(gateway.address, "POST", "/v1/chat/completions", &key, &body, Duration::from_millis(1300)).await;
    wait_for("a moment", async || true).await;
    gateway.kill();
    assert_unseen(errors, home_of, &key);
    assert!(nodes[0].requests().iter().any(|seen| holds(&seen.body, PROMPT)), "the nodes did get it");
}

/// Neither the answers nor any file of the gateway's holds the prompt or a key.
fn assert_unseen(answers: Vec<String>, home_of: &Path, key: &str) {
    let secret_part = key.rsplit('-').next().unwrap();
    let mut seen = answers.into_iter().map(|text| ("an answer".to_owned(), text.into_bytes())).collect::<Vec<_>>();
    seen.extend(files(home_of).into_iter().map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())));
    assert!(
        seen.iter().any(|(name, _)| name.ends_with("gateway.log"))
            && seen.iter().any(|(name, _)| name.ends_with(".db"))
    );
    for (name, bytes) in seen {
        for needle in [PROMPT, secret_part, ADMIN_KEY] {
            let text = String::from_utf8_lossy(&bytes);
            let line = text.lines().find(|line| line.contains(needle)).unwrap_or_default();
            assert!(!holds(&bytes, needle), "{needle} stands in {name}: {line}");
        }
    }
}

#[actix_rt::test]
async fn no_key_and_no_prompt_is_in_logs_metrics_errors_or_files() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}", folder.path().join("gateway.db").display());
    fly(database, folder.path()).await;
}

#[actix_rt::test]
async fn no_key_and_no_prompt_is_in_the_outbox_or_in_postgres() {
    let Some(postgres) = Postgres::start(false).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let database = postgres.new_database().await;
    fly(database.clone(), folder.path()).await;
    let dump = std::process::Command::new("pg_dump").args(["--dbname", &database]).output().unwrap();
    let text = String::from_utf8_lossy(&dump.stdout);
    assert!(text.contains("/v1/chat/completions"), "{}", String::from_utf8_lossy(&dump.stderr));
    assert!(!text.contains(PROMPT), "a prompt stands in Postgres");
}
