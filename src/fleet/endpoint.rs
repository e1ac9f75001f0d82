//! How is one node reached? Its addresses, headers, trusted certificates and deadlines, built once from its settings.
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use actix_http::Uri;
use actix_http::header::{HeaderName, HeaderValue};
use rustls::ClientConfig;

use super::credentials::{headers, trust};
use super::kind::{Kind, NodeKind};
use super::listing::key_of;
use super::loads::NodeLoads;
use super::settings::NodeSettings;
use crate::flaw::Flaw;
use protocol::Endpoint;
use scheduler::NodeSpec;

/// What a node was found to be.
const UNKNOWN: u8 = 0;
const OLLAMA: u8 = 1;
const OPENAI: u8 = 2;

/// A node as the relay sees it.
pub struct NodeEndpoint {
    /// The configured name.
    pub name: Arc<str>,
    /// In the order of [`Endpoint::ALL`].
    routes: Vec<Uri>,
    version: Uri,
    tags: Uri,
    ps: Uri,
    show: Uri,
    pull: Uri,
    delete: Uri,
    /// The list of models, if the node is not Ollama.
    models: Uri,
    props: Uri,
    /// The configured health path.
    health: Option<Uri>,
    default_health: Uri,
    /// The configured kind.
    pub(crate) kind: NodeKind,
    /// The kind that it was found to be.
    found: AtomicU8,
    /// For a node that is not Ollama: its own model names, by [`key_of`] their names here.
    names_there: RwLock<BTreeMap<String, String>>,
    /// Names here, and the node's own names for the same models.
    pub(crate) aliases: BTreeMap<String, String>,
    /// Credentials and other headers; sent to this node only.
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether the node has refused them since it was last asked about.
    denied: AtomicBool,
    /// For https: the authorities that the node's certificate may come from.
    tls: Option<Arc<ClientConfig>>,
    /// The address to connect to, if it is not what the URL's host resolves to.
    address: Option<SocketAddr>,
    connect: Option<Duration>,
    first_byte: Option<Duration>,
    chunk_gap: Option<Duration>,
    probe: Option<Duration>,
    listing: Option<Duration>,
    /// What the scheduler is told about it.
    pub(crate) spec: NodeSpec,
    /// Which requests are charged for its loads.
    pub(crate) loads: Arc<NodeLoads>,
}

impl fmt::Debug for NodeEndpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("NodeEndpoint").field("name", &self.name).finish_non_exhaustive()
    }
}

