//! What kind of node is simulated: its speed, its memory, its models?

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::clock::FOREVER;
use crate::model::SimModel;

/// Which server a node imitates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SimKind {
    /// Ollama.
    #[default]
    Ollama,
    /// llama.cpp's own server: OpenAI's routes, `/health`, `/slots`, `/props` and `/metrics`, but no `/api`. It serves
    /// its first model whatever model a request names.
    LlamaServer,
    /// vLLM: OpenAI's routes, `/health`, `/version` and `/metrics`, but no `/api`.
    Vllm,
}

/// All settings of one simulated node.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Which server the node imitates. Servers other than Ollama keep every model in memory, so the settings of loads
    /// and memory have no effect on them. Default Ollama.
    pub kind: SimKind,
    /// Address to listen on; port 0 takes any free port. Default 127.0.0.1:0.
    pub listen: SocketAddr,
    /// Decode speed of one stream of a 5 GB model, in tokens per second; other sizes scale by 5 / size in GB.
    /// `f64::INFINITY` means no delay at all. Default 50.
    pub tokens_per_second: f64,
    /// `OLLAMA_NUM_PARALLEL`: concurrent streams per loaded model. Embedding models always have one slot. Default 1.
    pub slots: usize,
    /// `OLLAMA_MAX_QUEUE`: requests that may wait for a load; any more are answered 503. Default 512.
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
    /// Models that can be pulled in addition to those on disk at the start.
    pub pullable: Vec<SimModel>,
    /// How fast models are pulled; `f64::INFINITY` means instant. Default 1 GB/s.
    pub pull_bytes_per_second: f64,
    /// If set, every request must carry `Authorization: Bearer <key>`.
    pub api_key: Option<String>,
    /// The `a` of v / (1 + a (b - 1)): how much b streams at once slow each other down. Default 0.3.
    pub batch_slowdown: f64,
    /// Whether all models that fit are in memory at the start and after a restart. Default false.
    pub is_warm: bool,
    /// Ollama's version. Before 0.13.3 it answers `404 page not found` to `/v1/responses`, before 0.14.0 to
    /// `/v1/messages` as well. Default 0.33.0.
    pub version: String,
    /// The share of each loaded model that is in GPU memory: 1 is all of it, 0 stands for a node without a GPU.
    /// Default 1.
    pub gpu_share: f64,
    /// Requests for a slot that arrive within this time of each other are served in any order. Default 1 ms.
    pub queue_jitter: Duration,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            kind: SimKind::Ollama,
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
            version: "0.33.0".to_owned(),
            gpu_share: 1.0,
            queue_jitter: Duration::from_millis(1),
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

    /// The same with every model in memory from the start, so no request waits for a load.
    pub fn warm() -> Self {
        Self { is_warm: true, ..Self::fast() }
    }

    /// For tests: an infinitely fast llama.cpp server with one model and two slots.
    pub fn llama_server(model: SimModel) -> Self {
        Self { kind: SimKind::LlamaServer, slots: 2, models: vec![model], ..Self::fast() }
    }

    /// For tests: an infinitely fast vLLM with one model and many slots.
    pub fn vllm(model: SimModel) -> Self {
        Self { kind: SimKind::Vllm, slots: 256, models: vec![model], ..Self::fast() }
    }

    /// Applies what the kind of server implies: only Ollama loads and unloads models, and only its queue loses order.
    pub(crate) fn settled(self) -> Self {
        match self.kind {
            SimKind::Ollama => self,
            SimKind::LlamaServer | SimKind::Vllm => {
                Self { is_warm: true, vram_bytes: u64::MAX, keep_alive: FOREVER, queue_jitter: Duration::ZERO, ..self }
            }
        }
    }

    /// Whether this version of Ollama has a route.
    pub(crate) fn has_route(&self, path: &str) -> bool {
        let since = match path {
            "/v1/responses" => [0, 13, 3],
            "/v1/messages" => [0, 14, 0],
            _ => return true,
        };
        let mut parts = self.version.split('.').map(|part| part.parse().unwrap_or(0));
        [(); 3].map(|()| parts.next().unwrap_or(0)) >= since
    }

    /// Bytes of a loaded model in GPU memory.
    pub(crate) fn gpu_bytes(&self, model: &SimModel) -> u64 {
        ((model.size_bytes as f64 * self.gpu_share.clamp(0.0, 1.0)) as u64).min(self.vram_bytes)
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
