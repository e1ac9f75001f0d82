//! What are the nodes, and how are they spoken to? The keeper of the nodes, the probes that watch them, the client that asks
//! them, and the errands done to their memory and disks.
mod catalog;
mod check;
mod connector;
mod context;
mod discovery;
mod endpoint;
mod flaw;
mod health;
mod library;
mod loader;
mod loads;
mod nodes;
mod pinned;
mod roster;
mod settings;
mod sources;
mod upstream;
mod watchers;

pub use catalog::Catalog;
pub use context::FleetContext;
pub use discovery::Resolver;
pub use endpoint::NodeEndpoint;
pub use flaw::Flaw;
pub use health::{HealthSettings, Prober};
pub use library::Progress;
pub use loader::{LoadTerms, Loader};
pub use nodes::Fleet;
pub use pinned::Pinned;
pub use roster::{Changes, Listed, Roster, RosterError};
pub use settings::{Discover, NodeSettings};
pub use sources::Source;
pub use upstream::{AttemptError, Head, Upstream};
pub(crate) use upstream::{cut_short, next_chunk, read_answer};
pub use watchers::{Watch, Watchers};
