//! What do servers other than Ollama do differently with a request?

use crate::ask::Ask;
use crate::config::SimKind;
use crate::dialect::Dialect;
use crate::dialect::anthropic::Messages;
use crate::dialect::compatible::{Compatible, CompatibleRoute};
use crate::dialect::responses::Responses;
use crate::dialect::work::Generate;
use crate::error::ApiError;
use crate::model::SimModel;

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
