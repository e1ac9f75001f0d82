//! Is usage safe from everything? The real gateway as a child process under mixed load, in front of simulated nodes that
//! remember what they made, while it or its Postgres is killed, frozen, cut off, or its disk is full.
//!
//! By default few of everything, so that `cargo test` stays quick; `tests/run` asks for more, and the long run is
//! `CHAOS_KILLS=1000 CHAOS_OUTAGES=200 CHAOS_RESULTS=tests/chaos/results cargo test --test chaos -- --nocapture`.
//! What an outage costs in time is measured in a release build, by
//! `CHAOS_RESULTS=tests/chaos/results cargo test --release --test chaos measure -- --ignored --nocapture --test-threads=1`.
//! `CHAOS_SEED` repeats a run: a failure prints its own. `CHAOS_GATEWAY` is another binary to strike at. Postgres is Debian's, on a port of its own; cutting it off and
//! the full disk need root, and are left out, saying so, without it.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on may panic, and waits in real time"
)]
#[path = "../api/harness/address.rs"]
mod address;
mod canary;
mod disk;
mod follower;
mod gateway;
mod harm;
mod kills;
mod leader;
mod load;
mod measure;
mod oracle;
mod outages;
mod pair;
mod postgres;
mod replicas;
mod rolling;
mod run;
mod seat;
mod slots;
mod soak;
mod wait;
mod wire;
