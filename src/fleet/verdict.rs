//! Who is to blame for a failed attempt: the request, the model on that node, the node, or the gateway itself? Pure.
//!
//! Ollama answers some client mistakes with a 5xx, and a route that it does not have with the same 404 as any unknown
//! path. So a status alone decides little; the message that comes with it decides the rest. Anything that no rule here
//! decides is left to the scheduler, which learns from other users and other nodes (see [`scheduler::Blame`]).
use bytes::Bytes;

use protocol::{Dialect, ErrorObject, is_error_body, message_of};
use scheduler::Failure;

/// The circumstances of an attempt, as far as they matter for the verdict.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The client's dialect.
    pub dialect: Dialect,
    /// The model's name as sent to the node.
    pub model: &'a str,
    /// Whether the node is Ollama: there, models differ in what they support, while routes do not.
    pub is_ollama: bool,
}

/// What an attempt got instead of a good answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence<'a> {
    /// The gateway could not open a socket.
    NoDescriptor,
    /// No connection was made.
    NoConnection,
    /// The connection closed before the answer was complete.
    ConnectionLost,
    /// What came is not HTTP, or not an answer.
    NotUnderstood,
    /// A status that is not a success, and its body.
    Status(u16, &'a [u8]),
    /// An error with a status of success, in place of an answer or of an event in a stream.
    Message(&'a str),
}

/// What follows from the evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The request is at fault: the client gets this, and no other node is asked.
    Request {
        /// 4xx.
        status: u16,
        /// In the client's dialect.
        body: Bytes,
    },
    /// The attempt failed.
    Attempt(Failure),
}

/// Client mistakes that Ollama and llama.cpp answer with a 5xx, in their words. In lower case.
const MISTAKES: [&str; 17] = [
    // Ollama: api/types.go, `option "temperature" must be of type float32`.
    "must be of type",
    // Ollama: `invalid format: "xml"; expected "json" or a valid JSON Schema`.
    "invalid format",
    // Ollama, and llama.cpp through it: embeddings, tools, thinking, images, insert.
    "does not support",
    "invalid image",
    "unknown format",
    "illegal base64",
    "failed to load image",
    "failed to decode image",
    "unsupported image",
    "failed to parse grammar",
    "failed to initialize samplers",
    "json schema conversion failed",
    "unrecognized schema",
    "context size",
    "context length",
    // llama.cpp: `input is too large to process. increase the physical batch size`.
    "input is too large",
    "cannot unmarshal",
];

/// Messages of a node that could not load a model. In lower case.
const UNLOADABLE: [&str; 9] = [
    "requires more system memory",
    "out-of-memory during startup",
    "llama-server process has terminated",
    // Ollama before 0.30.
    "llama runner process has terminated",
    "timed out waiting for llama",
    "unable to load model",
    "error loading model",
    "failed to load model",
    "this model may be incompatible",
];

/// Decides. The table in the tests is the specification.
pub fn judge(asked: Asked<'_>, evidence: Evidence<'_>) -> Verdict {
    match evidence {
        Evidence::NoDescriptor => Verdict::Attempt(Failure::Starved),
        Evidence::NoConnection => Verdict::Attempt(Failure::Unreachable),
        Evidence::ConnectionLost => Verdict::Attempt(Failure::Reset),
        Evidence::NotUnderstood => Verdict::Attempt(Failure::Garbled),
        Evidence::Message(message) => judge_message(asked, message),
        Evidence::Status(status, body) => judge_status(asked, status, body),
    }
}

