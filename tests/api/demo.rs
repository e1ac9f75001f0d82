//! Is the demo what its banner promises?
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::cli::{Program, get, nodes_are_up, post, run};
use crate::harness::{chat_body, client, eventually, free_address, read, wait_long_for};

/// The word behind a label of the banner.
fn behind(label: &str, banner: &str) -> String {
    let rest = banner.split_once(label).unwrap_or_else(|| panic!("no {label:?} in {banner}")).1;
    rest.split_whitespace().next().unwrap().to_owned()
}

pub fn demo_folders(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    entries.filter(|name| name.contains("demo")).collect()
}

#[actix_rt::test]
async fn the_demo_serves_what_its_banner_promises_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let address = free_address().to_string();
    let base = format!("http://{address}");
    let mut demo = Program::start(folder.path(), &["demo", "--bind", &address], &[]);
    demo.answers(&format!("{base}/health/live")).await;
    eventually("the banner is printed", || demo.out().contains("/admin/nodes")).await;
    let banner = demo.out();
    let (key, admin_key) = (behind("user key", &banner), behind("admin key", &banner));
    assert_eq!(admin_key, "admin-secret-key");
    assert!(key.starts_with("sk-user-123-"), "{key}");
    assert!(banner.contains(&format!("{base}/v1")) && banner.contains(&format!("{base}/docs")), "{banner}");
    assert_eq!(demo_folders(folder.path()).len(), 1);
    nodes_are_up(&base, 3).await;

    let (status, models) = get(&format!("{base}/v1/models"), &key).await;
    assert_eq!(status, 200);
    let ids: Vec<&str> = models["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    for model in ["llama3.2:latest", "llama3.2:1b", "llava:latest", "all-minilm:latest"] {
        assert!(ids.contains(&model), "{ids:?}");
    }
    let (_, nodes) = get(&format!("{base}/admin/nodes"), &admin_key).await;
    assert_eq!(nodes["data"].as_array().unwrap().len(), 3);
    let (status, answer) = post(&format!("{base}/v1/chat/completions"), &key, chat_body("llama3.2", "[[n=5]]")).await;
    assert_eq!((status.as_u16(), &answer["usage"]["completion_tokens"]), (200, &json!(5)));
    assert_eq!(get(&format!("{base}/v1/usage"), &key).await.1["data"].as_array().unwrap().len(), 1);

    let pasted = paste(banner.split_once("Try it:").unwrap().1);
    for part in
        ["\"object\":\"list\"", "\"chat.completion\"", "\"chat.completion.chunk\"", "data: [DONE]", "\"queue_ms\""]
    {
        assert!(pasted.contains(part), "{part} in {pasted}");
    }
    assert!(!pasted.contains("\"error\""), "{pasted}");
    assert_eq!(demo.terminate().await.code(), Some(0), "{}", demo.err());
    assert!(demo_folders(folder.path()).is_empty());
}

#[actix_rt::test]
async fn the_demos_traffic_is_turned_on_and_off() {
    let folder = tempfile::tempdir().unwrap();
    let address = free_address().to_string();
    let base = format!("http://{address}");
    let mut demo = Program::start(folder.path(), &["demo", "--bind", &address], &[]);
    demo.answers(&format!("{base}/health/live")).await;
    eventually("the banner is printed", || demo.out().contains("/admin/nodes")).await;
    let (key, admin_key) = (behind("user key", &demo.out()), behind("admin key", &demo.out()));
    let set = async |key: &str, traffic: bool| {
        let request = client().put(format!("{base}/admin/demo")).bearer_auth(key);
        let reply = read(request.send_body(json!({"traffic": traffic}).to_string()).await.unwrap()).await;
        (reply.status.as_u16(), reply.json())
    };
    let open = async || {
        let mut open = 0;
        for state in ["running", "waiting"] {
            let (_, listed) = get(&format!("{base}/admin/requests?state={state}"), &admin_key).await;
            open += listed["data"].as_array().unwrap().len();
        }
        open
    };

    assert_eq!(set(&key, true).await.0, 403, "no user turns it on");
    assert_eq!((get(&format!("{base}/admin/demo"), &admin_key).await.1, open().await), (json!({"traffic": false}), 0));
    assert_eq!(set(&admin_key, true).await, (200, json!({"traffic": true})));
    wait_long_for("more ask than there are slots", async || {
        let (_, queue) = get(&format!("{base}/admin/queue"), &admin_key).await;
        queue["queued"].as_u64() > Some(0)
    })
    .await;
    assert_eq!(set(&admin_key, false).await, (200, json!({"traffic": false})));
    wait_long_for("everybody has hung up", async || open().await == 0).await;
    let (_, entries) = get(&format!("{base}/admin/audit?route=/admin/demo"), &admin_key).await;
    assert_eq!(entries["data"][0]["after"], json!({"traffic": false}), "{entries}");
    // It works a second time, with the people of the first.
    assert_eq!(set(&admin_key, true).await.0, 200);
    wait_long_for("they ask again", async || open().await > 0).await;
    // Nor do they keep it from ending.
    assert_eq!(demo.terminate().await.code(), Some(0), "{}", demo.err());
}

/// What a shell makes of these lines.
fn paste(lines: &str) -> String {
    let silent = lines.replace("curl ", "curl -sS --max-time 20 ");
    let done = Command::new("sh").args(["-ec", &silent]).output().unwrap();
    assert!(
        done.status.success(),
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8_lossy(&done.stdout).into_owned()
}

#[actix_rt::test]
async fn the_demo_with_its_well_known_key_stays_on_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    for bind in ["0.0.0.0:0", "[::]:0", "nonsense"] {
        let (good, _, err) = run(folder.path(), &["demo", "--bind", bind], &[]).await;
        assert!(!good && err.contains("loopback"), "{bind}: {err}");
    }
    assert!(demo_folders(folder.path()).is_empty());
}
