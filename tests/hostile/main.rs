//! While one node or one user does its worst, does anybody else notice?
//!
//! Every file is a kind of harm. In each, good users' requests are timed alone and then beside it: all of them succeed, and
//! their p99 is at most 1.5 times what it was. Each file has a control as well, which shows that the harm was done, or what
//! it would have come to.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on may panic, and waits in real time"
)]
mod all;
mod claims;
mod descriptors;
mod elsewhere;
mod good;
#[path = "../api/harness.rs"]
#[allow(dead_code, unused_imports, reason = "shared with tests/api, which uses all of it")]
mod harness;
mod listings;
mod poison;
mod process;
#[path = "../api/scripted.rs"]
#[allow(dead_code, reason = "shared with tests/api, which uses all of it")]
mod scripted;
mod silence;
mod users_flood;
mod users_memory;
mod users_models;
mod users_reads;
mod users_slow;
