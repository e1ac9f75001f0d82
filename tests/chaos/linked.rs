//! Gateways with a link between them and one Postgres, each at an address that it keeps over restarts.
use std::net::{SocketAddr, TcpListener};

use serde_json::{Value, json};

use crate::gateway::{ADMIN_KEY, Gateway, Home, wait_for};

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
