//! One of several gateways with a common scheduler, whose process, link and way to Postgres can be struck.
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use serde_json::Value;

use crate::address::free_address;
use crate::gateway::{ADMIN_KEY, Gateway, Home};
use crate::wire::Wire;

/// How many gateways there are.
pub const GATEWAYS: usize = 3;
const LEASE_SECONDS: u64 = 10;

/// A gateway in its many lives, and its ways to the others and to Postgres.
pub struct Seat {
    home: Home,
    pub link: Wire,
    pub postgres: Wire,
    pub gateway: Option<Gateway>,
    pub address: Rc<Cell<Option<SocketAddr>>>,
    /// Grows when it is ended.
    pub lives: Rc<Cell<u64>>,
    /// When it was last woken from a pause.
    pub woken: Rc<Cell<Option<Instant>>>,
    _folder: tempfile::TempDir,
}

impl Seat {
    pub async fn new(nodes: &Value, database: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bind = free_address();
        let (server, name) = database.trim_start_matches("postgres://postgres@").split_once('/').unwrap();
        let (link, postgres) = (Wire::to(bind).await, Wire::to(server.parse().unwrap()).await);
        let mut home = Home::new(folder.path(), &[], &format!("postgres://postgres@{}/{name}", postgres.address));
        home.set("DATABASE__LEASE_SECONDS", &LEASE_SECONDS.to_string());
        home.set("NODES", &nodes.to_string());
        home.set("CLUSTER__BIND", &bind.to_string());
        home.set("CLUSTER__ADVERTISE", &format!("http://{}", link.address));
        Self {
            home,
            link,
            postgres,
            gateway: None,
            address: Rc::default(),
            lives: Rc::default(),
            woken: Rc::default(),
            _folder: folder,
        }
    }

    pub async fn start(&mut self) {
        self.link.begin().await;
        let gateway = self.home.start().await;
        // As a load balancer, clients wait for that.
        gateway.settle().await;
        self.address.set(Some(gateway.address));
        self.gateway = Some(gateway);
    }

    pub fn take(&mut self) -> Gateway {
        self.lives.set(self.lives.get() + 1);
        self.address.set(None);
        self.gateway.take().unwrap()
    }

    async fn scheduling(&self) -> Option<Value> {
        let answer = self.gateway.as_ref()?.ask("GET", "/admin/queue", ADMIN_KEY, &Value::Null).await;
        serde_json::from_str::<Value>(&answer.body).ok().map(|queue| queue["scheduling"].clone())
    }

    pub async fn leads(&self) -> bool {
        self.scheduling().await.is_some_and(|it| it["role"] == "leading" && it["is_settled"] == true)
    }

    pub async fn is_settled(&self) -> bool {
        let Some(scheduling) = self.scheduling().await else { return false };
        let has_part = match scheduling["role"].as_str() {
            Some("leading" | "following") => true,
            // They fall back to shares if they find no leader for too long.
            Some("sharing") => scheduling["gateways"] == GATEWAYS,
            _ => false,
        };
        has_part && scheduling["is_settled"] == true
    }
}
