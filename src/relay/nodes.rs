//! Which nodes are there, and how are they addressed?
//!
//! [`NodeSettings`] is what the operator writes, [`NodeEndpoint`] what is made of it once: addresses, headers, trust and
//! deadlines. A node's credentials live in its endpoint and go to its addresses alone.
mod endpoint;
mod fleet;
mod settings;

pub use endpoint::NodeEndpoint;
pub use fleet::Fleet;
pub use settings::{Discover, Flaw, NodeSettings};
