//! Starts a whole gateway for a test, on port 0, with a database of its own.
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use awc::http::{Method, StatusCode};
use bytes::Bytes;
use ollama_gateway::app::App;
use ollama_gateway::config::Config;
use ollama_gateway::dispatch::Dispatcher;
use ollama_gateway::fleet::{NodeSettings, Resolver};
use ollama_gateway::store::KeyDigest;
use ollama_sim::{SimConfig, SimNode};
use scheduler::{NodeState, NodeView};
use sea_orm::{ConnectionTrait, Database};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

// Named by their paths, as another suite has this file by its own.
#[path = "harness/address.rs"]
mod address;
#[path = "harness/waits.rs"]
mod waits;
#[path = "harness/wire.rs"]
mod wire;

pub use address::free_address;
pub use waits::{answer_of, each_at_once, eventually, let_pass, wait_for, wait_long_for};
pub use wire::{EventReader, chat_body, chat_bytes, events_of, header_of, parse_answer, stream_body};
use wire::{dechunk, post_bytes};

pub const ADMIN_KEY: &str = "admin-secret-key";
/// How long anything may take in a test.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The database of one test.
pub struct TestDatabase {
    pub url: String,
    pub folder: tempfile::TempDir,
}

impl TestDatabase {
    /// A SQLite file.
    pub fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { url: format!("sqlite://{}/gateway.db", folder.path().display()), folder }
    }

    /// A new database on the server at `TEST_POSTGRES_URL` (`postgres://USER:PASSWORD@HOST:PORT/postgres`), which
    /// `tests/run` provides; `None`, and a line that says so, with `SKIP_POSTGRES=1`.
    pub async fn postgres() -> Option<Self> {
        if std::env::var("SKIP_POSTGRES").is_ok_and(|value| value == "1") {
            leave_out("Postgres (SKIP_POSTGRES=1)");
            return None;
        }
        let server = std::env::var("TEST_POSTGRES_URL").expect(
            "this test needs Postgres: set TEST_POSTGRES_URL, run `tests/run api`, or leave it out with SKIP_POSTGRES=1",
        );
        let name = format!("test_{}", uuid::Uuid::now_v7().simple());
        let admin = Database::connect(&server).await.unwrap();
        admin.execute_unprepared(&format!("CREATE DATABASE {name}")).await.unwrap();
        admin.close().await.unwrap();
        let (base, _) = server.rsplit_once('/').unwrap();
        Some(Self { url: format!("{base}/{name}"), folder: tempfile::tempdir().unwrap() })
    }

    /// The same database once more, for a second gateway on it. Keep the first: it holds the folder.
    pub fn again(&self) -> Self {
        Self { url: self.url.clone(), folder: tempfile::tempdir().unwrap() }
    }

    /// SQLite and Postgres: for tests of what is stored.
    pub async fn each() -> Vec<Self> {
        let mut databases = vec![Self::sqlite()];
        databases.extend(Self::postgres().await);
        databases
    }
}

/// Says what this test did not do, past the harness, which keeps what a test that passes prints.
fn leave_out(what: &str) {
    let thread = std::thread::current();
    let _ = writeln!(std::io::stderr(), "LEFT OUT: {what}: {}", thread.name().unwrap_or("a test"));
}

/// An answer, read whole.
pub struct Reply {
    pub status: StatusCode,
    pub headers: awc::http::header::HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A running gateway.
pub struct TestApp {
    /// Where it speaks without TLS.
    pub address: SocketAddr,
    secure: Option<SocketAddr>,
    pub dispatcher: Arc<Dispatcher>,
    pub database: Option<TestDatabase>,
    config: Config,
    stop: CancellationToken,
    running: Option<actix_rt::task::JoinHandle<std::io::Result<()>>>,
}

/// A simulated node without delays that has no model in memory yet.
pub async fn cold_node() -> SimNode {
    SimNode::start(SimConfig::fast()).await.unwrap()
}

/// A simulated node without delays, and with its models in memory.
pub async fn fast_node() -> SimNode {
    SimNode::start(SimConfig::warm()).await.unwrap()
}

/// How a node stands in the configuration.
pub fn node(name: &str, url: String, slots: u32) -> NodeSettings {
    NodeSettings { slots: Some(slots), ..NodeSettings::new(name, url) }
}

/// A gateway over these nodes on SQLite, with the defaults; waits until every node that can be up is up.
pub async fn spawn_app(nodes: Vec<NodeSettings>) -> TestApp {
    spawn_app_with(nodes, TestDatabase::sqlite(), |_| {}).await
}

/// A gateway with settings of its own.
pub async fn spawn_app_with(
    nodes: Vec<NodeSettings>,
    database: TestDatabase,
    change: impl FnOnce(&mut Config),
) -> TestApp {
    let mut config = test_config(nodes, &database);
    change(&mut config);
    TestApp::start(config, database).await
}

/// The settings of a gateway under test.
pub fn test_config(nodes: Vec<NodeSettings>, database: &TestDatabase) -> Config {
    let mut config = Config { nodes, ..Config::default() };
    config.server.bind = "127.0.0.1:0".to_owned();
    config.server.workers = 2;
    config.server.drain_seconds = 2;
    config.database.url = database.url.clone();
    config.database.outbox = database.folder.path().join("outbox.db");
    config.health.probe_interval_ms = 50;
    // Tests are wrong on purpose, all from one address.
    config.server.guesses_per_minute = 100_000;
    config
}

impl TestApp {
    async fn start(config: Config, database: TestDatabase) -> Self {
        Self::start_with(config, database, Resolver::system(), || Err("there is no file".to_owned())).await
    }

