//! What may the operator do? Users, their keys and limits, and a look at the nodes. All of it takes the admin key.
pub mod admins;
pub mod audit;
pub(super) mod demo;
pub mod drain;
pub mod events;
mod given;
mod group_fields;
pub(super) mod groups;
pub mod key_bodies;
pub mod keys;
pub mod limits;
pub mod models;
pub mod node_fields;
pub mod nodes;
mod outcome;
pub mod queue;
pub mod reload;
pub mod requests;
mod routes;
pub(super) mod rules;
pub mod series;
pub mod story;
pub mod usage;
pub mod user_fields;
pub mod user_list;
pub mod users;

pub(super) use routes::routes;
