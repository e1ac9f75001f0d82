//! Does a node that produced nothing work again? The gateway tries it itself, by one token of each model in its memory.
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::inquiry::Inquiry;
use super::kind::Kind;
use super::upstream::{AttemptError, Head, Question, read_answer};
use protocol::Endpoint;
use scheduler::{Blame, CanaryVerdict, Loaded};

/// Longest wait for one token of a model in memory, and for the list of those models.
pub(crate) const CANARY_PATIENCE: Duration = Duration::from_secs(5);
/// Models that are tried, one after the other: a node may be stuck with one of them only.
const MOST_TRIED: usize = 4;
const PROMPT: &str = "Hi";

/// Asks the models in a node's memory for one token each. They stay in memory for `keep_alive` afterwards, as after
/// any other request. Of a node that is not Ollama only the first model is asked, because it may have to load others.
pub(crate) async fn send_canary(inquiry: &Inquiry, loaded: &[Loaded], keep_alive: Duration) -> CanaryVerdict {
    let kind = inquiry.endpoint.found_kind();
    let most = if kind == Kind::Ollama { MOST_TRIED } else { 1 };
    let mut verdict = CanaryVerdict::Inconclusive;
    for model in loaded.iter().take(most) {
        match tokio::time::timeout(CANARY_PATIENCE, ask(inquiry, model, keep_alive)).await {
            Ok(Ok(true)) => verdict = CanaryVerdict::Answered,
            // A model that only embeds cannot be asked for a token.
            Ok(Ok(false)) => {}
            Ok(Err(error)) if !matches!(error.failure.blame(), Blame::Node | Blame::Undecided) => {}
            Ok(Err(error)) => {
                tracing::debug!(node = &*inquiry.endpoint.name, model = model.name, error.detail, "a canary failed");
                return CanaryVerdict::Failed;
            }
            Err(_) => return CanaryVerdict::Failed,
        }
    }
    verdict
}

/// Whether the model wrote a token, as opposed to rejecting the request.
async fn ask(inquiry: &Inquiry, model: &Loaded, keep_alive: Duration) -> Result<bool, AttemptError> {
    let (endpoint, body) = match inquiry.endpoint.found_kind() {
        Kind::Ollama => (Endpoint::Generate, ollama_body(model, keep_alive)),
        Kind::OpenAi => {
            let messages = json!([{"role": "user", "content": PROMPT}]);
            let body = json!({"model": model.name, "messages": messages, "max_tokens": 1});
            (Endpoint::ChatCompletions, body)
        }
    };
    let body = Bytes::from(body.to_string());
    let question = Question { endpoint, model: &model.name, request_id: "gateway", headers: &[], body: &body };
    match inquiry.upstream.send(&inquiry.endpoint, question).await? {
        Head::Good(mut response) => {
            read_answer(&mut response, CANARY_PATIENCE).await?;
            Ok(true)
        }
        Head::Rejected { .. } => Ok(false),
    }
}

fn ollama_body(model: &Loaded, keep_alive: Duration) -> Value {
    let mut options = json!({"num_predict": 1});
    // Another context length than the model was loaded with would load it anew.
    if let Some(length) = model.context_length {
        options["num_ctx"] = length.into();
    }
    let keep_alive = format!("{}s", keep_alive.as_secs());
    json!({
        "model": model.name, "prompt": PROMPT, "raw": true, "stream": false, "keep_alive": keep_alive, "options": options
    })
}
