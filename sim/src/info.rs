//! What does the node tell about its models? `/api/version`, `/api/tags`, `/api/ps`, `/api/show`, `/v1/models`.

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::dialect::read;
use crate::disk::Disk;
use crate::engine::LoadedModel;
use crate::error::{ApiError, json};
use crate::model::SimModel;
use crate::text::digest;

const VERSION: &str = "0.33.0";
const MODIFIED_AT: &str = "2026-08-20T10:11:12.345678901Z";
/// `MODIFIED_AT` in seconds since 1970.
const CREATED: i64 = 1_787_220_672;

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

#[derive(Serialize)]
struct Models<T> {
    models: Vec<T>,
}

#[derive(Serialize)]
struct Tag<'a> {
    name: &'a str,
    model: &'a str,
    modified_at: &'static str,
    size: u64,
    digest: String,
    details: Details<'a>,
    capabilities: &'a [String],
}

#[derive(Serialize)]
struct RunningModel<'a> {
    name: &'a str,
    model: &'a str,
    size: u64,
    digest: String,
    details: Details<'a>,
    expires_at: String,
    size_vram: u64,
    context_length: u64,
}

#[derive(Serialize)]
struct Details<'a> {
    parent_model: &'static str,
    format: &'static str,
    family: &'a str,
    families: [&'a str; 1],
    parameter_size: String,
    quantization_level: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_length: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding_length: Option<u64>,
}

impl<'a> Details<'a> {
    fn short(model: &'a SimModel) -> Self {
        Self {
            parent_model: "",
            format: "gguf",
            family: &model.family,
            families: [&model.family],
            // Four-bit weights take about five bits each.
            parameter_size: format!("{:.1}B", model.size_gb() * 1.6),
            quantization_level: "Q4_K_M",
            context_length: None,
            embedding_length: None,
        }
    }

    fn long(model: &'a SimModel) -> Self {
        let embedding_length = if model.can("embedding") { 384 } else { 2048 };
        Self { context_length: Some(131_072), embedding_length: Some(embedding_length), ..Self::short(model) }
    }
}

/// The body of `/api/version`.
pub(crate) fn version() -> String {
    json(&Version { version: VERSION })
}

/// The body of `/api/tags`.
pub(crate) fn tags(models: &[SimModel]) -> String {
    let models = models.iter().map(|model| Tag {
        name: &model.name,
        model: &model.name,
        modified_at: MODIFIED_AT,
        size: model.size_bytes,
        digest: digest(&model.manifest()),
        details: Details::long(model),
        capabilities: &model.capabilities,
    });
    json(&Models { models: models.collect() })
}

/// The body of `/api/ps`.
pub(crate) fn ps(loaded: &[LoadedModel]) -> String {
    let models = loaded.iter().map(|LoadedModel { model, context_length, expires_at }| RunningModel {
        name: &model.name,
        model: &model.name,
        size: model.size_bytes,
        digest: digest(&model.manifest()),
        details: Details::short(model),
        expires_at: clock::rfc3339(*expires_at),
        size_vram: model.size_bytes,
        context_length: *context_length,
    });
    json(&Models { models: models.collect() })
}

#[derive(Deserialize)]
struct ShowRequest {
    model: Option<String>,
    name: Option<String>,
}

#[derive(Serialize)]
struct Show<'a> {
    license: &'static str,
    modelfile: String,
    template: &'static str,
    details: Details<'a>,
    model_info: serde_json::Value,
    capabilities: &'a [String],
    modified_at: &'static str,
}

/// The body of `/api/show`.
///
/// # Errors
/// 400 for a request that cannot be read, 404 for an unknown model.
pub(crate) fn show(disk: &Disk, body: &[u8]) -> Result<String, ApiError> {
    let request: ShowRequest = read(body)?;
    let name = request.model.or(request.name).unwrap_or_default();
    if name.is_empty() {
        return Err(ApiError::bad_request("model is required"));
    }
    let model = disk.find(&name).ok_or_else(|| ApiError::model_not_found(&name))?;
    Ok(json(&Show {
        license: "A simulated model has no license.",
        modelfile: format!("FROM {}\n", model.name),
        template: "{{ .Prompt }}",
        details: Details::short(&model),
        model_info: serde_json::json!({
            "general.architecture": model.family,
            (format!("{}.context_length", model.family)): 131_072,
        }),
        capabilities: &model.capabilities,
        modified_at: MODIFIED_AT,
    }))
}

#[derive(Serialize)]
struct OpenAiList<'a> {
    object: &'static str,
    /// `null` when there are none.
    data: Option<Vec<OpenAiModel<'a>>>,
}

#[derive(Serialize)]
struct OpenAiModel<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    owned_by: &'static str,
}

impl<'a> OpenAiModel<'a> {
    fn new(id: &'a str) -> Self {
        Self { id, object: "model", created: CREATED, owned_by: "library" }
    }
}

/// The body of `/v1/models`.
pub(crate) fn openai_models(models: &[SimModel]) -> String {
    let data: Vec<_> = models.iter().map(|model| OpenAiModel::new(&model.name)).collect();
    json(&OpenAiList { object: "list", data: (!data.is_empty()).then_some(data) })
}

/// The body of `/v1/models/{name}`.
pub(crate) fn openai_model(name: &str) -> String {
    json(&OpenAiModel::new(name))
}
