//! Starts a whole gateway for a test, on port 0, with a database of its own.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use awc::http::{Method, StatusCode};
use bytes::Bytes;
use ollama_gateway::app::App;
use ollama_gateway::config::Config;
use ollama_gateway::relay::{Dispatcher, NodeSettings};
use ollama_gateway::store::KeyDigest;
use ollama_sim::{SimConfig, SimNode};
use sea_orm::{ConnectionTrait, Database};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub const ADMIN_KEY: &str = "admin-secret-key";
/// How long anything may take in a test.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The database of one test.
pub struct TestDatabase {
    pub url: String,
    _folder: tempfile::TempDir,
}

impl TestDatabase {
    /// A SQLite file.
    pub fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { url: format!("sqlite://{}/gateway.db", folder.path().display()), _folder: folder }
    }

    /// A new database on the server at `TEST_POSTGRES_URL` (`postgres://USER:PASSWORD@HOST:PORT/postgres`); `None`
    /// where there is none. The test command always gives one.
    pub async fn postgres() -> Option<Self> {
        let server = std::env::var("TEST_POSTGRES_URL").ok()?;
        let name = format!("test_{}", uuid::Uuid::now_v7().simple());
        let admin = Database::connect(&server).await.unwrap();
        admin.execute_unprepared(&format!("CREATE DATABASE {name}")).await.unwrap();
        admin.close().await.unwrap();
        let (base, _) = server.rsplit_once('/').unwrap();
        Some(Self { url: format!("{base}/{name}"), _folder: tempfile::tempdir().unwrap() })
    }

    /// SQLite, and Postgres where there is one: for tests of what is stored.
    pub async fn each() -> Vec<Self> {
        let mut databases = vec![Self::sqlite()];
        databases.extend(Self::postgres().await);
        databases
    }
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
    pub address: SocketAddr,
    pub dispatcher: Arc<Dispatcher>,
    pub database: Option<TestDatabase>,
    config: Config,
    stop: CancellationToken,
    running: Option<actix_rt::task::JoinHandle<std::io::Result<()>>>,
}

/// A simulated node without delays.
pub async fn fast_node() -> SimNode {
    SimNode::start(SimConfig::fast()).await.unwrap()
}

/// How a node stands in the configuration.
pub fn node(name: &str, url: String, slots: u32) -> NodeSettings {
    NodeSettings { name: name.to_owned(), url, slots, vram_gb: None, api_key: None }
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
    let mut config = Config { nodes, ..Config::default() };
    config.server.bind = "127.0.0.1:0".to_owned();
    config.server.workers = 2;
    config.server.drain_seconds = 2;
    config.database.url = database.url.clone();
    config.health.probe_interval_ms = 50;
    change(&mut config);
    TestApp::start(config, database).await
}

impl TestApp {
    async fn start(config: Config, database: TestDatabase) -> Self {
        let app = App::build(config.clone(), KeyDigest::of(ADMIN_KEY)).await.unwrap();
        let (address, dispatcher, stop) = (app.address(), app.dispatcher(), CancellationToken::new());
        let running = Some(actix_rt::spawn(app.run(stop.clone())));
        let app = Self { address, dispatcher, database: Some(database), config, stop, running };
        app.settle().await;
        app
    }

    /// Waits until every node has been probed once: it is up, or its last error is known.
    async fn settle(&self) {
        eventually("the nodes are probed", || {
            self.dispatcher.read(|scheduler| {
                let known =
                    |node: &ollama_gateway::scheduler::NodeView| node.last_error.is_some() || !node.models.is_empty();
                scheduler.nodes().iter().all(known)
            })
        })
        .await;
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
        assert!(self.running.is_none() || std::thread::panicking(), "call stop() at the end of the test");
    }
}

pub fn chat_body(model: &str, prompt: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": prompt}]})
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

/// Waits for a condition, but not for ever.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let waiting = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "{place}: waited in vain until {what}");
    }
}