impl NodeEndpoint {
    /// Builds an endpoint, and reads the files that the settings name.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub fn new(settings: &NodeSettings) -> Result<Self, Flaw> {
        let base = base_of(settings);
        let uri = |path: &str| uri(base, path);
        let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        let millis = |millis: Option<u64>| millis.map(Duration::from_millis);
        Ok(Self {
            name: settings.name.as_str().into(),
            routes: Endpoint::ALL.into_iter().map(|endpoint| uri(endpoint.path())).collect::<Result<_, _>>()?,
            version: uri("/api/version")?,
            tags: uri("/api/tags")?,
            ps: uri("/api/ps")?,
            show: uri("/api/show")?,
            pull: uri("/api/pull")?,
            delete: uri("/api/delete")?,
            models: uri("/v1/models")?,
            props: uri("/props")?,
            health: settings.health_path.as_deref().map(|path| health(base, path)).transpose()?,
            default_health: uri("/health")?,
            kind: settings.kind,
            found: AtomicU8::new(UNKNOWN),
            names_there: RwLock::default(),
            aliases: settings.aliases.clone(),
            headers: headers(settings)?,
            denied: AtomicBool::new(false),
            tls: trust(settings)?,
            address: None,
            connect: millis(settings.connect_ms),
            first_byte: seconds(settings.first_byte_seconds),
            chunk_gap: seconds(settings.chunk_gap_seconds),
            probe: millis(settings.probe_timeout_ms),
            listing: seconds(settings.listing_timeout_seconds),
            spec: settings.spec(),
            loads: Arc::default(),
        })
    }

    /// Everything that makes the settings unusable.
    pub(super) fn flaws(settings: &NodeSettings) -> Vec<Flaw> {
        let base = base_of(settings);
        let address = uri(base, "/api/version").err();
        let health = settings.health_path.as_deref().and_then(|path| health(base, path).err());
        [address, health, headers(settings).err(), trust(settings).err()].into_iter().flatten().collect()
    }

    /// The same node at exactly this address. The host in its URL is still sent in the `host` header, and a certificate
    /// must be issued for it.
    #[must_use]
    pub fn at(mut self, address: SocketAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// Where it is, in one form for all ways to write it: address or host, port, and path before its own. With what stands
    /// for its headers, because a proxy may choose by them.
    pub(super) fn place(&self) -> String {
        let uri = &self.version;
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
        // `[::ffff:10.0.0.1]`, `10.0.0.1` and a host that resolved to it are one place.
        let address = self.address.map(|address| address.ip()).or_else(|| host.parse::<IpAddr>().ok());
        let host = match address {
            Some(address) => address.to_canonical().to_string(),
            None if host == "localhost" => "127.0.0.1".to_owned(),
            None => host,
        };
        let port = self.address.map_or(port, |address| address.port());
        let mut hasher = DefaultHasher::new();
        self.headers.hash(&mut hasher);
        format!("{host} {port} {} {:x}", uri.path(), hasher.finish())
    }

    /// The URI of a route on this node.
    pub fn uri(&self, endpoint: Endpoint) -> &Uri {
        // The discriminants are indexes into `ALL`.
        &self.routes[endpoint as usize]
    }

    pub(crate) fn version_uri(&self) -> &Uri {
        &self.version
    }

    pub(crate) fn tags_uri(&self) -> &Uri {
        &self.tags
    }

    pub(crate) fn ps_uri(&self) -> &Uri {
        &self.ps
    }

    pub(crate) fn show_uri(&self) -> &Uri {
        &self.show
    }

    pub(crate) fn pull_uri(&self) -> &Uri {
        &self.pull
    }

    pub(crate) fn delete_uri(&self) -> &Uri {
        &self.delete
    }

    pub(crate) fn models_uri(&self) -> &Uri {
        &self.models
    }

    pub(crate) fn props_uri(&self) -> &Uri {
        &self.props
    }

    /// The operator's health path.
    pub(crate) fn health_uri(&self) -> Option<&Uri> {
        self.health.as_ref()
    }

    /// The health path that most servers have.
    pub(crate) fn default_health_uri(&self) -> &Uri {
        &self.default_health
    }

    /// Its kind, as the operator says or as it was found to be; Ollama until then.
    pub(crate) fn found_kind(&self) -> Kind {
        match (self.kind, self.found.load(Ordering::Relaxed)) {
            (NodeKind::OpenAi, _) | (NodeKind::Auto, OPENAI) => Kind::OpenAi,
            _ => Kind::Ollama,
        }
    }

    /// Keeps what was found out about the node, now that its settings have changed.
    pub(super) fn remember(&self, before: &Self) {
        self.found.store(before.found.load(Ordering::Relaxed), Ordering::Relaxed);
        self.calls_its_models(before.names_there.read().unwrap_or_else(PoisonError::into_inner).clone());
    }

    /// The path by which it is probed, for operators to read.
    pub(crate) fn probed_path(&self) -> &str {
        match self.found_kind() {
            Kind::Ollama => self.version.path(),
            Kind::OpenAi => self.health.as_ref().unwrap_or(&self.default_health).path(),
        }
    }

    /// Whether it is Ollama, as far as is known.
    pub(crate) fn is_ollama(&self) -> bool {
        self.found_kind() == Kind::Ollama
    }

    /// Records what it was found to be.
    pub(crate) fn found(&self, kind: Kind) {
        self.found.store(if kind == Kind::OpenAi { OPENAI } else { OLLAMA }, Ordering::Relaxed);
    }

    /// The node's own name for the model, if it differs from the name here.
    pub(crate) fn name_there(&self, model: &str) -> Option<String> {
        if self.is_ollama() {
            return None;
        }
        let names = self.names_there.read().unwrap_or_else(PoisonError::into_inner);
        names.get(&key_of(model)).filter(|named| *named != model).cloned()
    }

    /// Records the node's own names for its models.
    pub(crate) fn calls_its_models(&self, names: BTreeMap<String, String>) {
        *self.names_there.write().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// The headers of every request to this node, and to no other.
    pub(crate) fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    /// Whether it has the same credentials and other headers.
    pub(super) fn has_headers_of(&self, other: &Self) -> bool {
        self.headers == other.headers
    }

    /// The node answered that its credentials are wrong.
    pub(super) fn deny(&self) {
        self.denied.store(true, Ordering::Relaxed);
    }

    /// Whether the node has refused its credentials since the last call.
    pub(super) fn take_denied(&self) -> bool {
        self.denied.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn tls(&self) -> Option<Arc<ClientConfig>> {
        self.tls.clone()
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The longest wait for a connection, if it differs from the relay's.
    pub(crate) fn connect(&self) -> Option<Duration> {
        self.connect
    }

    /// The longest wait for the first byte, if it differs from the relay's.
    pub(crate) fn first_byte(&self) -> Option<Duration> {
        self.first_byte
    }

    /// The longest silence within an answer, if it differs from the relay's.
    pub(crate) fn chunk_gap(&self) -> Option<Duration> {
        self.chunk_gap
    }

    /// The longest wait for a listing, if it differs from the common setting.
    pub(crate) fn listing(&self) -> Option<Duration> {
        self.listing
    }

    /// The longest wait for a probe's answer, if it differs from the common setting.
    pub(crate) fn probe(&self) -> Option<Duration> {
        self.probe
    }
}

/// The URL without the beginning that all paths share: many people write `/v1` at the end of an OpenAI base URL.
fn base_of(settings: &NodeSettings) -> &str {
    let base = settings.url.trim_end_matches('/');
    base.strip_suffix("/v1").unwrap_or(base)
}

fn health(base: &str, path: &str) -> Result<Uri, Flaw> {
    let flaw = || Flaw::new("health_path", "expected a path such as /health", "");
    if path.starts_with('/') { uri(base, path).map_err(|_| flaw()) } else { Err(flaw()) }
}

fn uri(base: &str, path: &str) -> Result<Uri, Flaw> {
    let flaw = |why: String| Flaw::new("url", why, "without a query or credentials");
    let uri: Uri = format!("{base}{path}").parse().map_err(|error| flaw(format!("{error}")))?;
    // Anything before the route's own path is where a proxy serves the node.
    let prefix = uri.path().strip_suffix(path).map(|prefix| prefix.split('/'));
    // A prefix with dots would be another path by the time the node reads it.
    let plain = prefix.is_some_and(|mut parts| parts.all(|part| !matches!(part, "." | "..")))
        && uri.query().is_none()
        && uri.host().is_some_and(|host| !host.is_empty());
    let user_info = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    match uri.scheme_str() {
        Some("http" | "https") if plain && !user_info => Ok(uri),
        _ => Err(flaw("expected http://HOST:PORT or https://HOST:PORT, and perhaps a path".to_owned())),
    }
}
