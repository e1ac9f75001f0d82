//! The tables as sea-orm sees them. No logic lives here; `src/store` of the gateway is the only user.
//!
//! Instants are epoch milliseconds (UTC) in `BIGINT`: SQLite keeps timestamps as text and compares them as text.
// The derive macro generates public items (`Entity`, `Column`, `Relation`) that cannot carry a doc comment.
#![allow(missing_docs)]

pub mod admin;
pub mod admin_digest;
pub mod audit;
pub mod audit_chain;
pub mod drained_node;
pub mod former_group;
pub mod former_user;
pub mod gateway;
pub mod identity;
pub mod key;
pub mod key_digest;
pub mod learned;
pub mod lease;
pub mod node;
pub mod outbox;
pub mod parked;
pub mod people_change;
pub mod people_copy;
pub mod running;
pub mod swept_token;
pub mod usage;
pub mod usage_rollup;
pub mod usage_total;
pub mod user;
pub mod user_group;
