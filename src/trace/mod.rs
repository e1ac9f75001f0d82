//! Where do traces of requests come from, and where do they go?
mod export;
mod request;
mod settings;

pub use export::Exporter;
pub use request::{Attribute, Closing, Trace, Tracer};
pub use settings::TracingSettings;
