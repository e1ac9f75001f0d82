//! The gateway as clients and operators meet it: over real sockets, in front of simulated and scripted nodes.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on may panic, and waits in real time"
)]
mod admin;
mod admins;
mod anthropic;
mod audit;
mod auth;
mod bytes;
mod checklist;
mod cli;
mod cloud;
mod cluster;
mod console;
mod dialects;
mod durability;
mod events;
mod failures;
mod fidelity;
mod forecast;
mod grey;
mod groups;
mod harness;
mod http2;
mod input;
mod keys;
mod leases;
mod library;
mod limits;
mod maintenance;
mod metrics;
mod mistakes;
mod names;
mod native;
mod networks;
mod node_time;
mod openapi;
mod ops;
mod other_servers;
mod own_keys;
mod paths;
mod queue;
mod relay;
mod reload;
mod reports;
mod requests;
mod responses;
mod roles;
mod roster;
mod scheduling;
mod scripted;
mod secure;
mod sessions;
mod sharing;
mod shutdown;
mod slots;
mod smoke;
mod streams;
mod tls;
mod tracing;
mod unsupported;
mod usage;
mod users;
mod waiting;
