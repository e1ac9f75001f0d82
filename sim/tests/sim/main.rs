//! How does the simulated node behave from outside, over real sockets?

#![expect(clippy::unwrap_used, reason = "a test that panics is a test that fails")]

mod client;
mod dialects;
mod faults;
mod foreign;
mod hostile;
mod metadata;
mod models;
mod reality;
mod scheduling;

use ollama_sim::{SimConfig, SimModel, SimNode};

/// An infinitely fast node with one model of each kind.
async fn fast_node() -> SimNode {
    let mut config = SimConfig::fast();
    config.models.push(SimModel::thinking("qwen3:latest", 5.0));
    SimNode::start(config).await.unwrap()
}
