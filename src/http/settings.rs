//! The settings of the server: what it accepts from clients, and how long it waits for them.
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::tls::TlsSettings;

/// What the gateway accepts from clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Address and port to listen on. Any address other than loopback requires a strong admin key. Default
    /// `127.0.0.1:8000`.
    pub bind: String,
    /// How clients are served over TLS.
    pub tls: TlsSettings,
    /// Threads that serve requests; 0 = one per core. Default `0`.
    pub workers: usize,
    /// Largest request body, bytes; a larger one gets 413. The default is 64 MiB. Default `67108864`.
    pub max_body_bytes: usize,
    /// Memory for the bodies of all requests that arrive, wait or run, bytes; one user's may take a quarter of it. At least
    /// `max_body_bytes`. The default is 512 MiB. Default `536870912`.
    pub body_memory_bytes: usize,
    /// Time a request's body may take to arrive, seconds; a slower one gets 408. Default `60`.
    pub body_seconds: u64,
    /// How long an idle client connection is kept open, seconds; over HTTP/2, after how long a silent client is asked
    /// whether it is still there. Default `75`.
    pub idle_connection_seconds: u64,
    /// How long a client may leave its answer unread before its connection is closed, or over HTTP/2 the answer ended,
    /// seconds. Default `30`.
    pub client_stall_seconds: u64,
    /// Networks whose clients need no key, for programs that cannot send one: `[{cidr: 10.1.0.0/16, user: lab}]`.
    /// The user must exist. A key that is not known counts as none there: programs that talk to Ollama send a
    /// placeholder. Do not list a reverse proxy's address: every client would appear to come from it. Default none.
    pub trusted_networks: Vec<TrustedNetwork>,
    /// Wrong keys that one network (an IPv4 address or an IPv6 /64) may send per minute before it gets 429. A valid
    /// key is never throttled. Behind a reverse proxy, all clients share one allowance. Default `10`.
    pub guesses_per_minute: u32,
    /// Origins whose pages may call the API from a browser; `"*"` = any, `[]` = none. `/admin` is never open to
    /// them. Default `["*"]`.
    pub cors_origins: Vec<String>,
    /// Whether pages of public sites may reach a gateway on a private network, which Chromium asks for first. Default
    /// `false`.
    pub cors_private_network: bool,
    /// Whether `/console` shows the web console. Default `true`.
    pub console: bool,
    /// How long after SIGTERM every request is still served, seconds, though the gateway is not ready any more, so that
    /// balancers can notice before it refuses requests; at most half of `drain_seconds`. 0 = the gateway is alone, and
    /// new connections are refused at once. Default `0`.
    pub lame_duck_seconds: u64,
    /// How long running requests may continue after SIGTERM, seconds; 0 = they are ended at once. Default `120`.
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
            tls: TlsSettings::default(),
            workers: 0,
            max_body_bytes: 64 * 1024 * 1024,
            body_memory_bytes: 512 * 1024 * 1024,
            body_seconds: 60,
            idle_connection_seconds: 75,
            client_stall_seconds: 30,
            trusted_networks: Vec::new(),
            guesses_per_minute: 10,
            cors_origins: vec!["*".to_owned()],
            cors_private_network: false,
            console: true,
            lame_duck_seconds: 0,
            drain_seconds: 120,
        }
    }
}
