//! Which certificate does the next client get? One that can be replaced while connections are open.
use std::sync::{Arc, PoisonError, RwLock};

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, ServerConfig};

use super::certificate::{Certificate, provider};

/// The certificate in force; shared by all listeners.
#[derive(Debug)]
pub struct ServedCertificate(RwLock<Arc<CertifiedKey>>);

impl ServedCertificate {
    /// Begins with this one.
    pub fn new(certificate: &Certificate) -> Self {
        Self(RwLock::new(certificate.pair.clone()))
    }

    /// Serves another one from now on. Connections that are open keep theirs. Returns whether it differs.
    pub fn replace(&self, certificate: &Certificate) -> bool {
        let mut served = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let differs = served.cert != certificate.pair.cert;
        *served = certificate.pair.clone();
        differs
    }

    /// How TLS is spoken: TLS 1.2 and 1.3, without certificates of clients.
    ///
    /// # Errors
    /// The library supports no version; it does.
    pub fn config(self: &Arc<Self>) -> Result<ServerConfig, Error> {
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        Ok(builder.with_no_client_auth().with_cert_resolver(self.clone()))
    }
}

impl ResolvesServerCert for ServedCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}
