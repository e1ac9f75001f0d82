//! Does the program do from the command line what its docs say? Each test runs the real binary in an empty folder.
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use awc::http::StatusCode;
use ollama_gateway::http::openapi;
use sea_orm::{ConnectionTrait, Database};
use serde_json::{Value, json};

use crate::demo::demo_folders;
use crate::harness::{chat_body, client, eventually, fast_node, free_address, read, wait_long_for};

const STRONG_KEY: &str = "0123456789abcdef0123456789abcdef";

/// A running program. Dropping it kills it.
pub struct Program {
    child: Child,
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Program {
    /// Starts the binary in this folder, with no environment but this.
    pub fn start(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ollama-gateway"))
            .args(arguments)
            .env_clear()
            .env("TMPDIR", folder)
            .envs(environment.iter().copied())
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (out, err) = (Arc::default(), Arc::default());
        let readers = vec![gather(child.stdout.take().unwrap(), &out), gather(child.stderr.take().unwrap(), &err)];
        Self { child, out, err, readers }
    }

    pub fn out(&self) -> String {
        self.out.lock().unwrap().clone()
    }

    pub fn err(&self) -> String {
        self.err.lock().unwrap().clone()
    }

    /// Waits for the end; everything that was printed is there then.
    async fn end(&mut self) -> ExitStatus {
        wait_long_for("the program ends", async || self.child.try_wait().unwrap().is_some()).await;
        let status = self.child.wait().unwrap();
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        status
    }

    /// SIGTERM, and the end.
    pub async fn terminate(&mut self) -> ExitStatus {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        self.end().await
    }

    /// Waits until this address answers.
    pub async fn answers(&mut self, url: &str) {
        wait_long_for("it answers", async || {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended: {}{}", self.out(), self.err());
            client().get(url).send().await.is_ok()
        })
        .await;
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gather(mut from: impl std::io::Read + Send + 'static, into: &Arc<Mutex<String>>) -> std::thread::JoinHandle<()> {
    let into = into.clone();
    std::thread::spawn(move || {
        let mut part = [0; 4096];
        while let Ok(size @ 1..) = from.read(&mut part) {
            into.lock().unwrap().push_str(&String::from_utf8_lossy(&part[..size]));
        }
    })
}

/// Runs to the end: whether it succeeded, standard output, standard error.
pub async fn run(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> (bool, String, String) {
    let mut program = Program::start(folder, arguments, environment);
    let status = program.end().await;
    assert!(status.code().is_some(), "ended by a signal");
    (status.success(), program.out(), program.err())
}

pub async fn get(url: &str, key: &str) -> (StatusCode, Value) {
    let reply = read(client().get(url).bearer_auth(key).send().await.unwrap()).await;
    (reply.status, reply.json())
}

pub async fn post(url: &str, key: &str, body: Value) -> (StatusCode, Value) {
    let reply = read(client().post(url).bearer_auth(key).send_body(body.to_string()).await.unwrap()).await;
    (reply.status, reply.json())
}

/// Waits until so many nodes can serve.
pub async fn nodes_are_up(base: &str, count: u64) {
    wait_long_for("the nodes are up", async || get(&format!("{base}/health"), "").await.1["nodes"]["healthy"] == count)
        .await;
}

#[actix_rt::test]
async fn a_named_file_that_is_missing_is_an_error_for_every_command() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["check", "serve", "healthcheck"] {
        let (good, _, err) = run(folder.path(), &[command, "--config", "absent.yaml"], &[]).await;
        assert!(!good && err.contains("absent.yaml"), "{command}: {err}");
    }
    let (good, _, err) = run(folder.path(), &["--config", "absent.yaml"], &[]).await;
    assert!(!good && err.contains("absent.yaml"), "{err}");
}

#[actix_rt::test]
async fn openapi_prints_the_document() {
    let folder = tempfile::tempdir().unwrap();

    let (good, out, err) = run(folder.path(), &["openapi"], &[]).await;

    assert!(good, "{err}");
    let printed: Value = serde_json::from_str(&out).unwrap();
    let document: Value = serde_json::from_str(&openapi::document().to_pretty_json().unwrap()).unwrap();
    assert_eq!(printed, document);
}

#[actix_rt::test]
async fn serve_starts_from_nothing_shows_its_admin_key_once_and_ends_by_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let (address, no_node) = (free_address().to_string(), free_address().to_string());
    let base = format!("http://{address}");
    let nodes = json!([{"name": "absent", "url": format!("http://{no_node}")}]).to_string();
    let environment = [("GATEWAY__SERVER__BIND", address.as_str()), ("GATEWAY__NODES", &nodes)];
    assert!(!run(folder.path(), &["healthcheck"], &environment).await.0, "nothing listens yet");

    let mut first = Program::start(folder.path(), &[], &environment);
    first.answers(&format!("{base}/health/live")).await;

    let key_file = folder.path().join("data/admin_key");
    assert!(folder.path().join("data/gateway.db").is_file());
    assert_eq!(std::fs::metadata(&key_file).unwrap().permissions().mode() & 0o777, 0o600);
    let admin_key = std::fs::read_to_string(&key_file).unwrap().trim().to_owned();
    eventually("the banner is printed", || first.out().contains("/admin/users")).await;
    assert_eq!(first.out().matches(&admin_key).count(), 1, "{}", first.out());
    let (made, user) = post(&format!("{base}/admin/users"), &admin_key, json!({"user_id": "ann"})).await;
    assert_eq!(made, 201, "{user}");
    assert_eq!(get(&format!("{base}/health"), "").await.0, 503);
    assert!(run(folder.path(), &["healthcheck"], &environment).await.0);
    let ended = first.terminate().await;
    assert_eq!(ended.code(), Some(0), "{}", first.err());
    assert!(!first.err().contains(&admin_key), "a key in the log");
    assert!(!run(folder.path(), &["healthcheck"], &environment).await.0);

    let mut second = Program::start(folder.path(), &["serve"], &environment);
    second.answers(&format!("{base}/health/live")).await;
    let key = user["api_key"].as_str().unwrap();
    assert_eq!(get(&format!("{base}/v1/models"), key).await.0, 200);
    assert_eq!(get(&format!("{base}/admin/nodes"), &admin_key).await.0, 200);
    assert_eq!(second.terminate().await.code(), Some(0));
    assert!(!(second.out() + &second.err()).contains(&admin_key), "{}", second.out());
}

#[actix_rt::test]
async fn an_address_that_others_reach_is_not_served_with_a_weak_admin_key() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("short"), "s3cret\n").unwrap();
    let bind = free_address().to_string().replace("127.0.0.1", "0.0.0.0");
    for weak in [
        ("GATEWAY__ADMIN__KEY", ""),
        ("GATEWAY__ADMIN__KEY", " "),
        ("GATEWAY__ADMIN__KEY", "admin-secret-key"),
        ("GATEWAY__ADMIN__KEY", "s3cret-but-short"),
        ("GATEWAY__ADMIN__KEY_FILE", "short"),
        ("GATEWAY__ADMIN__KEY_FILE", "absent"),
    ] {
        let (good, out, err) = run(folder.path(), &[], &[("GATEWAY__SERVER__BIND", &bind), weak]).await;
        assert!(!good && err.contains(if weak.1 == "short" { "short" } else { "admin.key" }), "{weak:?}: {out}{err}");
        assert!(!err.contains("s3cret") && !err.contains("admin-secret-key"), "{err}");
    }

