//! What do servers other than Ollama say about themselves, and what do they do differently with a request? `/health`,
//! `/v1/models`, `/slots`, `/props`, `/metrics`.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::ask::Ask;
use crate::clock;
use crate::config::SimKind;
use crate::dialect::Dialect;
use crate::dialect::anthropic::Messages;
use crate::dialect::compatible::{Compatible, CompatibleRoute};
use crate::dialect::responses::Responses;
use crate::dialect::work::Generate;
use crate::engine::Engine;
use crate::error::ApiError;
use crate::ledger::SimStats;
use crate::model::SimModel;
use crate::options::CONTEXT_LENGTH;

/// A page that is answered at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Page {
    Health,
    Models,
    Slots,
    Props,
    Metrics,
    Version,
}

/// The pages of each server, with their paths.
pub(crate) fn pages(kind: SimKind) -> &'static [(&'static str, Page)] {
    match kind {
        SimKind::Ollama => &[],
        SimKind::LlamaServer => &[
            ("/health", Page::Health),
            ("/v1/health", Page::Health),
            ("/models", Page::Models),
            ("/v1/models", Page::Models),
            ("/slots", Page::Slots),
            ("/props", Page::Props),
            ("/metrics", Page::Metrics),
        ],
        SimKind::Vllm => &[
            ("/health", Page::Health),
            ("/version", Page::Version),
            ("/metrics", Page::Metrics),
            ("/v1/models", Page::Models),
        ],
    }
}

/// Whether a path needs no key, even if the server has one.
pub(crate) fn is_open(kind: SimKind, path: &str) -> bool {
    match kind {
        SimKind::Ollama => false,
        SimKind::LlamaServer => ["/health", "/v1/health", "/models", "/v1/models"].contains(&path),
        SimKind::Vllm => !path.starts_with("/v1/"),
    }
}

/// The body of a page.
pub(crate) fn page(engine: &Engine, stats: &SimStats, page: Page) -> String {
    let kind = engine.config().kind;
    match page {
        // vLLM's body is empty.
        Page::Health => if kind == SimKind::Vllm { "" } else { r#"{"status":"ok"}"# }.to_owned(),
        Page::Models => models(kind, &engine.disk().models()),
        Page::Slots => slots(engine),
        Page::Props => props(engine),
        Page::Metrics => metrics(engine, stats),
        Page::Version => r#"{"version":"0.11.0"}"#.to_owned(),
    }
}

fn models(kind: SimKind, models: &[SimModel]) -> String {
    let entry = |model: &SimModel| {
        let created = clock::unix_seconds();
        let id = &model.name;
        match kind {
            SimKind::Vllm => json!({
                "id": id, "object": "model", "created": created, "owned_by": "vllm", "root": id, "parent": null,
                "max_model_len": CONTEXT_LENGTH, "permission": [],
            }),
            SimKind::LlamaServer | SimKind::Ollama => json!({
                "id": id, "aliases": [id], "tags": [], "object": "model", "created": created, "owned_by": "llamacpp",
                "meta": {"n_ctx": CONTEXT_LENGTH, "n_ctx_train": 131_072, "size": model.size_bytes},
            }),
        }
    };
    let data: Vec<Value> = models.iter().map(entry).collect();
    json!({"object": "list", "data": data}).to_string()
}

fn slots(engine: &Engine) -> String {
    let (total, busy) = (engine.config().slots.max(1), engine.active());
    let slot = |id: usize| json!({"id": id, "n_ctx": CONTEXT_LENGTH, "speculative": false, "is_processing": id < busy});
    Value::from_iter((0..total).map(slot)).to_string()
}

fn props(engine: &Engine) -> String {
    let name = engine.disk().models().first().map(|model| model.name.clone()).unwrap_or_default();
    json!({
        "default_generation_settings": {"n_ctx": CONTEXT_LENGTH}, "total_slots": engine.config().slots.max(1),
        "model_alias": name, "model_path": format!("/models/{name}.gguf"),
        "modalities": {"vision": false, "audio": false}, "build_info": "b10488-0123456", "is_sleeping": false,
        "endpoint_slots": true, "endpoint_props": false, "endpoint_metrics": true,
    })
    .to_string()
}

fn metrics(engine: &Engine, stats: &SimStats) -> String {
    let config = engine.config();
    let (running, waiting) = (engine.active(), stats.queued);
    let mut text = String::new();
    let mut gauge = |name: &str, labels: &str, value: usize| {
        // Writing to a string cannot fail.
        let _ = write!(text, "# TYPE {name} gauge\n{name}{labels} {value}\n");
    };
    match config.kind {
        SimKind::Vllm => {
            let model = engine.disk().models().first().map(|model| model.name.clone()).unwrap_or_default();
            let labels = format!("{{engine=\"0\",model_name=\"{model}\"}}");
            gauge("vllm:num_requests_running", &labels, running);
            gauge("vllm:num_requests_waiting", &labels, waiting);
        }
        SimKind::LlamaServer | SimKind::Ollama => {
            gauge("llamacpp:requests_processing", "", running);
            gauge("llamacpp:requests_deferred", "", waiting);
        }
    }
    text
}

/// The model that a request means. llama.cpp's server ignores a name that it does not know.
pub(crate) fn model(kind: SimKind, models: &[SimModel], name: &str) -> Result<SimModel, ApiError> {
    let found = match kind {
        SimKind::LlamaServer => models.iter().find(|model| model.name == name).or(models.first()),
        SimKind::Vllm | SimKind::Ollama => models.iter().find(|model| model.name == name),
    };
    let missing = || ApiError { status: 404, message: format!("The model `{name}` does not exist.") };
    found.cloned().ok_or_else(missing)
}

/// Refuses images that the model cannot see: llama.cpp's server with 500, vLLM with 400.
pub(crate) fn check(kind: SimKind, ask: &Ask, model: &SimModel) -> Result<(), ApiError> {
    if ask.images() == 0 || model.can("vision") {
        return Ok(());
    }
    Err(match kind {
        SimKind::LlamaServer => ApiError::internal(
            "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
        ),
        SimKind::Vllm | SimKind::Ollama => ApiError::bad_request(format!("{} is not a multimodal model", model.name)),
    })
}

/// The dialect that writes the answer.
pub(crate) fn dialect(kind: SimKind, path: &str, model: &SimModel, generate: Generate) -> Box<dyn Dialect> {
    if kind == SimKind::Ollama {
        return generate.dialect;
    }
    let compatible = |route| Box::new(Compatible::new(kind, route, &model.name, generate.include_usage));
    match path {
        "/v1/completions" => compatible(CompatibleRoute::Text),
        "/v1/responses" => Box::new(Responses::new(model.name.clone())),
        "/v1/messages" => Box::new(Messages::of_kind(kind, model.name.clone(), &generate.ask)),
        _ => compatible(CompatibleRoute::Chat),
    }
}