    /// With names resolved and the configuration read again in the test's own way.
    pub async fn start_with(
        config: Config,
        database: TestDatabase,
        resolver: Resolver,
        read: impl Fn() -> Result<Config, String> + Send + Sync + 'static,
    ) -> Self {
        let app = App::build_with(config.clone(), KeyDigest::of(ADMIN_KEY), resolver, read).await.unwrap();
        let (address, secure) = match app.plain_address() {
            Some(plain) => (plain, Some(app.address())),
            None => (app.address(), None),
        };
        let (dispatcher, stop) = (app.dispatcher(), CancellationToken::new());
        let running = Some(actix_rt::spawn(app.run(stop.clone())));
        let app = Self { address, secure, dispatcher, database: Some(database), config, stop, running };
        app.settle().await;
        app
    }

    /// Waits until every node has been probed once: it is up, or its last error is known.
    async fn settle(&self) {
        eventually("the nodes are probed", || {
            self.dispatcher.read(|scheduler| {
                let known = |node: &NodeView| {
                    node.last_error.is_some() || matches!(node.state, NodeState::Up | NodeState::Draining)
                };
                scheduler.nodes().iter().all(known)
            })
        })
        .await;
    }

    /// Where it speaks TLS.
    pub fn secure(&self) -> SocketAddr {
        self.secure.expect("a gateway with TLS and a plain address")
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends a request; `key` goes as a bearer.
    pub async fn send(&self, method: Method, path: &str, key: Option<&str>, body: impl Into<Bytes>) -> Reply {
        let mut request = client().request(method, self.url(path));
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        read(request.send_body(body.into()).await.unwrap()).await
    }

    /// Sends a request with these headers and no key of its own.
    pub async fn send_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let mut request = client().request(method, self.url(path));
        for header in headers {
            request = request.append_header(*header);
        }
        read(request.send_body(body.into()).await.unwrap()).await
    }