    let environment = [("GATEWAY__SERVER__BIND", bind.as_str()), ("GATEWAY__ADMIN__KEY", STRONG_KEY)];
    let mut program = Program::start(folder.path(), &[], &environment);
    let base = format!("http://{}", bind.replace("0.0.0.0", "127.0.0.1"));
    program.answers(&format!("{base}/health/live")).await;
    assert_eq!(get(&format!("{base}/admin/users"), STRONG_KEY).await.0, 200);
    assert!(run(folder.path(), &["healthcheck"], &environment).await.0, "it is reached through loopback");
    assert_eq!(program.terminate().await.code(), Some(0));
    assert!(!(program.out() + &program.err()).contains(STRONG_KEY), "a key that is set is not shown");
}

#[actix_rt::test]
async fn nodes_come_from_the_environment_as_json_and_the_log_tells_of_a_request_without_its_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let simulated = fast_node().await;
    let address = free_address().to_string();
    let base = format!("http://{address}");
    let nodes = json!([{"name": "a", "url": simulated.url(), "slots": 2}]).to_string();
    let environment = [
        ("GATEWAY__SERVER__BIND", address.as_str()),
        ("GATEWAY__ADMIN__KEY", "on-loopback"),
        ("GATEWAY__DATABASE__URL", "sqlite://elsewhere/it.db"),
        ("GATEWAY__LOG__FORMAT", "json"),
        ("GATEWAY__NODES", &nodes),
    ];
    let mut program = Program::start(folder.path(), &["serve"], &environment);
    program.answers(&format!("{base}/health/live")).await;
    let (_, user) = post(&format!("{base}/admin/users"), "on-loopback", json!({"user_id": "ann"})).await;
    let key = user["api_key"].as_str().unwrap();
    nodes_are_up(&base, 1).await;

    let prompt = "s3cret prompt [[n=5]]";
    let (status, answer) = post(&format!("{base}/v1/chat/completions"), key, chat_body("llama3.2", prompt)).await;

    assert_eq!((status.as_u16(), &answer["usage"]["completion_tokens"]), (200, &json!(5)), "{answer}");
    let (_, listed) = get(&format!("{base}/admin/nodes"), "on-loopback").await;
    assert_eq!((&listed["data"][0]["name"], &listed["data"][0]["slots"]), (&json!("a"), &json!(2)));
    let (_, usage) = get(&format!("{base}/v1/usage"), key).await;
    assert_eq!(program.terminate().await.code(), Some(0));
    assert!(folder.path().join("elsewhere/it.db").is_file() && !folder.path().join("data").exists());
    let log = program.err();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let told: Vec<&Value> = lines.iter().filter(|line| line["request_id"] == usage["data"][0]["request_id"]).collect();
    assert_eq!(told.len(), 1, "one line a request: {log}");
    for (field, value) in [
        ("user", json!("ann")),
        ("model", json!("llama3.2")),
        ("node", json!("a")),
        ("status", json!("completed")),
        ("code", json!(200)),
        ("completion_tokens", json!(5)),
    ] {
        assert_eq!(told[0][field], value, "{}", told[0]);
    }
    let answered = answer["choices"][0]["message"]["content"].as_str().unwrap();
    for secret in ["s3cret", key, "on-loopback", answered] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

