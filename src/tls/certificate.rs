//! Which certificate and key do two files hold, do they fit each other, from when until when are they valid, and which one
//! does the next client get? The dates come from the few bytes of a certificate that say so (RFC 5280, section 4.1).
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, ServerConfig};
use time::{Date, Month, PrimitiveDateTime, Time};

use crate::flaw::Flaw;

const CHAIN: &str =
    "a PEM file: the server's certificate first, then those of the authorities between it and a public one";
const KEY: &str = "the PEM file of the private key that this certificate was made for";
const DAY: i64 = 86_400;
/// How long before its end a certificate is warned of, days.
const SOON: i64 = 14;

/// A certificate with its chain and its private key.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub(super) pair: Arc<CertifiedKey>,
    validity: Validity,
}

impl Certificate {
    /// Reads both files.
    ///
    /// # Errors
    /// The file that cannot be used, and why.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, Flaw> {
        let flaw = |why: String| Flaw::new("cert_file", format!("{}: {why}", certificate.display()), CHAIN);
        let pem = std::fs::read(certificate).map_err(|error| flaw(error.to_string()))?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let chain = chain.map_err(|error| flaw(error.to_string()))?;
        let Some(first) = chain.first() else {
            return Err(flaw("there is no certificate in it".to_owned()));
        };
        let validity = Validity::of(first).ok_or_else(|| flaw("its first certificate cannot be read".to_owned()))?;
        let private = read_key(key)?;
        let pair = CertifiedKey::from_der(chain, private, &provider()).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                key_flaw(key, format!("this key does not belong to the certificate in {}", certificate.display()))
            }
            Error::InvalidCertificate(why) => flaw(format!("its first certificate cannot be used: {why:?}")),
            other => key_flaw(key, other.to_string()),
        })?;
        Ok(Self { pair: Arc::new(pair), validity })
    }

    /// When it ends, seconds since 1970.
    pub fn expires(&self) -> i64 {
        self.validity.not_after
    }

    /// What an operator should know of its dates; `None` if it is good for a while.
    pub fn warning(&self, now_seconds: i64) -> Option<String> {
        let Validity { not_before, not_after } = self.validity;
        let left = not_after.saturating_sub(now_seconds);
        if now_seconds < not_before {
            let from = date(not_before);
            return Some(format!("the certificate is not valid before {from}, and clients refuse it until then"));
        }
        if left < 0 {
            let ended = date(not_after);
            return Some(format!(
                "the certificate expired on {ended}, and clients refuse it: put a new one in its place"
            ));
        }
        let days = left / DAY;
        (days < SOON).then(|| format!("the certificate expires in {days} days, on {}: renew it", date(not_after)))
    }
}

/// The one that the rest of the gateway uses.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn key_flaw(path: &Path, why: impl AsRef<str>) -> Flaw {
    Flaw::new("key_file", format!("{}: {}", path.display(), why.as_ref()), KEY)
}

/// In PKCS#8, PKCS#1 or SEC1.
fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, Flaw> {
    let pem = std::fs::read(path).map_err(|error| key_flaw(path, error.to_string()))?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| match error {
        PemError::NoItemsFound if is_sealed(&pem) => {
            key_flaw(path, "the key has a passphrase; `openssl pkey -in FILE -out NEW` takes it away")
        }
        PemError::NoItemsFound => key_flaw(path, "there is no private key in it"),
        // Its own words could quote what the file holds.
        _ => key_flaw(path, "it is not a PEM file"),
    })
}

fn is_sealed(pem: &[u8]) -> bool {
    let marker = b"BEGIN ENCRYPTED PRIVATE KEY";
    pem.windows(marker.len()).any(|window| window == marker)
}

fn date(unix_seconds: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp(unix_seconds)
        .map_or_else(|_| unix_seconds.to_string(), |at| at.date().to_string())
}

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

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The version, which oldest certificates do not have.
const VERSION: u8 = 0xa0;

/// Seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

impl Validity {
    /// `None` if these bytes are no certificate.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (whole, _) = element(certificate, Some(SEQUENCE))?;
        let (mut rest, _) = element(whole, Some(SEQUENCE))?;
        if rest.first() == Some(&VERSION) {
            rest = element(rest, None)?.1;
        }
        // Serial number, signature algorithm, issuer.
        for _ in 0..3 {
            rest = element(rest, None)?.1;
        }
        let (dates, _) = element(rest, Some(SEQUENCE))?;
        let (not_before, dates) = moment(dates)?;
        let (not_after, _) = moment(dates)?;
        Some(Self { not_before, not_after })
    }
}

/// The content of the first element, and what follows it.
fn element(bytes: &[u8], wanted: Option<u8>) -> Option<(&[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (digits.iter().fold(0, |length, &digit| length << 8 | usize::from(digit)), rest)
        }
        _ => return None,
    };
    wanted.is_none_or(|wanted| wanted == tag).then(|| rest.split_at_checked(length))?
}

