//! The settings of TLS with clients, and what is wrong with them.
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::certificate::Certificate;
use crate::flaw::Flaw;

/// How clients are served over TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// PEM file with the certificate, then those of the authorities between it and a public one. With it,
    /// `server.bind` speaks only TLS: HTTP/1.1 and HTTP/2. A reload reads both files again. `null` = no TLS. Default
    /// `null`.
    pub cert_file: Option<PathBuf>,
    /// PEM file with the private key of that certificate, without a passphrase. Default `null`.
    pub key_file: Option<PathBuf>,
    /// A loopback address that is served without TLS as well, for probes and a proxy on this machine, such as
    /// `127.0.0.1:8001`. `null` = none. Default `null`.
    pub plain_bind: Option<String>,
}

impl TlsSettings {
    /// The files of the certificate and its key, if TLS is on.
    pub fn files(&self) -> Option<(&Path, &Path)> {
        self.cert_file.as_deref().zip(self.key_file.as_deref())
    }

    /// The address to serve without TLS; `None` if there is none, or it is no address.
    pub fn plain_address(&self) -> Option<SocketAddr> {
        self.plain_bind.as_ref()?.replacen("localhost:", "127.0.0.1:", 1).parse().ok()
    }

    /// The certificate to serve; `None` without TLS.
    ///
    /// # Errors
    /// The file that cannot be used, and why.
    pub fn certificate(&self) -> Result<Option<Certificate>, Flaw> {
        self.files().map(|(certificate, key)| Certificate::read(certificate, key)).transpose()
    }

    /// Every mistake; the files are read as well.
    pub fn flaws(&self) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        match (&self.cert_file, &self.key_file) {
            (Some(_), None) => {
                flaws.push(Flaw::new("key_file", "`cert_file` needs it", "the file of the certificate's private key"));
            }
            (None, Some(_)) => {
                flaws.push(Flaw::new("cert_file", "`key_file` needs it", "the file of the certificate and its chain"));
            }
            _ => flaws.extend(self.certificate().err()),
        }
        if self.plain_bind.is_none() {
            return flaws;
        }
        let why = match self.plain_address() {
            None => "expected ADDRESS:PORT",
            Some(address) if !address.ip().is_loopback() => {
                "expected a loopback address: keys would travel in the clear"
            }
            Some(_) if self.cert_file.is_none() => "without TLS, `server.bind` is plain already",
            Some(_) => return flaws,
        };
        flaws.push(Flaw::new("plain_bind", why, "such as 127.0.0.1:8001, along with cert_file and key_file"));
        flaws
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(settings: &TlsSettings) -> Vec<&'static str> {
        settings.flaws().into_iter().map(|flaw| flaw.key).collect()
    }

    #[test]
    fn half_a_pair_is_a_mistake_and_a_plain_address_must_be_loopback() {
        let file = Some(PathBuf::from("/nowhere"));
        let none = TlsSettings::default();
        assert!(keys(&none).is_empty());
        assert_eq!(keys(&TlsSettings { cert_file: file.clone(), ..none.clone() }), ["key_file"]);
        assert_eq!(keys(&TlsSettings { key_file: file, ..none.clone() }), ["cert_file"]);
        for bad in ["here", "0.0.0.0:1", "10.0.0.1:1", "127.0.0.1:1"] {
            let settings = TlsSettings { plain_bind: Some(bad.to_owned()), ..none.clone() };
            assert_eq!(keys(&settings), ["plain_bind"], "{bad}");
        }
    }
}
