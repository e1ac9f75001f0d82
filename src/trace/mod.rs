//! Where do traces of requests come from, and where do they go?
mod export;
mod request;

pub use self::export::TracingSettings;
pub use export::Exporter;
pub use request::{Attribute, Closing, Trace, Tracer};
