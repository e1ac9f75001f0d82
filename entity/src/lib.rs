//! The tables as sea-orm sees them. No logic lives here; `src/store` of the gateway is the only user.
//!
//! Instants are epoch milliseconds (UTC) in `BIGINT`: SQLite keeps timestamps as text and compares them as text.
// The derive macro generates public items (`Entity`, `Column`, `Relation`) that cannot carry a doc comment.
#![allow(missing_docs)]

mod admins;
mod audit_log;
mod former;
pub mod gateway;
pub mod key;
pub mod key_digest;
pub mod lease;
mod local;
mod nodes;
pub mod people_change;
pub mod people_copy;
pub mod usage;
pub mod usage_rollup;
pub mod usage_total;
pub mod user;
pub mod user_group;

pub use admins::{admin, admin_digest};
pub use audit_log::{audit, audit_chain};
pub use former::{former_group, former_user};
pub use local::{identity, learned, outbox, parked, running, swept_token};
pub use nodes::{drained_node, node};