fn judge_status(asked: Asked<'_>, status: u16, body: &[u8]) -> Verdict {
    let message = message_of(body);
    match (status, message.as_deref()) {
        // The order matters: a 404 that names the model is about the model, any other about the route.
        (404, Some(message)) if names_model(message, asked.model) => Verdict::Attempt(Failure::Missing),
        (404 | 405, _) => Verdict::Attempt(Failure::Unsupported),
        (401 | 403 | 407 | 300..=399, _) => Verdict::Attempt(Failure::Denied),
        (408 | 429 | 503, _) => Verdict::Attempt(Failure::Busy),
        // 499 is nginx's word for a client that has left, which says nothing about the request.
        (400..=498, Some(message)) => request_at_fault(asked.dialect, status, body, message),
        // A server that was started without embeddings has them for no model.
        (501, Some(_)) if !asked.is_ollama => Verdict::Attempt(Failure::Unsupported),
        (501, Some(message)) => request_at_fault(asked.dialect, 400, &[], message),
        (500.., Some(message)) => judge_message(asked, message),
        (499.., _) => Verdict::Attempt(Failure::Crashed),
        _ => Verdict::Attempt(Failure::Garbled),
    }
}

fn judge_message(asked: Asked<'_>, message: &str) -> Verdict {
    let words = message.to_ascii_lowercase();
    if MISTAKES.iter().any(|mistake| words.contains(mistake)) {
        return request_at_fault(asked.dialect, 400, &[], message);
    }
    let is_unloadable = UNLOADABLE.iter().any(|unloadable| words.contains(unloadable));
    Verdict::Attempt(if is_unloadable { Failure::Unloadable } else { Failure::Crashed })
}

/// The body is passed on unchanged if it is a client error in the client's dialect; otherwise it is rewritten in that
/// dialect.
fn request_at_fault(dialect: Dialect, status: u16, body: &[u8], message: &str) -> Verdict {
    let body = if is_error_body(dialect, body) {
        Bytes::copy_from_slice(body)
    } else {
        ErrorObject { message, kind: "invalid_request_error", param: None, code: None }.body(dialect).into()
    };
    Verdict::Request { status, body }
}

