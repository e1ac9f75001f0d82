//! The gateway as clients and operators meet it: over real sockets, in front of simulated and scripted nodes.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on may panic, and waits in real time"
)]
mod admin;
mod auth;
mod cli;
mod failures;
mod harness;
mod input;
mod limits;
mod metrics;
mod networks;
mod openapi;
mod ops;
mod relay;
mod scripted;
mod shutdown;
mod smoke;
mod streams;
mod usage;
