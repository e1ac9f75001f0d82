//! Gateways with a link between them and one Postgres, each at an address that it keeps over restarts.
use std::net::{SocketAddr, TcpListener};

use ollama_sim::{SimConfig, SimNode};
use serde_json::{Value, json};

use crate::gateway::{ADMIN_KEY, Gateway, Home, wait_for};

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

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
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
