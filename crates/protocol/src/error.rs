//! What does an error look like in a body and in a stream, in each of the three dialects?
use serde::Serialize;
use serde_json::json;

use super::endpoint::{Dialect, Endpoint};

/// An error in OpenAI's terms; the other dialects' forms are derived from it.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorObject<'a> {
    /// For people; says what to do next.
    pub message: &'a str,
    /// The family, such as `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// The request field at fault, if there is one.
    pub param: Option<&'a str>,
    /// For programs, such as `model_not_found`.
    pub code: Option<&'a str>,
}

impl ErrorObject<'_> {
    /// The body of an error: OpenAI's object with all four fields, Ollama's string, or Anthropic's envelope.
    pub fn body(&self, dialect: Dialect) -> String {
        match dialect {
            Dialect::OpenAi => format!("{{\"error\":{}}}", serde_json::to_string(self).unwrap_or_default()),
            Dialect::Ollama => json!({ "error": self.message }).to_string(),
            Dialect::Anthropic => {
                json!({ "type": "error", "error": { "type": self.anthropic_kind(), "message": self.message } })
                    .to_string()
            }
        }
    }

    /// The last frame of a stream that broke after its first byte. `id` is the answer's, including its quotes;
    /// `sequence` is the event's number.
    pub(crate) fn frame(&self, endpoint: Endpoint, id: &str, sequence: u64) -> String {
        match endpoint.dialect() {
            Dialect::Ollama => format!("{}\n", self.body(Dialect::Ollama)),
            Dialect::Anthropic => format!("event: error\ndata: {}\n\n", self.body(Dialect::Anthropic)),
            Dialect::OpenAi if endpoint == Endpoint::Responses => {
                let error = json!({ "code": self.response_code(), "message": self.message });
                format!(
                    "event: response.failed\ndata: {{\"type\":\"response.failed\",\"sequence_number\":{sequence},\
                     \"response\":{{\"id\":{id},\"object\":\"response\",\"status\":\"failed\",\"output\":[],\
                     \"error\":{error}}}}}\n\n"
                )
            }
            Dialect::OpenAi => format!("data: {}\n\n", self.body(Dialect::OpenAi)),
        }
    }

    /// The code of a failed response. Clients of that API know only a few codes, and use them to decide whether to
    /// retry.
    fn response_code(&self) -> &str {
        match (self.kind, self.code) {
            (_, Some(code @ ("rate_limit_exceeded" | "insufficient_quota" | "server_is_overloaded"))) => code,
            ("invalid_request_error" | "not_found_error", _) => "invalid_prompt",
            _ => "server_error",
        }
    }

    fn anthropic_kind(&self) -> &str {
        match (self.kind, self.code) {
            (_, Some("request_too_large")) => "request_too_large",
            (_, Some("server_is_overloaded" | "no_node_available" | "server_shutting_down")) => "overloaded_error",
            ("server_error", _) => "api_error",
            (kind, _) => kind,
        }
    }
}

/// Whether a node's body is an error in this dialect and can be passed on unchanged.
pub fn is_error_body(dialect: Dialect, body: &[u8]) -> bool {
    let Ok(body) = serde_json::from_slice::<serde_json::Value>(body) else { return false };
    match dialect {
        Dialect::OpenAi | Dialect::Anthropic => body["error"]["message"].is_string(),
        Dialect::Ollama => body["error"].is_string(),
    }
}

/// The message of an error body in any dialect.
pub fn message_of(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let error = &body["error"];
    error["message"].as_str().or(error.as_str()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: ErrorObject<'static> =
        ErrorObject { message: "no", kind: "server_error", param: None, code: Some("server_is_overloaded") };

    #[test]
    fn each_dialect_has_its_own_form() {
        assert_eq!(
            ERROR.body(Dialect::OpenAi),
            r#"{"error":{"message":"no","type":"server_error","param":null,"code":"server_is_overloaded"}}"#
        );
        assert_eq!(ERROR.body(Dialect::Ollama), r#"{"error":"no"}"#);
        assert_eq!(
            ERROR.body(Dialect::Anthropic),
            r#"{"error":{"message":"no","type":"overloaded_error"},"type":"error"}"#
        );
        for dialect in [Dialect::OpenAi, Dialect::Ollama, Dialect::Anthropic] {
            let body = ERROR.body(dialect);
            assert!(is_error_body(dialect, body.as_bytes()) && message_of(body.as_bytes()).as_deref() == Some("no"));
        }
    }

    #[test]
    fn the_frame_of_a_failed_response_is_json() {
        let frame = ERROR.frame(Endpoint::Responses, "\"resp_1\"", 7);
        let data = frame.strip_prefix("event: response.failed\ndata: ").unwrap();
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!((data["sequence_number"].as_u64(), &data["response"]["id"]), (Some(7), &json!("resp_1")));
    }

    #[test]
    fn a_failed_response_says_in_one_word_what_to_do_about_it() {
        let word = |kind, code| ErrorObject { message: "no", kind, param: None, code }.response_code().to_owned();
        assert_eq!(word("server_error", Some("server_is_overloaded")), "server_is_overloaded");
        assert_eq!(word("rate_limit_error", Some("rate_limit_exceeded")), "rate_limit_exceeded");
        assert_eq!(word("invalid_request_error", None), "invalid_prompt");
        assert_eq!(word("not_found_error", Some("model_not_found")), "invalid_prompt");
        assert_eq!(word("server_error", Some("upstream_error")), "server_error");
    }
}
