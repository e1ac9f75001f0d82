//! How is TLS spoken with clients? Which certificate is served, and how another takes its place.
mod certificate;
mod settings;
mod verifier;

pub use self::certificate::ServedCertificate;
pub use self::verifier::Trusting;
pub use certificate::Certificate;
pub use settings::TlsSettings;
pub(crate) use verifier::{CertificateRule, Verifier};
