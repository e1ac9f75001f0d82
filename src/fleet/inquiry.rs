//! How does a node answer a question? Each question has a deadline, and takes the form that the node's kind
//! understands.
use std::sync::Arc;
use std::time::Duration;

use actix_http::Uri;
use bytes::Bytes;

use super::endpoint::NodeEndpoint;
use super::kind::{Kind, NodeKind};
use super::listing::{self, Listing};
use super::upstream::{AskError, Upstream};
use scheduler::{Loaded, Model};

/// By which answer a node shows that it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sign {
    /// Not known yet.
    #[default]
    Unknown,
    /// `/api/version`.
    Version,
    /// A path that answers 200.
    Path(Uri),
}

/// A node that was found to be there.
#[derive(Debug)]
pub(crate) struct Alive {
    pub(crate) sign: Sign,
    /// Its version, if it is Ollama.
    pub(crate) version: Option<String>,
}

/// Asks one node.
#[derive(Clone, Debug)]
pub(crate) struct Inquiry {
    pub(crate) upstream: Upstream,
    pub(crate) endpoint: Arc<NodeEndpoint>,
    pub(crate) probe_timeout: Duration,
    pub(crate) listing_timeout: Duration,
}

impl Inquiry {
    /// Whether it is there, by the sign found before. If its kind is not known yet, finds that out too.
    pub(crate) async fn is_alive(&self, sign: Sign) -> Result<Alive, AskError> {
        match sign {
            Sign::Unknown => self.find().await,
            Sign::Version => {
                let body = self.probe(self.endpoint.version_uri()).await?;
                Ok(Alive { sign: Sign::Version, version: listing::version(&body) })
            }
            Sign::Path(uri) => {
                self.probe(&uri).await?;
                Ok(Alive { sign: Sign::Path(uri), version: None })
            }
        }
    }

    async fn find(&self) -> Result<Alive, AskError> {
        if self.endpoint.kind == NodeKind::OpenAi {
            return self.find_health().await;
        }
        let said = self.probe(self.endpoint.version_uri()).await;
        let version = said.as_ref().ok().and_then(|body| listing::version(body));
        // Whatever answers without a version may be another server. Silence says nothing of the kind.
        let may_be_other = matches!(said, Ok(_) | Err(AskError::Status(_))) && version.is_none();
        if self.endpoint.kind == NodeKind::Auto && may_be_other && self.lists_models().await {
            self.endpoint.found(Kind::OpenAi);
            return self.find_health().await;
        }
        said?;
        self.endpoint.found(Kind::Ollama);
        Ok(Alive { sign: Sign::Version, version })
    }

    /// Whether it answers like a server of OpenAI's API.
    async fn lists_models(&self) -> bool {
        let said = self.probe(self.endpoint.models_uri()).await;
        said.is_ok_and(|body| listing::openai_models(&body, &self.endpoint.aliases).is_ok())
    }

    /// Finds the path that shows whether a node that is not Ollama is well.
    async fn find_health(&self) -> Result<Alive, AskError> {
        let path = match self.endpoint.health_uri() {
            Some(path) => path,
            None => match self.probe(self.endpoint.default_health_uri()).await {
                // The path does not exist, or is not for us.
                Err(AskError::Status(400..=499)) => self.endpoint.models_uri(),
                Err(error) => return Err(error),
                Ok(_) => self.endpoint.default_health_uri(),
            },
        };
        self.probe(path).await?;
        Ok(Alive { sign: Sign::Path(path.clone()), version: None })
    }

    /// The models that it has on disk, or offers.
    pub(crate) async fn models(&self) -> Result<Listing<Model>, String> {
        match self.endpoint.found_kind() {
            Kind::Ollama => listing::tags(&self.list(self.endpoint.tags_uri()).await?),
            Kind::OpenAi => {
                listing::openai_models(&self.list(self.endpoint.models_uri()).await?, &self.endpoint.aliases)
            }
        }
    }

    /// The models in its memory.
    pub(crate) async fn loaded(&self) -> Result<Listing<Loaded>, String> {
        listing::processes(&self.list(self.endpoint.ps_uri()).await?)
    }

    /// What it says of one of its models.
    pub(crate) async fn show(&self, model: &str) -> Result<Bytes, AskError> {
        let body = Bytes::from(serde_json::json!({ "model": model }).to_string());
        self.within(self.listing_timeout, self.upstream.ask_about(&self.endpoint, body)).await
    }

    /// The number of slots that a node that is not Ollama reports.
    pub(crate) async fn slots(&self) -> Option<u32> {
        listing::total_slots(&self.probe(self.endpoint.props_uri()).await.ok()?)
    }

    async fn list(&self, uri: &Uri) -> Result<Bytes, String> {
        self.ask(uri, self.listing_timeout).await.map_err(|error| error.to_string())
    }

    async fn probe(&self, uri: &Uri) -> Result<Bytes, AskError> {
        self.ask(uri, self.probe_timeout).await
    }

    async fn ask(&self, uri: &Uri, within: Duration) -> Result<Bytes, AskError> {
        self.within(within, self.upstream.get(&self.endpoint, uri)).await
    }

    async fn within(
        &self,
        within: Duration,
        answer: impl Future<Output = Result<Bytes, AskError>>,
    ) -> Result<Bytes, AskError> {
        let late = |_| AskError::Failed(format!("no answer within {} ms", within.as_millis()));
        tokio::time::timeout(within, answer).await.map_err(late)?
    }
}
