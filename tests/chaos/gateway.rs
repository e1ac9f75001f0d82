//! The gateway as a process of its own, alone or with links to others on one Postgres.
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use ollama_sim::{SimConfig, SimNode};
use serde_json::{Value, json};

use crate::address::free_address;
use crate::load::{Answer, exchange};

pub const ADMIN_KEY: &str = "admin-secret-key";
/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Where a gateway lives over its many lives.
pub struct Home {
    pub folder: PathBuf,
    /// Names of settings and their values, as in the environment.
    pub settings: Vec<(String, String)>,
}

impl Home {
    /// A gateway in this folder, with nodes at these addresses.
    pub fn new(folder: &Path, nodes: &[String], database: &str) -> Self {
        let nodes: Vec<Value> = nodes
            .iter()
            .enumerate()
            .map(|(index, url)| json!({"name": format!("node-{index}"), "url": url, "slots": 8}))
            .collect();
        let settings = [
            ("SERVER__BIND", "127.0.0.1:0".to_owned()),
            ("SERVER__WORKERS", "1".to_owned()),
            ("SERVER__DRAIN_SECONDS", "5".to_owned()),
            ("ADMIN__KEY", ADMIN_KEY.to_owned()),
            ("DATABASE__URL", database.to_owned()),
            ("DATABASE__OUTBOX", folder.join("outbox.db").display().to_string()),
            ("HEALTH__PROBE_INTERVAL_MS", "50".to_owned()),
            ("NODES", json!(nodes).to_string()),
        ];
        let settings = settings.into_iter().map(|(name, value)| (format!("GATEWAY__{name}"), value)).collect();
        Self { folder: folder.to_path_buf(), settings }
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.push((format!("GATEWAY__{name}"), value.to_owned()));
    }

    pub fn log(&self) -> PathBuf {
        self.folder.join("gateway.log")
    }

    /// Starts it; returns once it listens.
    pub async fn start(&self) -> Gateway {
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let begin = log.metadata().unwrap().len() as usize;
        let built = env!("CARGO_BIN_EXE_ollama-gateway").to_owned();
        let mut command = Command::new(std::env::var("CHAOS_GATEWAY").unwrap_or(built));
        command.current_dir(&self.folder).stdout(log.try_clone().unwrap()).stderr(log);
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        let started = Instant::now();
        let mut child = command.spawn().unwrap();
        loop {
            let said = std::fs::read(self.log()).unwrap();
            let said = String::from_utf8_lossy(&said[begin..]).into_owned();
            let address = said.lines().find_map(|line| line.trim().strip_prefix("API")?.trim().strip_prefix("http://"));
            if let Some(address) = address.and_then(|address| address.strip_suffix("/v1")) {
                return Gateway { child, address: address.parse().unwrap() };
            }
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the gateway does not start ({status}):\n{said}");
            }
            assert!(started.elapsed() < PATIENCE, "the gateway does not start:\n{said}");
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
}

/// A running gateway. It ends with its handle, killed.
pub struct Gateway {
    child: Child,
    pub address: SocketAddr,
}

impl Gateway {
    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// As `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// As an orderly stop.
    pub async fn stop(mut self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let started = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < PATIENCE, "the gateway does not stop");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The process does nothing for a while, as if its machine were suspended.
    pub async fn pause(&self, time: Duration) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-STOP", &id]).status().unwrap().success());
        tokio::time::sleep(time).await;
        assert!(Command::new("kill").args(["-CONT", &id]).status().unwrap().success());
    }

    pub async fn ask(&self, method: &str, path: &str, key: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        exchange(self.address, method, path, key, &body, PATIENCE).await
    }

    /// Makes a user; the key.
    pub async fn user(&self, name: &str) -> String {
        self.user_with(name, json!({})).await
    }

    /// Makes a user with limits; the key.
    pub async fn user_with(&self, name: &str, limits: Value) -> String {
        let mut body = limits;
        body["user_id"] = name.into();
        let answer = self.ask("POST", "/admin/users", ADMIN_KEY, &body).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        body["api_key"].as_str().unwrap().to_owned()
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.ask("GET", "/metrics", "", &Value::Null).await.body;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()).unwrap()
    }

    pub async fn is_ready(&self) -> bool {
        self.ask("GET", "/health/ready", "", &Value::Null).await.status == 200
    }

    /// Waits until a node can serve.
    pub async fn settle(&self) {
        wait_for("a node is up", async || self.ask("GET", "/health", "", &Value::Null).await.status == 200).await;
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a condition, but not for ever.
pub async fn wait_for(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Nodes with so many slots each, which write a hundred tokens a second whatever runs beside, and their settings.
pub async fn nodes(slots: &[usize]) -> (Vec<SimNode>, Value) {
    let (mut nodes, mut listed) = (Vec::new(), Vec::new());
    for (index, slots) in slots.iter().copied().enumerate() {
        let config = SimConfig { slots, tokens_per_second: 100.0, batch_slowdown: 0.0, ..SimConfig::warm() };
        let node = SimNode::start(config).await.unwrap();
        listed.push(json!({"name": format!("node-{index}"), "url": node.url(), "slots": slots}));
        nodes.push(node);
    }
    (nodes, json!(listed))
}

/// Waits until a gateway knows a key that another one has made.
pub async fn until_known(gateway: &Gateway, key: &str) {
    let knows = async || gateway.ask("GET", "/v1/models", key, &Value::Null).await.status == 200;
    wait_for("it knows the key", knows).await;
}

/// A gateway that is not started yet, and its address.
pub fn home(folder: &tempfile::TempDir, nodes: &Value, database: &str) -> (Home, SocketAddr) {
    let mut home = Home::new(folder.path(), &[], database);
    let (address, link) = (free_address(), free_address());
    home.set("SERVER__BIND", &address.to_string());
    home.set("NODES", &nodes.to_string());
    home.set("CLUSTER__BIND", &link.to_string());
    home.set("CLUSTER__ADVERTISE", &format!("http://{link}"));
    (home, address)
}

/// What it says of its part in scheduling.
async fn scheduling(gateway: &Gateway) -> Value {
    let answer = gateway.ask("GET", "/admin/queue", ADMIN_KEY, &Value::Null).await;
    serde_json::from_str::<Value>(&answer.body).map_or_else(|_| json!({}), |queue| queue["scheduling"].clone())
}

pub async fn is(gateway: &Gateway, role: &str) -> bool {
    scheduling(gateway).await["role"] == role
}

/// Waits until it leads or follows.
pub async fn until_in_order(gateway: &Gateway) {
    let is_in_order = async || {
        let scheduling = scheduling(gateway).await;
        matches!(scheduling["role"].as_str(), Some("leading" | "following")) && scheduling["is_settled"] == true
    };
    wait_for("it leads or follows", is_in_order).await;
}
