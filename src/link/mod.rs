//! How do gateways speak with each other? Over WebSockets, on an address of their own: a follower calls its leader. Both
//! prove that they know the cluster's secret before a frame is exchanged.
mod caller;
mod context;
mod conversation;
mod handshake;
mod listener;
mod settings;

pub use caller::call;
pub use context::LinkContext;
pub use listener::listen;
pub use settings::ClusterSettings;
