//! A node's addresses, headers, trust and deadlines, made once of its settings.
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix_tls::connect::rustls_0_23::webpki_roots_cert_store;
use awc::http::Uri;
use awc::http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::ClientConfig;

use super::flaw::Flaw;
use super::loads::NodeLoads;
use super::pinned::Pinned;
use super::settings::NodeSettings;
use protocol::Endpoint;

/// Headers that are ours, the connection's, or have settings of their own.
const RESERVED: [&str; 12] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "te",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
];

/// A node as the relay speaks to it.
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
    /// Credentials and other headers for this node, and for no other.
    headers: Vec<(HeaderName, HeaderValue)>,
    /// For https: whom the node's certificate must be signed by.
    tls: Option<Arc<ClientConfig>>,
    /// Where to connect to, if that is not what the name in the URL resolves to.
    address: Option<SocketAddr>,
    connect: Option<Duration>,
    first_byte: Option<Duration>,
    chunk_gap: Option<Duration>,
    probe: Option<Duration>,
    /// Who pays for them.
    pub(crate) loads: Arc<NodeLoads>,
}

impl fmt::Debug for NodeEndpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("NodeEndpoint").field("name", &self.name).finish_non_exhaustive()
    }
}

impl NodeEndpoint {
    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub fn new(settings: &NodeSettings) -> Result<Self, Flaw> {
        let base = settings.url.trim_end_matches('/');
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
            headers: headers(settings)?,
            tls: trust(settings)?,
            address: None,
            connect: millis(settings.connect_ms),
            first_byte: seconds(settings.first_byte_seconds),
            chunk_gap: seconds(settings.chunk_gap_seconds),
            probe: millis(settings.probe_timeout_ms),
            loads: Arc::default(),
        })
    }

    /// Everything for which there can be no endpoint.
    pub(super) fn flaws(settings: &NodeSettings) -> Vec<Flaw> {
        let address = uri(settings.url.trim_end_matches('/'), "/api/version").err();
        [address, headers(settings).err(), trust(settings).err()].into_iter().flatten().collect()
    }

    /// The same node at this very address; its name in the URL still goes into the `host` header and is what a
    /// certificate must be for.
    #[must_use]
    pub fn at(mut self, address: SocketAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// Where a route is on this node.
    pub fn uri(&self, endpoint: Endpoint) -> &Uri {
        // The discriminants count from zero in the order of `ALL`.
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

    /// The headers of every request to this node, and to no other.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        self.headers.iter().cloned()
    }

    pub(crate) fn tls(&self) -> Option<Arc<ClientConfig>> {
        self.tls.clone()
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Longest wait for a connection, if not the relay's.
    pub(crate) fn connect(&self) -> Option<Duration> {
        self.connect
    }

    /// Longest wait for the first byte, if not the relay's.
    pub(crate) fn first_byte(&self) -> Option<Duration> {
        self.first_byte
    }

    /// Longest silence within an answer, if not the relay's.
    pub(crate) fn chunk_gap(&self) -> Option<Duration> {
        self.chunk_gap
    }

    /// Longest wait for a sign of life, if not that of all nodes.
    pub(crate) fn probe(&self) -> Option<Duration> {
        self.probe
    }
}

fn uri(base: &str, path: &str) -> Result<Uri, Flaw> {
    let flaw = |why: String| Flaw::new("url", why, "without credentials");
    let uri: Uri = format!("{base}{path}").parse().map_err(|error| flaw(format!("{error}")))?;
    // Whatever comes before the route's own path is where a proxy has put the node.
    let prefix = uri.path().strip_suffix(path).map(|prefix| prefix.split('/'));
    let plain = prefix.is_some_and(|mut parts| parts.all(|part| !matches!(part, "." | "..")))
        && uri.query().is_none()
        && uri.host().is_some_and(|host| !host.is_empty());
    let user_info = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    match uri.scheme_str() {
        Some("http" | "https") if plain && !user_info => Ok(uri),
        _ => Err(flaw("expected http://HOST:PORT or https://HOST:PORT, and perhaps a path".to_owned())),
    }
}

fn headers(settings: &NodeSettings) -> Result<Vec<(HeaderName, HeaderValue)>, Flaw> {
    let mut headers = Vec::new();
    if let Some(credentials) = credentials(settings)? {
        headers.push((AUTHORIZATION, credentials));
    }
    for (name, value) in &settings.headers {
        headers.push((header_name("headers", name)?, header_value("headers", name, value)?));
    }
    for (name, path) in &settings.header_files {
        let key = "header_files";
        if settings.headers.keys().any(|other| other.eq_ignore_ascii_case(name)) {
            return Err(Flaw::new(key, format!("`headers` has `{name}` as well"), "give one of them"));
        }
        headers.push((header_name(key, name)?, header_value(key, name, &read_secret(key, path)?)?));
    }
    Ok(headers)
}

/// The `Authorization` header, by key or by name and password.
fn credentials(settings: &NodeSettings) -> Result<Option<HeaderValue>, Flaw> {
    let api_key = secret(("api_key", &settings.api_key), ("api_key_file", &settings.api_key_file))?;
    let password = secret(("password", &settings.password), ("password_file", &settings.password_file))?;
    let value = match (api_key, &settings.username, password) {
        (None, None, None) => return Ok(None),
        (Some((key, api_key)), None, None) => {
            if api_key.is_empty() || !api_key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(Flaw::new(key, "expected printable characters without blanks", ""));
            }
            format!("Bearer {api_key}")
        }
        (None, Some(username), Some((_, password))) => {
            if username.contains(':') || username.chars().any(char::is_control) {
                return Err(Flaw::new("username", "a name holds no colon and no control characters", ""));
            }
            format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
        }
        (Some((key, _)), Some(_), _) => {
            return Err(Flaw::new("username", format!("`{key}` is given as well"), "a key or a name, not both"));
        }
        (None, Some(_), None) => return Err(Flaw::new("username", "the password is not given", "or password_file")),
        (_, None, Some((key, _))) => return Err(Flaw::new(key, "`username` is not given", "")),
    };
    header_value("api_key", "authorization", &value).map(Some)
}

