//! A client that takes any certificate. It is for a process that asks itself over loopback, sends no secret and believes
//! little: the certificate is made out to another name, and may have been renewed on disk since it was read.
use std::sync::Arc;

use rustls::client::danger::ServerCertVerified;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, Error};

use super::certificate::provider;
use super::verifier::{CertificateRule, Verifier};

/// Takes any certificate whose key the server has.
#[derive(Debug)]
pub struct Trusting;

impl Trusting {
    /// The settings of such a client, for HTTP/1.1.
    ///
    /// # Errors
    /// The library supports no version; it does.
    pub fn config() -> Result<ClientConfig, Error> {
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let verifier = Arc::new(Verifier::new(Self, provider()));
        let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl CertificateRule for Trusting {
    fn judge(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
}
