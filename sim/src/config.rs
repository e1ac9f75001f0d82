//! What kind of node is simulated: its speed, its memory, its models?

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::model::SimModel;

/// Everything that makes one simulated node.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Where to listen; port 0 takes any free port. Default 127.0.0.1:0.
    pub listen: SocketAddr,
    /// Decode speed of one stream of a 5 GB model, in tokens per second; other sizes scale by 5 / size in GB.
    /// `f64::INFINITY` means no delay at all. Default 50.
    pub tokens_per_second: f64,
    /// `OLLAMA_NUM_PARALLEL`: streams at once per loaded model. Embedding models always have one. Default 1.
    pub slots: usize,
    /// `OLLAMA_MAX_QUEUE`: requests that may wait for a load; one more is answered 503. Default 512.
    pub max_queue: usize,
    /// Memory for loaded models, in bytes. Default 24 GB.
    pub vram_bytes: u64,
    /// Load speed; `f64::INFINITY` means instant. Default 2 GB/s.
    pub load_bytes_per_second: f64,
    /// The part of every load that does not depend on the size. Default 500 ms.
    pub load_overhead: Duration,
    /// How long an idle model stays loaded. Default 5 minutes.
    pub keep_alive: Duration,
    /// The models on disk.
    pub models: Vec<SimModel>,
    /// Models that can be pulled beside those that were there at the start.
    pub pullable: Vec<SimModel>,
    /// How fast models are pulled; `f64::INFINITY` means instant. Default 1 GB/s.
    pub pull_bytes_per_second: f64,
    /// When set, every request must carry `Authorization: Bearer <key>`.
    pub api_key: Option<String>,
    /// The `a` of v / (1 + a (b - 1)): how much b streams at once slow each other down. Default 0.3.
    pub batch_slowdown: f64,
    /// Whether all models that fit are in memory from the start, and after a restart. Default false.
    pub is_warm: bool,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tokens_per_second: 50.0,
            slots: 1,
            max_queue: 512,
            vram_bytes: 24_000_000_000,
            load_bytes_per_second: 2e9,
            load_overhead: Duration::from_millis(500),
            keep_alive: Duration::from_secs(5 * 60),
            models: vec![
                SimModel::chat("llama3.2:latest", 2.0),
                SimModel::chat("llama3.2:1b", 1.3),
                SimModel::vision("llava:latest", 4.7),
                SimModel::embedding("all-minilm:latest", 0.05),
            ],
            pullable: vec![SimModel::chat("llama3.1:8b", 4.9), SimModel::thinking("qwen3:8b", 5.2)],
            pull_bytes_per_second: 1e9,
            api_key: None,
            batch_slowdown: 0.3,
            is_warm: false,
        }
    }
}

impl SimConfig {
    /// For tests: infinite speed and instant loads.
    pub fn fast() -> Self {
        Self {
            tokens_per_second: f64::INFINITY,
            load_bytes_per_second: f64::INFINITY,
            load_overhead: Duration::ZERO,
            pull_bytes_per_second: f64::INFINITY,
            ..Self::default()
        }
    }

    /// The same with every model in memory from the start, so that no request waits for a load.
    pub fn warm() -> Self {
        Self { is_warm: true, ..Self::fast() }
    }

    /// How long a load of the model takes.
    pub(crate) fn load_time(&self, model: &SimModel) -> Duration {
        let seconds = model.size_bytes as f64 / self.load_bytes_per_second;
        self.load_overhead + Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX / 2)
    }

    /// The decode speed of one stream of the model alone on the node, in tokens per second.
    pub(crate) fn solo_speed(&self, model: &SimModel) -> f64 {
        self.tokens_per_second * 5.0 / model.size_gb().max(0.001)
    }
}
