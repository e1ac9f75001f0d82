//! What is taken from clients, and for how long are they waited for?
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What is taken from clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Where to listen. Anything but loopback needs a strong admin key. Default `127.0.0.1:8000`.
    pub bind: String,
    /// Threads that serve requests; 0 = one for each core. Default 0.
    pub workers: usize,
    /// Largest request body, bytes. Default 67108864 (64 MiB).
    pub max_body_bytes: usize,
    /// Longest time for a request's body to arrive, seconds. Default 60.
    pub body_seconds: u64,
    /// How long an idle connection is kept, seconds. Default 75.
    pub keep_alive_seconds: u64,
    /// How long a client may leave what was sent to it unread before its connection is closed, seconds. Default 30.
    pub client_stall_seconds: u64,
    /// Networks whose clients need no key, for those that cannot send one. Not for an address behind a proxy, where every
    /// client comes from the proxy. Default none.
    pub trusted_networks: Vec<TrustedNetwork>,
    /// Wrong keys that one network may send in a minute; further ones get 429. Default 10.
    pub guesses_per_minute: u32,
    /// Origins whose pages may call the API from a browser: `*` = any, an empty list = none. Never `/admin`.
    /// Default `["*"]`.
    pub cors_origins: Vec<String>,
    /// How long running requests may go on after SIGTERM, seconds. Default 120.
    pub drain_seconds: u64,
}

/// A network that stands for a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustedNetwork {
    /// Such as `10.1.0.0/16` or `fd00::/8`.
    pub cidr: IpNet,
    /// The user whose limits and usage its requests count towards.
    pub user: String,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            bind: "127.0.0.1:8000".to_owned(),
            workers: 0,
            max_body_bytes: 64 * 1024 * 1024,
            body_seconds: 60,
            keep_alive_seconds: 75,
            client_stall_seconds: 30,
            trusted_networks: Vec::new(),
            guesses_per_minute: 10,
            cors_origins: vec!["*".to_owned()],
            drain_seconds: 120,
        }
    }
}
