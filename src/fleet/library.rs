//! What can operators do with a node's models? Pull, delete, load and unload them, by requests of the gateway's own
//! that bypass the queue and take no slot.
use std::sync::Arc;
use std::time::Duration;

use actix_http::{Method, Uri};
use bytes::BytesMut;
use futures_util::stream::{self, Stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::endpoint::NodeEndpoint;
use super::exchange::NodeAnswer;
use super::kind::Kind;
use super::upstream::{Upstream, next_chunk, read_answer};
use protocol::Endpoint;

/// The longest silence during a pull: checking the digest of a large model takes minutes without any output.
const PULL_PATIENCE: Duration = Duration::from_secs(600);
/// The longest wait for a model to be deleted or unloaded.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest line of progress.
const MAX_LINE: usize = 64 * 1024;

/// One line of a pull's progress, in Ollama's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Such as `pulling manifest`, `pulling dde5aa3fc5ff`, `success`.
    pub status: String,
    /// The layer being downloaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Its size in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Bytes of it downloaded so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed: Option<u64>,
}

impl Progress {
    /// Whether the whole model has arrived.
    pub fn is_success(&self) -> bool {
        self.status == "success"
    }
}

impl Upstream {
    /// Makes a node pull a model and returns its progress; the last item is a success or an error. Dropping the stream
    /// ends the pull; what was downloaded stays on the node.
    pub fn pull(&self, node: Arc<NodeEndpoint>, model: &str) -> impl Stream<Item = Result<Progress, String>> + use<> {
        let (upstream, body) = (self.clone(), json!({"model": model, "stream": true}));
        let begin = async move { upstream.order(&node, node.pull_uri(), &Method::POST, &body, PULL_PATIENCE).await };
        let start = Pull::Beginning(Box::pin(begin));
        stream::unfold(start, |pull| async move {
            let mut lines = match pull {
                Pull::Ended => return None,
                Pull::Running(lines) => lines,
                Pull::Beginning(begin) => match begin.await {
                    Ok(response) => Lines { response, held: BytesMut::new() },
                    Err(error) => return Some((Err(error), Pull::Ended)),
                },
            };
            match lines.next().await {
                Ok(progress) if progress.is_success() => Some((Ok(progress), Pull::Ended)),
                Ok(progress) => Some((Ok(progress), Pull::Running(lines))),
                Err(error) => Some((Err(error), Pull::Ended)),
            }
        })
    }

    /// Makes a node delete a model from its disk.
    ///
    /// # Errors
    /// Why the model was not deleted.
    pub async fn delete_model(&self, node: &Arc<NodeEndpoint>, model: &str) -> Result<(), String> {
        let body = json!({ "model": model });
        self.order(node, node.delete_uri(), &Method::DELETE, &body, PATIENCE).await.map(drop)
    }

    /// Makes a node load a model within `deadline`, or unload it.
    ///
    /// # Errors
    /// Why that was not done.
    pub async fn set_loaded(
        &self,
        node: &Arc<NodeEndpoint>,
        model: &str,
        is_wanted: bool,
        deadline: Duration,
    ) -> Result<(), String> {
        // Without a prompt, Ollama loads the model and answers nothing.
        let mut generate = json!({"model": model, "stream": false});
        let mut embed = json!({"model": model, "input": ""});
        if !is_wanted {
            // With 0 it unloads instead.
            (generate["keep_alive"], embed["keep_alive"]) = (0.into(), 0.into());
        }
        let deadline = if is_wanted { deadline } else { PATIENCE };
        let asked = async |endpoint, body: &Value| {
            let mut response = self.order(node, node.uri(endpoint), &Method::POST, body, deadline).await?;
            read_answer(&mut response, PATIENCE).await.map(drop).map_err(|error| error.detail)
        };
        match asked(Endpoint::Generate, &generate).await {
            // A model that only embeds is loaded by an embedding request.
            Err(error) if error.contains("does not support generate") => asked(Endpoint::Embed, &embed).await,
            result => result,
        }
    }

    async fn order(
        &self,
        node: &Arc<NodeEndpoint>,
        uri: &Uri,
        method: &Method,
        body: &Value,
        deadline: Duration,
    ) -> Result<NodeAnswer, String> {
        if node.found_kind() == Kind::OpenAi {
            return Err("the node is not Ollama: its models are configured on the node itself".to_owned());
        }
        let late = |_| format!("no answer within {} s", deadline.as_secs());
        tokio::time::timeout(deadline, self.command(node, method, uri, body)).await.map_err(late)?
    }
}

type Beginning = std::pin::Pin<Box<dyn Future<Output = Result<NodeAnswer, String>>>>;

enum Pull {
    Beginning(Beginning),
    Running(Lines),
    Ended,
}

/// The lines of a pull.
struct Lines {
    response: NodeAnswer,
    held: BytesMut,
}

impl Lines {
    async fn next(&mut self) -> Result<Progress, String> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum PullLine {
            Failed { error: String },
            Progressed(Progress),
        }
        loop {
            if let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
                let line = self.held.split_to(end + 1);
                return match serde_json::from_slice(&line) {
                    Ok(PullLine::Progressed(progress)) => Ok(progress),
                    Ok(PullLine::Failed { error }) => Err(error),
                    Err(_) if line.trim_ascii().is_empty() => continue,
                    Err(_) => Err("the node's progress cannot be read".to_owned()),
                };
            }
            // Without a bound, a node that sends no line end would fill the memory.
            if self.held.len() > MAX_LINE {
                return Err("the node's progress cannot be read".to_owned());
            }
            match next_chunk(&mut self.response, PULL_PATIENCE).await.map_err(|error| error.detail)? {
                Some(chunk) => self.held.extend_from_slice(&chunk),
                None => return Err("the node ended the pull before it succeeded".to_owned()),
            }
        }
    }
}
