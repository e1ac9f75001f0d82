//! What does the demo consist of? Simulated nodes, a temporary database, a user with a key, and commands to paste.
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ollama_sim::{SimConfig, SimModel, SimNode};

use super::process;
use super::traffic::Traffic;
use crate::app::App;
use crate::config::{Config, DEMO_ADMIN_KEY};
use crate::dispatch::Dispatcher;
use crate::fleet::NodeSettings;
use crate::http::DemoTraffic;
use crate::metrics::UserLabel;
use crate::store::{ApiKey, KeyDigest, NewUser, Terms, UserId, random_hex};

const USER: &str = "user-123";
/// Name, tokens a second with a 5 GB model, slots for each model, memory in GB.
const NODES: [(&str, f64, u32, f64); 3] = [("fast", 120.0, 4, 24.0), ("middle", 60.0, 2, 16.0), ("slow", 25.0, 1, 8.0)];

pub(super) fn run(bind: String) -> Result<(), String> {
    let folder = Folder::make()?;
    actix_rt::System::new().block_on(async {
        let stop = process::stop_signal()?;
        let (simulated, nodes) = start_nodes().await?;
        let mut config = Config { nodes, ..Config::default() };
        config.server.bind = bind;
        config.server.drain_seconds = 5;
        config.metrics.user_label = UserLabel::All;
        config.keys.self_service = true;
        config.database.url = format!("sqlite://{}/gateway.db", folder.0.display());
        let log = config.log.install();
        if !config.bind().is_some_and(|address| address.ip().is_loopback()) {
            return Err("the demo's admin key is known to everybody: --bind takes a loopback address only".to_owned());
        }
        let demo = DemoTraffic::default();
        let is_on = demo.follow();
        let app = App::build_demo(config.clone(), KeyDigest::of(DEMO_ADMIN_KEY), demo).await;
        let app = app.map_err(|error| error.to_string())?;
        let key = make_user(&app).await?;
        let base = format!("http://{}", app.address());
        let traffic = Traffic { base: base.clone(), accounts: app.accounts(), clock: app.clock(), is_on };
        let banner = greet(app.dispatcher(), base, config, key);
        let traffic = traffic.flow(stop.clone());
        // The banner comes once the nodes are up, which they are only while the gateway runs.
        let serving = async { tokio::join!(process::logged(&log, app.run(stop)), banner).0 };
        let served = tokio::select! {
            served = serving => served.map_err(|error| error.to_string()),
            never = traffic => match never {},
        };
        for node in &simulated {
            node.stop().await;
        }
        served
    })
}

/// A folder that is removed when the demo ends.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Result<Self, String> {
        let name = random_hex().map_err(|error| error.to_string())?;
        let path = std::env::temp_dir().join(format!("ollama-gateway-demo-{name}"));
        std::fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} could not be removed: {error}", self.0.display());
        }
    }
}

async fn start_nodes() -> Result<(Vec<SimNode>, Vec<NodeSettings>), String> {
    let (mut simulated, mut settings) = (Vec::new(), Vec::new());
    for (name, tokens_per_second, slots, vram_gb) in NODES {
        let config = SimConfig {
            tokens_per_second,
            slots: slots as usize,
            vram_bytes: (vram_gb * 1e9) as u64,
            load_bytes_per_second: 4e9,
            load_overhead: Duration::from_millis(300),
            models: vec![
                SimModel::chat("llama3.2:latest", 2.0),
                SimModel::chat("llama3.2:1b", 1.3),
                SimModel::vision("llava:latest", 4.7),
                SimModel::embedding("all-minilm:latest", 0.05),
            ],
            pullable: vec![SimModel::chat("gemma3:1b", 0.8), SimModel::chat("qwen3:4b", 2.6)],
            ..SimConfig::default()
        };
        let node = SimNode::start(config).await.map_err(|error| format!("a simulated node did not start: {error}"))?;
        settings.push(NodeSettings {
            slots: Some(slots),
            vram_gb: Some(vram_gb),
            ..NodeSettings::new(name, node.url())
        });
        simulated.push(node);
    }
    Ok((simulated, settings))
}

async fn make_user(app: &App) -> Result<ApiKey, String> {
    let user = UserId::parse(USER).ok_or("the demo's user has no fit name")?;
    let new = NewUser { user, terms: Terms::default(), group: None };
    let made = app.accounts().create(new, app.clock().now()).await.map_err(|error| error.to_string())?;
    Ok(made.secret)
}

/// Prints the commands to paste as soon as they work, that is, once every node is up.
async fn greet(dispatcher: Arc<Dispatcher>, base: String, config: Config, key: ApiKey) {
    let all_up = async {
        while dispatcher.read(|scheduler| scheduler.serving_nodes()) < config.nodes.len() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(5), all_up).await.is_err() {
        eprintln!("not every simulated node is up");
    }
    print_banner(&base, &config, &key);
}

fn print_banner(base: &str, config: &Config, key: &ApiKey) {
    let key = key.reveal();
    println!(
        "ollama-gateway {} demo: everything here is simulated and vanishes when it ends",
        env!("CARGO_PKG_VERSION")
    );
    println!(
        "\n  console    {base}/console\n  API        {base}/v1\n  docs       {base}/docs\n  metrics    {base}/metrics"
    );
    for ((name, speed, slots, _), node) in NODES.iter().zip(&config.nodes) {
        println!("  node       {name:<7} {} ({speed} tokens/s with a 5 GB model; slots a model: {slots})", node.url);
    }
    println!(
        "  models     llama3.2, llama3.2:1b, llava (vision), all-minilm (embeddings); gemma3:1b and qwen3:4b to pull"
    );
    println!("  admin key  {DEMO_ADMIN_KEY}\n  user       {USER}\n  user key   {key}");
    println!("\nTry it:\n\n  export KEY={key}");
    println!("  curl {base}/v1/models -H \"Authorization: Bearer $KEY\"");
    println!("  curl {base}/v1/chat/completions -H \"Authorization: Bearer $KEY\" \\");
    println!(
        "    -d '{{\"model\":\"llama3.2\",\"messages\":[{{\"role\":\"user\",\"content\":\"Why is the sky blue?\"}}]}}'"
    );
    println!("  curl -N {base}/v1/chat/completions -H \"Authorization: Bearer $KEY\" \\");
    println!(
        "    -d '{{\"model\":\"llama3.2\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"Tell me a story.\"}}]}}'"
    );
    println!("  curl {base}/v1/usage -H \"Authorization: Bearer $KEY\"");
    println!("  curl {base}/admin/nodes -H 'Authorization: Bearer {DEMO_ADMIN_KEY}'\n");
}