    /// Sends these bytes on a new connection; what comes back until the gateway closes it. Ask for `connection: close`.
    pub async fn send_bytes(&self, request: &[u8]) -> String {
        let mut connection = tokio::net::TcpStream::connect(self.address).await.unwrap();
        // A gateway that has seen enough answers and closes before it has read everything.
        let _ = connection.write_all(request).await;
        let mut answer = Vec::new();
        let reading = connection.read_to_end(&mut answer);
        let _ = tokio::time::timeout(PATIENCE, reading).await.expect("the gateway closes the connection in time");
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub async fn get(&self, path: &str, key: &str) -> Reply {
        self.send(Method::GET, path, Some(key), "").await
    }

    pub async fn post(&self, path: &str, key: &str, body: Value) -> Reply {
        self.send(Method::POST, path, Some(key), body.to_string()).await
    }

    pub async fn put(&self, path: &str, key: &str, body: Value) -> Reply {
        self.send(Method::PUT, path, Some(key), body.to_string()).await
    }

    pub async fn delete(&self, path: &str, key: &str) -> Reply {
        self.send(Method::DELETE, path, Some(key), "").await
    }

    /// Makes a user; the key.
    pub async fn user(&self, name: &str) -> String {
        self.user_with(name, json!({})).await
    }

    /// Makes a user with limits; the key.
    pub async fn user_with(&self, name: &str, limits: Value) -> String {
        let mut body = limits;
        body["user_id"] = name.into();
        let reply = self.post("/admin/users", ADMIN_KEY, body).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        reply.json()["api_key"].as_str().unwrap().to_owned()
    }

    /// A plain chat request.
    pub async fn chat(&self, key: &str, model: &str, prompt: &str) -> Reply {
        self.post("/v1/chat/completions", key, chat_body(model, prompt)).await
    }

    /// Sends a chat request and waits for the head of the answer alone.
    pub async fn open(&self, key: &str, body: &Value) -> awc::ClientResponse {
        let request = client().post(self.url("/v1/chat/completions")).bearer_auth(key);
        request.send_body(body.to_string()).await.unwrap()
    }

    /// Sends a streamed chat request; its events, once the head is here.
    pub async fn open_stream(&self, key: &str, body: &Value) -> EventReader {
        let response = self.open(key, body).await;
        assert_eq!(response.status(), 200, "a stream begins");
        EventReader::of(response)
    }

    /// Sends a chat request on a connection of its own, which is closed by dropping it.
    pub async fn send_and_hold(&self, key: &str, body: &Value) -> tokio::net::TcpStream {
        let mut connection = tokio::net::TcpStream::connect(self.address).await.unwrap();
        connection.write_all(&chat_bytes(key, body, "keep-alive")).await.unwrap();
        connection
    }

    /// Sends a chat request; the head and the body of the answer, whose framing must be complete.
    pub async fn exchange(&self, key: &str, body: &Value) -> (String, String) {
        self.exchange_at("/v1/chat/completions", key, body).await
    }

    /// The same with another route.
    pub async fn exchange_at(&self, path: &str, key: &str, body: &Value) -> (String, String) {
        let answer = self.send_bytes(&post_bytes(path, key, body, "close")).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        let head = head.to_ascii_lowercase();
        if !head.contains("transfer-encoding: chunked") {
            let length: usize = header_of(&head, "content-length").unwrap().parse().unwrap();
            assert_eq!(body.len(), length, "the body is as long as promised");
            return (head, body.to_owned());
        }
        (head, dechunk(body))
    }

    /// The caller's rows, newest first, once there are so many.
    pub async fn rows_once(&self, key: &str, count: usize) -> Vec<Value> {
        let rows = answer_of("the rows are written", async || {
            let rows = self.rows(key).await;
            (rows.len() >= count).then_some(rows)
        })
        .await;
        assert_eq!(rows.len(), count, "{rows:?}");
        rows
    }

    /// Rows of the caller, newest first.
    pub async fn rows(&self, key: &str) -> Vec<Value> {
        let reply = self.get("/v1/usage", key).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["data"].as_array().unwrap().clone()
    }

    /// Tells the gateway to stop, without waiting.
    pub fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Stops, checks that nothing is left over, and hands the database on.
    pub async fn stop(mut self) -> TestDatabase {
        self.stop.cancel();
        let running = self.running.take().unwrap();
        tokio::time::timeout(PATIENCE, running).await.expect("the gateway stops in time").unwrap().unwrap();
        let left = self.dispatcher.read(|scheduler| (scheduler.in_flight(), scheduler.queued()));
        assert_eq!(left, (0, 0), "requests in flight and queued after the stop");
        self.database.take().unwrap()
    }

    /// Stops and starts again on the same database.
    pub async fn restart(self) -> Self {
        let config = self.config.clone();
        let database = self.stop().await;
        Self::start(config, database).await
    }
}

// A test that forgets to stop would hide what is left over.
impl Drop for TestApp {
    fn drop(&mut self) {
        self.stop.cancel();
        // Connections to Postgres end after their runtime, and panic without one; a second panic would end all tests.
        let (runtime, fails) = (tokio::runtime::Handle::current(), std::thread::panicking() || self.running.is_some());
        std::mem::forget(fails.then(|| runtime.enter()));
        assert!(!fails || std::thread::panicking(), "call stop() at the end of the test");
    }
}

/// The error in an answer, which must have this status and the form that every error has.
#[track_caller]
pub fn error_of(reply: &Reply, status: u16) -> Value {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/json"));
    uuid::Uuid::parse_str(reply.header("x-request-id").expect("a request id")).unwrap();
    let Value::Object(mut whole) = reply.json() else { panic!("no object: {}", reply.text()) };
    let error = whole.remove("error").unwrap_or_else(|| panic!("no error: {}", reply.text()));
    assert!(whole.is_empty(), "more than an error: {}", reply.text());
    let mut keys: Vec<&str> = error.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["code", "message", "param", "type"]);
    for (key, optional) in [("message", false), ("type", false), ("param", true), ("code", true)] {
        assert!(error[key].is_string() || (optional && error[key].is_null()), "{key}: {}", reply.text());
    }
    error
}

/// A client that follows nothing and is patient.
pub fn client() -> awc::Client {
    awc::Client::builder().disable_redirects().timeout(PATIENCE).finish()
}

pub async fn read(mut response: awc::ClientResponse) -> Reply {
    let (status, headers) = (response.status(), response.headers().clone());
    let body = response.body().limit(64 * 1024 * 1024).await.unwrap();
    Reply { status, headers, body }
}