#[actix_rt::test]
async fn a_hangup_reads_the_file_again() {
    let (folder, simulated, address) = (tempfile::tempdir().unwrap(), fast_node().await, free_address().to_string());
    let base = format!("http://{address}");
    let write = |nodes: &str| {
        let text = format!("server:\n  bind: {address}\nadmin:\n  key: on-loopback\nnodes:\n{nodes}");
        std::fs::write(folder.path().join("gateway.yaml"), text).unwrap();
    };
    write("  - {name: a, url: \"http://127.0.0.1:1\"}\n");
    let mut program = Program::start(folder.path(), &["serve"], &[]);
    program.answers(&format!("{base}/health/live")).await;
    let hang_up = || {
        let sent = Command::new("kill").args(["-HUP", &program.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    };
    write("  - {name: a, url: \"nowhere\"}\n");
    hang_up();
    eventually("the mistake is told", || program.err().contains("nodes[0].url")).await;

    write(&format!("  - {{name: b, url: \"{}\"}}\n", simulated.url()));
    hang_up();

    eventually("it is told", || program.err().contains("the configuration was read again")).await;
    nodes_are_up(&base, 1).await;
    let (_, listed) = get(&format!("{base}/admin/nodes"), "on-loopback").await;
    assert_eq!((&listed["data"][0]["name"], listed["data"].as_array().unwrap().len()), (&json!("b"), 1));
    assert_eq!(program.terminate().await.code(), Some(0));
}

#[actix_rt::test]
async fn audit_verify_says_whether_the_log_is_whole_and_where_it_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let verify = async |more: &[&str]| run(folder.path(), &[&["audit", "verify"], more].concat(), &[]).await;
    assert!(!verify(&[]).await.0, "there is no database yet");
    let address = free_address().to_string();
    let mut program = Program::start(folder.path(), &[], &[("GATEWAY__SERVER__BIND", &address)]);
    program.answers(&format!("http://{address}/health/live")).await;
    assert_eq!(verify(&[]).await.1, "The audit log is empty.\n");
    let key = std::fs::read_to_string(folder.path().join("data/admin_key")).unwrap();
    for user in ["ann", "ben"] {
        post(&format!("http://{address}/admin/users"), key.trim(), json!({ "user_id": user })).await;
    }
    let (is_whole, said, _) = verify(&[]).await;
    assert!(is_whole && said.starts_with("The audit log is intact: 2 entries, 1 to 2.\n"), "{said}");
    let last = said.lines().last().unwrap().to_owned();
    assert!(verify(&["--expect", &last]).await.0);
    let other = last.replacen("2:", "1:", 1);
    let (is_whole, _, why) = verify(&["--expect", &other]).await;
    assert!(!is_whole && why.contains("entry 1"), "{why}");
    assert!(verify(&["--expect", "2"]).await.2.starts_with("--expect takes"));
    program.terminate().await;

    let db = Database::connect(format!("sqlite://{}/data/gateway.db", folder.path().display())).await.unwrap();
    db.execute_unprepared("UPDATE audit SET actor = 'bob' WHERE seq = 2").await.unwrap();
    db.close().await.unwrap();
    let (is_whole, _, why) = verify(&[]).await;
    assert_eq!((is_whole, &*why), (false, "The audit log is not intact: entry 2: it was changed.\n"));
}

#[actix_rt::test]
async fn a_hangup_is_in_the_audit_log() {
    let folder = tempfile::tempdir().unwrap();
    let (address, file) = (free_address().to_string(), folder.path().join("gateway.yaml"));
    std::fs::write(&file, format!("server:\n  bind: {address}\nadmin:\n  key: a-key\n")).unwrap();
    let mut program = Program::start(folder.path(), &[], &[]);
    program.answers(&format!("http://{address}/health/live")).await;
    let id = program.child.id().to_string();
    Command::new("kill").args(["-HUP", &id]).status().unwrap();
    let url = format!("http://{address}/admin/audit");
    wait_long_for("the reload is in the log", async || {
        let line = get(&url, "a-key").await.1["data"][0].clone();
        (&line["route"], &line["status"], &line["target"]) == (&json!("SIGHUP"), &json!(200), &json!("configuration"))
    })
    .await;
    program.terminate().await;
}

#[actix_rt::test]
async fn a_broken_list_of_nodes_in_the_environment_names_its_variable() {
    let folder = tempfile::tempdir().unwrap();
    for broken in ["[{", "[]", "a", "[{\"name\":\"a\"}]", "[{\"name\":\"a\",\"url\":\"x\"}]"] {
        let (good, _, err) = run(folder.path(), &["serve"], &[("GATEWAY__NODES", broken)]).await;
        assert!(!good && err.contains("GATEWAY__NODES"), "{broken}: {err}");
    }
}

#[actix_rt::test]
async fn an_address_that_is_taken_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for arguments in [&["serve"][..], &["demo", "--bind", &address]] {
        let (good, _, err) = run(folder.path(), arguments, &[("GATEWAY__SERVER__BIND", &address)]).await;
        assert!(!good && err.contains(&address), "{arguments:?}: {err}");
    }
    assert!(demo_folders(folder.path()).is_empty(), "a demo that did not start leaves nothing behind");
}

#[actix_rt::test]
async fn what_is_no_command_is_an_error_and_help_is_not() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["sreve"][..], &["serve", "--port", "1"], &["check", "extra"]] {
        assert!(!run(folder.path(), arguments, &[]).await.0, "{arguments:?}");
    }
    let (good, out, _) = run(folder.path(), &["--help"], &[]).await;
    assert!(good);
    for command in ["serve", "demo", "check", "healthcheck", "openapi"] {
        assert!(out.contains(command), "{out}");
    }
    let (good, out, _) = run(folder.path(), &["--version"], &[]).await;
    assert!(good && out.contains(env!("CARGO_PKG_VERSION")), "{out}");
}