/// Whether a 404 is about the model rather than the route.
fn names_model(message: &str, model: &str) -> bool {
    let name = model.strip_suffix(":latest").unwrap_or(model);
    !name.is_empty() && message.to_ascii_lowercase().contains(&name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use Evidence::{ConnectionLost, Message, NoConnection, NoDescriptor, NotUnderstood, Status};

    const ASKED: Asked<'static> = Asked { dialect: Dialect::OpenAi, model: "llama3.2:latest", is_ollama: true };
    const OPENAI: Asked<'static> = Asked { is_ollama: false, ..ASKED };

    /// The evidence, and what follows: a failure, or the status that the client gets.
    fn table() -> Vec<(Asked<'static>, Evidence<'static>, Result<u16, Failure>)> {
        let ollama = |evidence, verdict| (ASKED, evidence, verdict);
        vec![
            // The gateway.
            ollama(NoDescriptor, Err(Failure::Starved)),
            // The node.
            ollama(NoConnection, Err(Failure::Unreachable)),
            ollama(Status(401, br#"{"error":"unauthorized"}"#), Err(Failure::Denied)),
            ollama(Status(403, b""), Err(Failure::Denied)),
            ollama(Status(307, b""), Err(Failure::Denied)),
            // Nobody.
            ollama(Status(408, b""), Err(Failure::Busy)),
            ollama(Status(429, br#"{"error":{"message":"slow down"}}"#), Err(Failure::Busy)),
            ollama(Status(503, br#"{"error":"server busy, please try again."}"#), Err(Failure::Busy)),
            ollama(Status(503, br#"{"error":{"code":503,"message":"Loading model"}}"#), Err(Failure::Busy)),
            // The model there.
            ollama(Status(404, br#"{"error":"model 'llama3.2' not found"}"#), Err(Failure::Missing)),
            ollama(
                Status(404, br#"{"error":{"message":"model \"Llama3.2\" not found, try pulling it first"}}"#),
                Err(Failure::Missing),
            ),
            ollama(
                Status(500, br#"{"error":"model requires more system memory (9 GiB) than is available"}"#),
                Err(Failure::Unloadable),
            ),
            ollama(
                Status(500, br#"{"error":"llama-server process has terminated: exit status 1"}"#),
                Err(Failure::Unloadable),
            ),
            // The route there.
            ollama(Status(404, b"404 page not found"), Err(Failure::Unsupported)),
            ollama(Status(404, br#"{"detail":"Not Found"}"#), Err(Failure::Unsupported)),
            ollama(Status(404, br#"{"error":{"message":"File Not Found","code":404}}"#), Err(Failure::Unsupported)),
            ollama(Status(405, b"405 method not allowed"), Err(Failure::Unsupported)),
            (OPENAI, Status(501, br#"{"error":{"message":"no embeddings here"}}"#), Err(Failure::Unsupported)),
            // The request.
            ollama(Status(400, br#"{"error":{"message":"invalid model name"}}"#), Ok(400)),
            ollama(Status(422, br#"{"error":{"message":"no"}}"#), Ok(422)),
            ollama(Status(501, br#"{"error":{"message":"this model does not support embeddings"}}"#), Ok(400)),
            ollama(Status(500, br#"{"error":"option \"temperature\" must be of type float32"}"#), Ok(400)),
            ollama(Status(500, br#"{"error":"invalid format: \"xml\"; expected \"json\""}"#), Ok(400)),
            ollama(Status(500, br#"{"error":{"message":"This server does not support embeddings."}}"#), Ok(400)),
            ollama(Message("Failed to parse grammar"), Ok(400)),
            // The request or the node.
            ollama(ConnectionLost, Err(Failure::Reset)),
            ollama(NotUnderstood, Err(Failure::Garbled)),
            ollama(Status(400, b"bad"), Err(Failure::Garbled)),
            ollama(Status(499, b""), Err(Failure::Crashed)),
            ollama(Status(500, b""), Err(Failure::Crashed)),
            ollama(Status(500, br#"{"error":"model runner has unexpectedly stopped"}"#), Err(Failure::Crashed)),
            ollama(Status(502, b"<html>"), Err(Failure::Crashed)),
            ollama(Status(600, b""), Err(Failure::Crashed)),
            ollama(Message("an error was encountered while running the model"), Err(Failure::Crashed)),
            ollama(Status(204, b""), Err(Failure::Garbled)),
        ]
    }

    #[test]
    fn the_evidence_decides_who_is_to_blame() {
        for (asked, evidence, expected) in table() {
            let verdict = match judge(asked, evidence) {
                Verdict::Request { status, .. } => Ok(status),
                Verdict::Attempt(failure) => Err(failure),
            };
            let shown = if let Status(status, body) = evidence {
                format!("{status} {}", String::from_utf8_lossy(body))
            } else {
                format!("{evidence:?}")
            };
            assert_eq!(verdict, expected, "{shown}");
        }
    }

    #[test]
    fn a_mistake_is_told_in_the_words_of_the_client() {
        let node = br#"{"error":"option \"temperature\" must be of type float32"}"#;
        let told = |dialect| match judge(Asked { dialect, ..ASKED }, Status(500, node)) {
            Verdict::Request { body, .. } => String::from_utf8(body.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        };
        let message = r#"option \"temperature\" must be of type float32"#;
        assert_eq!(told(Dialect::Ollama), format!(r#"{{"error":"{message}"}}"#));
        assert!(told(Dialect::OpenAi).contains(r#""type":"invalid_request_error""#));
        assert!(told(Dialect::Anthropic).contains(r#""type":"error""#) && told(Dialect::Anthropic).contains(message));
    }

    #[test]
    fn what_a_node_says_in_the_clients_dialect_goes_on_as_it_came() {
        let body = br#"{"error":{"message":"no","type":"x","param":"y","code":"z"}}"#;
        let verdict = judge(ASKED, Status(400, body));
        assert_eq!(verdict, Verdict::Request { status: 400, body: Bytes::from_static(body) });
    }
}
