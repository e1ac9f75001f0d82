//! Where did the time of a request go, and who is told?
mod export;
mod request;
mod settings;

pub use export::Exporter;
pub use request::{Attribute, Closing, Trace, Tracer};
pub use settings::TracingSettings;
