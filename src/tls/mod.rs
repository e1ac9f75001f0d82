//! How is TLS spoken with clients? Which certificate is served, and how another takes its place.
mod certificate;
mod served;
mod settings;
mod trusting;
mod validity;
mod verifier;

pub use certificate::Certificate;
pub use served::ServedCertificate;
pub use settings::TlsSettings;
pub use trusting::Trusting;
pub(crate) use verifier::{CertificateRule, Verifier};