/// The first element as a time, and what follows it.
fn moment(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let tag = *bytes.first()?;
    let (text, rest) = element(bytes, None)?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, text) = match tag {
        UTC_TIME => {
            let (year, text) = two(text)?;
            // Two digits mean the years from 1950 to 2049.
            (i32::from(year) + if year < 50 { 2000 } else { 1900 }, text)
        }
        GENERALIZED_TIME => {
            let (century, text) = two(text)?;
            let (year, text) = two(text)?;
            (i32::from(century) * 100 + i32::from(year), text)
        }
        _ => return None,
    };
    let (month, text) = two(text)?;
    let (day, text) = two(text)?;
    let (hour, text) = two(text)?;
    let (minute, text) = two(text)?;
    let (second, text) = two(text)?;
    let date = Date::from_calendar_date(year, Month::try_from(month).ok()?, day).ok()?;
    let time = Time::from_hms(hour, minute, second).ok()?;
    text.is_empty().then(|| (PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp(), rest))
}

/// The number of the first two digits, and what follows them.
fn two(text: &str) -> Option<(u8, &str)> {
    let (digits, rest) = text.split_at_checked(2)?;
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| Some((digits.parse().ok()?, rest)))?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    const NAMES: [&str; 1] = ["gateway.test"];

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, name: &str, text: &str) -> std::path::PathBuf {
            let path = self.0.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        }
    }

    fn made(key: &KeyPair) -> String {
        let mut params = CertificateParams::new(NAMES.map(str::to_owned)).unwrap();
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2027, 1, 1);
        params.self_signed(key).unwrap().pem()
    }

    #[test]
    fn a_pair_is_read_with_its_dates() {
        let (files, key) = (Files::new(), KeyPair::generate().unwrap());
        let (cert, private) = (files.write("cert", &made(&key)), files.write("key", &key.serialize_pem()));
        let read = Certificate::read(&cert, &private).unwrap();
        assert_eq!(read.expires(), date_time_ymd(2027, 1, 1).unix_timestamp());
        let warning = |month: u8, day: u8, year: i32| read.warning(date_time_ymd(year, month, day).unix_timestamp());
        assert_eq!(warning(6, 1, 2026), None);
        assert!(warning(12, 20, 2026).is_some_and(|said| said.contains("expires in 12 days, on 2027-01-01")));
        assert!(warning(1, 2, 2027).is_some_and(|said| said.contains("expired on 2027-01-01")));
        assert!(warning(12, 31, 2025).is_some_and(|said| said.contains("not valid before 2026-01-01")));
    }

    #[test]
    fn keys_are_read_in_each_of_their_forms() {
        let files = Files::new();
        for (form, cert, key) in FORMS {
            let (cert, key) = (files.write("cert", cert), files.write("key", key));
            assert!(Certificate::read(&cert, &key).is_ok(), "{form}: {:?}", Certificate::read(&cert, &key));
        }
    }

    /// One key in SEC1 and one in PKCS#1, as openssl writes them, and a certificate of each.
    const FORMS: [(&str, &str, &str); 2] = [
        ("SEC1", include_str!("test/sec1.cert.pem"), include_str!("test/sec1.key.pem")),
        ("PKCS#1", include_str!("test/pkcs1.cert.pem"), include_str!("test/pkcs1.key.pem")),
    ];

    #[test]
    fn what_cannot_be_used_is_named_with_its_reason_and_never_quoted() {
        let (files, key, other) = (Files::new(), KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let (cert, private) = (files.write("cert", &made(&key)), files.write("key", &key.serialize_pem()));
        let sealed = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nZ2VoZWlt\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let cut = "-----BEGIN PRIVATE KEY-----\nZ2VoZWlt\n";
        for (cert, key, named, why) in [
            (files.0.path().join("none"), private.clone(), "cert_file", "No such file"),
            (private.clone(), private.clone(), "cert_file", "no certificate"),
            (cert.clone(), files.0.path().join("none"), "key_file", "No such file"),
            (cert.clone(), cert.clone(), "key_file", "no private key"),
            (cert.clone(), files.write("sealed", sealed), "key_file", "passphrase"),
            (cert.clone(), files.write("cut", cut), "key_file", "not a PEM file"),
            (cert.clone(), files.write("other", &other.serialize_pem()), "key_file", "does not belong"),
        ] {
            let flaw = Certificate::read(&cert, &key).unwrap_err();
            assert!(flaw.key == named && flaw.message.contains(why), "{flaw:?} {why}");
            assert!(!flaw.message.contains("Z2VoZWlt") && !flaw.message.contains("geheim"), "{flaw:?}");
        }
    }

    fn lasting(from: (i32, u8, u8), until: (i32, u8, u8)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["gateway.test".to_owned()]).unwrap();
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(until.0, until.1, until.2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn both_forms_of_a_date_are_read() {
        for (from, until) in
            [((1999, 12, 31), (2049, 12, 31)), ((2026, 2, 28), (2050, 1, 1)), ((2051, 3, 1), (9999, 1, 2))]
        {
            let seconds = |(year, month, day)| date_time_ymd(year, month, day).unix_timestamp();
            let read = Validity::of(&lasting(from, until));
            assert_eq!(read, Some(Validity { not_before: seconds(from), not_after: seconds(until) }), "{from:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_nothing_panics(at in 0usize..300, byte: u8, length in 0usize..300) {
            let mut bytes = lasting((2026, 1, 1), (2027, 1, 1)).to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(length);
            let _ = Validity::of(&CertificateDer::from(bytes));
        }
    }
}
