//! How is TLS spoken with clients? Which certificate is served, and how another takes its place.
mod certificate;
mod flaw;
mod served;
mod settings;
mod trusting;
mod validity;

pub use certificate::Certificate;
pub use flaw::TlsFlaw;
pub use served::ServedCertificate;
pub use settings::TlsSettings;
pub use trusting::Trusting;
