//! Which API does a node offer, and so which routes may it be asked for?
use serde::{Deserialize, Serialize};

use protocol::{Dialect, Endpoint};
use scheduler::{Route, RouteSet};

/// The kind that the operator configures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// Ask the node.
    #[default]
    Auto,
    /// Ollama.
    Ollama,
    /// Another server of OpenAI's API: vLLM, SGLang, llama.cpp's server, LM Studio, TGI, a cloud endpoint.
    OpenAi,
}

/// What a node turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ollama,
    OpenAi,
}

impl Kind {
    /// The routes that a node of this kind may have. Its 404s show which of them it lacks.
    pub(crate) fn routes(self) -> RouteSet {
        match self {
            Self::Ollama => RouteSet::ALL,
            Self::OpenAi => {
                let theirs = Endpoint::ALL.into_iter().filter(|endpoint| endpoint.dialect() != Dialect::Ollama);
                theirs.fold(RouteSet::NONE, |routes, endpoint| routes.with(route_of(endpoint)))
            }
        }
    }
}

/// The scheduler's number for a route.
pub(crate) fn route_of(endpoint: Endpoint) -> Route {
    Route(endpoint as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ollama_is_asked_in_ollamas_own_words() {
        for endpoint in Endpoint::ALL {
            let is_own = endpoint.path().starts_with("/api/");
            assert!(Kind::Ollama.routes().has(route_of(endpoint)));
            assert_eq!(Kind::OpenAi.routes().has(route_of(endpoint)), !is_own, "{}", endpoint.path());
        }
    }
}
