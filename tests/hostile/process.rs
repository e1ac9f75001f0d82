//! A gateway in a process of its own, whose memory and files can be looked at and limited. `HOSTILE_GATEWAY` is another
//! binary to attack than the one that was built beside the tests.
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use awc::http::Method;
use bytes::Bytes;
use ollama_sim::SimNode;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};

use crate::good::Door;
use crate::harness::{ADMIN_KEY, PATIENCE, Reply, client, let_pass, read, wait_for};

/// Killed when it is dropped.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Process {
    /// A gateway on SQLite over these nodes, with eight slots each; returns once a node is up. `settings` are named as in the
    /// environment.
    pub async fn start(simulated: &[&SimNode], settings: &[(&str, &str)]) -> Self {
        Self::start_with(simulated, settings, None).await
    }

    /// The same with so many file descriptors at most.
    pub async fn start_with(simulated: &[&SimNode], settings: &[(&str, &str)], descriptors: Option<u32>) -> Self {
        let urls: Vec<String> = simulated.iter().map(|node| node.url()).collect();
        Self::start_at(&urls, settings, descriptors).await
    }

    /// The same over nodes at these addresses.
    pub async fn start_at(urls: &[String], settings: &[(&str, &str)], descriptors: Option<u32>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = |(index, url): (usize, &String)| json!({"name": format!("n{index}"), "url": url, "slots": 8});
        let nodes: Vec<Value> = urls.iter().enumerate().map(node).collect();
        let log = File::create(folder.path().join("gateway.log")).unwrap();
        let limit = descriptors.map_or_else(String::new, |most| format!("ulimit -n {most}; "));
        let built = env!("CARGO_BIN_EXE_ollama-gateway").to_owned();
        let mut command = Command::new("/bin/sh");
        let binary = std::env::var("HOSTILE_GATEWAY").unwrap_or(built);
        command.args(["-c", &format!("{limit}exec {binary}")]);
        command.current_dir(&folder).env_clear().stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let own = [
            ("SERVER__BIND", "127.0.0.1:0".to_owned()),
            ("SERVER__WORKERS", "2".to_owned()),
            ("ADMIN__KEY", ADMIN_KEY.to_owned()),
            ("NODES", json!(nodes).to_string()),
        ];
        let all = own.into_iter().chain(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        command.envs(all.map(|(name, value)| (format!("GATEWAY__{name}"), value)));
        let mut process = Self { child: command.spawn().unwrap(), address: ([127, 0, 0, 1], 0).into(), folder };
        let began = Instant::now();
        while process.address.port() == 0 {
            assert!(process.child.try_wait().unwrap().is_none() && began.elapsed() < 3 * PATIENCE, "{}", process.log());
            let_pass(std::time::Duration::from_millis(10)).await;
            let log = process.log();
            let address = log.lines().find_map(|line| line.trim().strip_prefix("API")?.trim().strip_prefix("http://"));
            if let Some(address) = address.and_then(|address| address.strip_suffix("/v1")) {
                process.address = address.parse().unwrap();
            }
        }
        wait_for("a node is up", async || process.get("/health").await.status == 200).await;
        process
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("gateway.log")).unwrap()
    }

    async fn send(&self, method: Method, path: &str, key: &str, body: impl Into<Bytes>) -> Reply {
        let request = client().request(method, format!("http://{}{path}", self.address)).bearer_auth(key);
        let request = request.insert_header(("content-type", "application/json"));
        read(request.send_body(body.into()).await.unwrap()).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.get_as(path, ADMIN_KEY).await
    }

    pub async fn get_as(&self, path: &str, key: &str) -> Reply {
        self.send(Method::GET, path, key, Bytes::new()).await
    }

    pub async fn user_with(&self, name: &str, limits: Value) -> String {
        let mut body = limits;
        body["user_id"] = name.into();
        let reply = self.ask("/admin/users", ADMIN_KEY, body).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        reply.json()["api_key"].as_str().unwrap().to_owned()
    }

    /// Two users who do nothing wrong.
    pub async fn good_users(&self) -> Vec<String> {
        vec![self.user_with("ann", json!({})).await, self.user_with("bob", json!({})).await]
    }

    fn status(&self, what: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let value = status.lines().find_map(|line| line.strip_prefix(what)?.split_whitespace().next());
        value.unwrap().parse::<f64>().unwrap() / 1024.0
    }

    /// Memory now, in MiB. From here on [`Process::peak_mib`] counts anew.
    pub fn rss_mib(&self) -> f64 {
        File::options()
            .write(true)
            .open(format!("/proc/{}/clear_refs", self.child.id()))
            .unwrap()
            .write_all(b"5")
            .unwrap();
        self.status("VmRSS:")
    }

    /// The most memory since the last look.
    pub fn peak_mib(&self) -> f64 {
        self.status("VmHWM:")
    }

    /// From now on it can open no file more than it has, until [`Process::relax`].
    pub fn starve(&self) {
        let free =
            (0..).find(|number| !std::path::Path::new(&format!("/proc/{}/fd/{number}", self.child.id())).exists());
        self.set_limit(free);
    }

    pub fn relax(&self) {
        self.set_limit(Some(1024));
    }

    fn set_limit(&self, current: Option<u64>) {
        let pid = Pid::from_raw(self.child.id() as i32);
        prlimit(pid, Resource::Nofile, Rlimit { current, maximum: Some(1024) }).unwrap();
    }

    /// The states of the nodes.
    pub async fn states(&self) -> Vec<String> {
        let nodes = self.get("/admin/nodes").await.json();
        nodes["data"].as_array().unwrap().iter().map(|node| node["state"].as_str().unwrap().to_owned()).collect()
    }
}

impl Door for Process {
    async fn ask(&self, path: &str, key: &str, body: Value) -> Reply {
        self.send(Method::POST, path, key, body.to_string()).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