type Secret<'a, T> = (&'static str, &'a Option<T>);

/// A secret that is given, or stands in a file; with the key that gave it.
fn secret(
    (key, given): Secret<'_, String>,
    (file_key, file): Secret<'_, std::path::PathBuf>,
) -> Result<Option<(&'static str, String)>, Flaw> {
    match (given, file) {
        (None, None) => Ok(None),
        (Some(given), None) => Ok(Some((key, given.clone()))),
        (None, Some(path)) => Ok(Some((file_key, read_secret(file_key, path)?))),
        (Some(_), Some(_)) => Err(Flaw::new(file_key, format!("`{key}` is given as well"), "give one of them")),
    }
}

fn read_secret(key: &'static str, path: &Path) -> Result<String, Flaw> {
    let text = std::fs::read_to_string(path);
    text.map(|text| text.trim_end().to_owned())
        .map_err(|error| Flaw::new(key, format!("{}: {error}", path.display()), "a file that the gateway can read"))
}

fn header_name(key: &'static str, name: &str) -> Result<HeaderName, Flaw> {
    let parsed: HeaderName =
        name.parse().map_err(|_| Flaw::new(key, format!("`{name}` is no name of a header"), ""))?;
    if RESERVED.contains(&parsed.as_str()) {
        return Err(Flaw::new(key, format!("`{name}` cannot be set here"), "credentials go to api_key or username"));
    }
    Ok(parsed)
}

fn header_value(key: &'static str, name: &str, value: &str) -> Result<HeaderValue, Flaw> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| Flaw::new(key, format!("the value of `{name}` cannot go into a header"), ""))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Whom an https node is trusted by: the public authorities, or those of its own file and no others.
fn trust(settings: &NodeSettings) -> Result<Option<Arc<ClientConfig>>, Flaw> {
    let is_secure = settings.url.starts_with("https:");
    let flaw = |message: String| Flaw::new("ca_file", message, "a PEM file with certificates of authorities");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| flaw(error.to_string()))?;
    let builder = match &settings.ca_file {
        Some(_) if !is_secure => return Err(flaw("the node's URL is not https".to_owned())),
        None if !is_secure => return Ok(None),
        None => builder.with_root_certificates(webpki_roots_cert_store()),
        Some(path) => {
            let pinned = Pinned::read(path, provider).map_err(|why| flaw(format!("{}: {why}", path.display())))?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(pinned))
        }
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config)))
}
