//! Does a server have a certificate from a file, or one signed by an authority in that file? Only the file counts, not
//! the public authorities.
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{Error, RootCertStore};

use crate::tls::CertificateRule;

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
