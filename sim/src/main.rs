//! `ollama-sim`: simulated Ollama nodes on the command line, until ctrl-c.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use ollama_sim::{SimConfig, SimKind, SimModel, SimNode};

/// Runs simulated Ollama nodes until ctrl-c.
///
/// They answer Ollama's native, OpenAI and Anthropic routes with text that depends on the prompt alone. A prompt with
/// the mark [[n=K]] gets exactly K tokens.
#[derive(Parser)]
#[command(name = "ollama-sim", version)]
struct Args {
    /// Addresses to listen on, one node each
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:11434")]
    listen: Vec<SocketAddr>,

    /// Tokens per second of one stream of a 5 GB model; other sizes scale inversely; `inf` means no delay
    #[arg(long, default_value_t = 50.0, value_parser = positive)]
    speed: f64,

    /// Models on disk as NAME=GIGABYTES. Names with `embed` or `minilm` embed, with `llava` or `vision` see, with
    /// `qwen3`, `deepseek-r1` or `gpt-oss` think, and with `omni` do all but that
    #[arg(long, value_delimiter = ',')]
    models: Vec<ModelArg>,

    /// Streams at once per loaded model (OLLAMA_NUM_PARALLEL)
    #[arg(long, default_value_t = 1)]
    slots: usize,

    /// Requests that may wait for a load (OLLAMA_MAX_QUEUE)
    #[arg(long, default_value_t = 512)]
    max_queue: usize,

    /// Memory for loaded models, in GB
    #[arg(long, default_value_t = 24.0, value_parser = positive)]
    vram_gb: f64,

    /// Speed of loading a model, in GB per second; `inf` means instant
    #[arg(long, default_value_t = 2.0, value_parser = positive)]
    load_gb_s: f64,

    /// The part of every load that does not depend on the size, in milliseconds
    #[arg(long, default_value_t = 500)]
    load_overhead_ms: u64,

    /// How long an idle model stays loaded, in seconds (OLLAMA_KEEP_ALIVE)
    #[arg(long, default_value_t = 300)]
    keep_alive_s: u64,

    /// Have all models that fit in memory from the start
    #[arg(long)]
    warm: bool,

    /// How much b streams at once slow each other down: the a of v / (1 + a (b - 1))
    #[arg(long, default_value_t = 0.3)]
    batch_slowdown: f64,

    /// The server to imitate
    #[arg(long, value_enum, default_value = "ollama")]
    kind: Kind,

    /// Ollama's version; older ones lack /v1/responses (0.13.3) and /v1/messages (0.14.0)
    #[arg(long, default_value = "0.33.0")]
    ollama_version: String,

    /// Share of each loaded model in GPU memory, from 0 (no GPU) to 1
    #[arg(long, default_value_t = 1.0)]
    gpu_share: f64,

    /// Demand `Authorization: Bearer <KEY>` of every request
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Ollama,
    LlamaServer,
    Vllm,
}

#[derive(Clone)]
struct ModelArg(String, SimModel);

impl FromStr for ModelArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, size) = text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=GIGABYTES"))?;
        let size_gb = positive(size)?;
        let any = |marks: &[&str]| marks.iter().any(|mark| name.contains(mark));
        let kind = if any(&["omni"]) {
            SimModel::universal
        } else if any(&["embed", "minilm"]) {
            SimModel::embedding
        } else if any(&["llava", "vision"]) {
            SimModel::vision
        } else if any(&["qwen3", "deepseek-r1", "gpt-oss"]) {
            SimModel::thinking
        } else {
            SimModel::chat
        };
        Ok(ModelArg(name.to_owned(), kind(name, size_gb)))
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if number > 0.0 { Ok(number) } else { Err(format!("{number} is not positive")) }
}

impl Args {
    fn config(&self, listen: SocketAddr) -> SimConfig {
        let default = SimConfig::default();
        // Only Ollama adds a tag to a name.
        let named = |ModelArg(name, model): &ModelArg| match self.kind {
            Kind::Ollama => model.clone(),
            Kind::LlamaServer | Kind::Vllm => model.served_as(name),
        };
        let models: Vec<_> = self.models.iter().map(named).collect();
        SimConfig {
            listen,
            tokens_per_second: self.speed,
            slots: self.slots,
            max_queue: self.max_queue,
            vram_bytes: (self.vram_gb * 1e9) as u64,
            load_bytes_per_second: self.load_gb_s * 1e9,
            load_overhead: Duration::from_millis(self.load_overhead_ms),
            keep_alive: Duration::from_secs(self.keep_alive_s),
            models: if models.is_empty() { default.models.clone() } else { models },
            api_key: self.api_key.clone(),
            batch_slowdown: self.batch_slowdown,
            is_warm: self.warm,
            kind: match self.kind {
                Kind::Ollama => SimKind::Ollama,
                Kind::LlamaServer => SimKind::LlamaServer,
                Kind::Vllm => SimKind::Vllm,
            },
            version: self.ollama_version.clone(),
            gpu_share: self.gpu_share,
            ..default
        }
    }
}

#[actix_web::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let mut nodes = Vec::new();
    for &listen in &args.listen {
        match SimNode::start(args.config(listen)).await {
            Ok(node) => {
                println!("simulated node on {}", node.url());
                nodes.push(node);
            }
            Err(error) => {
                eprintln!("cannot listen on {listen}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    if let Err(error) = tokio::signal::ctrl_c().await {
        eprintln!("cannot wait for ctrl-c: {error}");
        return ExitCode::FAILURE;
    }
    for node in &nodes {
        node.stop().await;
    }
    ExitCode::SUCCESS
}
