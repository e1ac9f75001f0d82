//! How do the gateway and a node authenticate each other? Headers and trusted certificates, built from the node's
//! settings and the files they name.
use std::path::Path;
use std::sync::Arc;

use actix_http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use actix_tls::connect::rustls_0_23::webpki_roots_cert_store;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, Error, RootCertStore};

use super::settings::NodeSettings;
use crate::flaw::Flaw;
use crate::tls::{CertificateRule, Verifier};

/// Headers that the gateway or the connection sets, or that have settings of their own.
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

/// The headers of every request to the node: its credentials, and any others.
///
/// # Errors
/// The first setting, or file named by one, that cannot be used.
pub(super) fn headers(settings: &NodeSettings) -> Result<Vec<(HeaderName, HeaderValue)>, Flaw> {
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
            return Err(Flaw::new(key, format!("`headers` contains `{name}` as well"), "give one of them"));
        }
        headers.push((header_name(key, name)?, header_value(key, name, &read_secret(key, path)?)?));
    }
    Ok(headers)
}

/// The `Authorization` header, from a key or from a user name and password.
fn credentials(settings: &NodeSettings) -> Result<Option<HeaderValue>, Flaw> {
    let api_key = secret(("api_key", &settings.api_key), ("api_key_file", &settings.api_key_file))?;
    let password = secret(("password", &settings.password), ("password_file", &settings.password_file))?;
    let value = match (api_key, &settings.username, password) {
        (None, None, None) => return Ok(None),
        (Some((key, api_key)), None, None) => {
            if api_key.is_empty() || !api_key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(Flaw::new(key, "expected printable characters without spaces", ""));
            }
            format!("Bearer {api_key}")
        }
        (None, Some(username), Some((_, password))) => {
            if username.contains(':') || username.chars().any(char::is_control) {
                return Err(Flaw::new("username", "a user name must not contain colons or control characters", ""));
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

/// A secret given directly or in a file, with the name of the setting that gave it.
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
    let parsed: HeaderName = name.parse().map_err(|_| Flaw::new(key, format!("`{name}` is not a header name"), ""))?;
    if RESERVED.contains(&parsed.as_str()) {
        return Err(Flaw::new(key, format!("`{name}` cannot be set here"), "credentials go to api_key or username"));
    }
    Ok(parsed)
}

fn header_value(key: &'static str, name: &str, value: &str) -> Result<HeaderValue, Flaw> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| Flaw::new(key, format!("the value of `{name}` cannot go into a header"), ""))?;
    // Keeps it out of debug output.
    value.set_sensitive(true);
    Ok(value)
}

/// Which authorities an https node's certificate may come from: the public ones, or only those of its own file.
pub(super) fn trust(settings: &NodeSettings) -> Result<Option<Arc<ClientConfig>>, Flaw> {
    let is_secure = settings.url.starts_with("https:");
    let flaw = |message: String| Flaw::new("ca_file", message, "a PEM file with certificates of authorities");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| flaw(error.to_string()))?;
    let builder = match &settings.ca_file {
        Some(_) if !is_secure => return Err(flaw("the node's URL is not https".to_owned())),
        // A plain URL with a `ca_file` was refused above: its operator believes that it is protected.
        None if !is_secure => return Ok(None),
        None => builder.with_root_certificates(webpki_roots_cert_store()),
        Some(path) => {
            let pinned =
                Pinned::read(path, provider.clone()).map_err(|why| flaw(format!("{}: {why}", path.display())))?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Verifier::new(pinned, provider)))
        }
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config)))
}

/// The certificates of a file.
#[derive(Debug)]
pub struct Pinned {
    certificates: Vec<CertificateDer<'static>>,
    authorities: Arc<WebPkiServerVerifier>,
}

impl Pinned {
    /// Reads a PEM file.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn read(path: &Path, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let pem = std::fs::read(path).map_err(|error| error.to_string())?;
        let (mut certificates, mut roots) = (Vec::new(), RootCertStore::empty());
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| error.to_string())?;
            roots.add(certificate.clone()).map_err(|error| error.to_string())?;
            certificates.push(certificate);
        }
        if certificates.is_empty() {
            return Err("it holds no certificate".to_owned());
        }
        let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let authorities = authorities.build().map_err(|error| error.to_string())?;
        Ok(Self { certificates, authorities })
    }
}

impl CertificateRule for Pinned {
    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // A certificate that the operator gave needs no authority to vouch for it, and no matching name.
        if self.certificates.iter().any(|pinned| pinned == end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        self.authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(name: &str) -> rcgen::Certificate {
        rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap().cert
    }

    #[test]
    fn only_the_certificate_of_the_file_is_taken_whatever_name_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let (path, own, other) = (folder.path().join("ca.pem"), certificate("a"), certificate("a"));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        std::fs::write(&path, "nothing").unwrap();
        assert!(Pinned::read(&path, provider.clone()).is_err());
        std::fs::write(&path, own.pem()).unwrap();
        let pinned = Pinned::read(&path, provider).unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let check = |certificate: &rcgen::Certificate| {
            pinned.judge(
                certificate.der(),
                &[],
                &name,
                &[],
                UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_800_000_000)),
            )
        };
        assert!(check(&own).is_ok());
        assert!(check(&other).is_err());
    }
}
