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
/// Models that are asked at most, as those that decline are not tried.
const MOST_ASKED: usize = 16;
const PROMPT: &str = "Hi";

/// What became of one question.
enum Reply {
    Answered,
    /// The model cannot be asked that, which says nothing about the node.
    Declined,
    Failed,
}

/// Asks the models in a node's memory for one token each, or those that only embed for a vector. They stay in memory for
/// `keep_alive` afterwards, as after any other request. Of a node that is not Ollama one model is tried, because it may
/// have to load others.
pub(crate) async fn send_canary(inquiry: &Inquiry, loaded: &[Loaded], keep_alive: Duration) -> CanaryVerdict {
    let kind = inquiry.endpoint.found_kind();
    let mut left = if kind == Kind::Ollama { MOST_TRIED } else { 1 };
    let mut verdict = CanaryVerdict::Inconclusive;
    for model in loaded.iter().take(MOST_ASKED) {
        match try_model(inquiry, model, kind, keep_alive).await {
            Reply::Answered => (verdict, left) = (CanaryVerdict::Answered, left - 1),
            Reply::Declined => {}
            Reply::Failed => return CanaryVerdict::Failed,
        }
        if left == 0 {
            break;
        }
    }
    verdict
}

async fn try_model(inquiry: &Inquiry, model: &Loaded, kind: Kind, keep_alive: Duration) -> Reply {
    let [token, vector] = questions(model, kind, keep_alive);
    match ask(inquiry, model, token).await {
        Reply::Declined => ask(inquiry, model, vector).await,
        reply => reply,
    }
}

/// For one token, and for a vector.
fn questions(model: &Loaded, kind: Kind, keep_alive: Duration) -> [(Endpoint, Value); 2] {
    let name = &model.name;
    match kind {
        Kind::Ollama => {
            let vector = json!({"model": name, "input": PROMPT, "keep_alive": seconds(keep_alive)});
            [(Endpoint::Generate, ollama_body(model, keep_alive)), (Endpoint::Embed, vector)]
        }
        Kind::OpenAi => {
            let messages = json!([{"role": "user", "content": PROMPT}]);
            let token = json!({"model": name, "messages": messages, "max_tokens": 1});
            [(Endpoint::ChatCompletions, token), (Endpoint::Embeddings, json!({"model": name, "input": PROMPT}))]
        }
    }
}

async fn ask(inquiry: &Inquiry, model: &Loaded, (endpoint, body): (Endpoint, Value)) -> Reply {
    let body = Bytes::from(body.to_string());
    let question = Question { endpoint, model: &model.name, request_id: "gateway", headers: &[], body: &body };
    let asking = async {
        match inquiry.upstream.send(&inquiry.endpoint, question).await? {
            Head::Good(mut response) => read_answer(&mut response, CANARY_PATIENCE).await.map(|_| Reply::Answered),
            Head::Rejected { .. } => Ok(Reply::Declined),
        }
    };
    match tokio::time::timeout(CANARY_PATIENCE, asking).await {
        Ok(Ok(reply)) => reply,
        // What is the fault of the request, the model or the gateway says nothing about the node.
        Ok(Err(error)) if !matches!(error.failure.blame(), Blame::Node | Blame::Undecided) => Reply::Declined,
        Ok(Err(AttemptError { detail, .. })) => {
            tracing::debug!(node = &*inquiry.endpoint.name, model = model.name, detail, "a canary failed");
            Reply::Failed
        }
        Err(_) => Reply::Failed,
    }
}

fn seconds(keep_alive: Duration) -> String {
    format!("{}s", keep_alive.as_secs())
}

fn ollama_body(model: &Loaded, keep_alive: Duration) -> Value {
    let mut options = json!({"num_predict": 1});
    // Another context length than the model was loaded with would load it anew.
    if let Some(length) = model.context_length {
        options["num_ctx"] = length.into();
    }
    let keep_alive = seconds(keep_alive);
    json!({
        "model": model.name, "prompt": PROMPT, "raw": true, "stream": false, "keep_alive": keep_alive, "options": options
    })
}
