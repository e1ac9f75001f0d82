//! Which routes make a node work, and which dialect does each use?

use super::path::likely;

/// The form of a route's requests, answers and errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's.
    OpenAi,
    /// Ollama's own.
    Ollama,
    /// Anthropic's.
    Anthropic,
}

impl Dialect {
    /// The dialect of a path, for errors of any kind. For a path that is no route, its last part decides, except below
    /// `/admin`.
    pub fn of_path(path: &str) -> Self {
        let is_known = ["/api", "/v1", "/admin"]
            .iter()
            .any(|base| path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
        let path = if is_known { path } else { likely(path).unwrap_or(path) };
        if path == "/api" || path.starts_with("/api/") {
            Self::Ollama
        } else if path.starts_with("/v1/messages") {
            Self::Anthropic
        } else {
            Self::OpenAi
        }
    }
}

/// A route that makes a node work. Its path is the same here and on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`
    ChatCompletions,
    /// `/v1/completions`
    Completions,
    /// `/v1/embeddings`
    Embeddings,
    /// `/v1/responses`
    Responses,
    /// `/v1/messages`
    Messages,
    /// `/api/chat`
    Chat,
    /// `/api/generate`
    Generate,
    /// `/api/embed`
    Embed,
    /// `/api/embeddings`, the older route for a single text.
    EmbedOne,
}

impl Endpoint {
    /// Every variant.
    pub const ALL: [Self; 9] = [
        Self::ChatCompletions,
        Self::Completions,
        Self::Embeddings,
        Self::Responses,
        Self::Messages,
        Self::Chat,
        Self::Generate,
        Self::Embed,
        Self::EmbedOne,
    ];

    /// The path, here and on the node.
    pub fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
            Self::Chat => "/api/chat",
            Self::Generate => "/api/generate",
            Self::Embed => "/api/embed",
            Self::EmbedOne => "/api/embeddings",
        }
    }

    /// The dialect of its requests and answers.
    pub fn dialect(self) -> Dialect {
        Dialect::of_path(self.path())
    }

    /// Whether it answers with vectors, which are never streamed.
    pub fn embeds(self) -> bool {
        matches!(self, Self::Embeddings | Self::Embed | Self::EmbedOne)
    }

    /// The `id` of an answer, made from the request id, as a JSON string; empty if such answers have no id.
    pub(crate) fn answer_id(self, request_id: &str) -> String {
        let prefix = match self {
            Self::ChatCompletions => "chatcmpl-",
            Self::Completions => "cmpl-",
            Self::Responses => "resp_",
            Self::Messages => "msg_",
            Self::Embeddings | Self::Chat | Self::Generate | Self::Embed | Self::EmbedOne => return String::new(),
        };
        ["\"", prefix, request_id, "\""].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_of_a_path_that_is_none_says_in_which_words() {
        for (path, dialect) in [
            ("/v1/messages", Dialect::Anthropic),
            ("/anthropic/v1/messages", Dialect::Anthropic),
            ("/messages/count_tokens", Dialect::Anthropic),
            ("/ollama/api/chat", Dialect::Ollama),
            ("/v1/chat/completions", Dialect::OpenAi),
            ("/admin/users/api/messages", Dialect::OpenAi),
            ("/x", Dialect::OpenAi),
        ] {
            assert_eq!(Dialect::of_path(path), dialect, "{path}");
        }
    }

    #[test]
    fn all_stand_in_the_order_of_their_discriminants() {
        for (index, endpoint) in Endpoint::ALL.into_iter().enumerate() {
            assert_eq!(endpoint as usize, index);
        }
    }
}
