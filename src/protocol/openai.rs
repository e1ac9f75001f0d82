//! What does an error look like in OpenAI's dialect? One object, in a body or in a stream.
use serde::Serialize;

/// The words of an error; all four fields are always present.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorObject<'a> {
    /// For people; says what to do next.
    pub message: &'a str,
    /// The family, such as `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// The field of the request that is wrong, if it is one.
    pub param: Option<&'a str>,
    /// For programs, such as `model_not_found`.
    pub code: Option<&'a str>,
}

impl ErrorObject<'_> {
    /// `{"error":{…}}`
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Envelope<'a> {
            error: &'a ErrorObject<'a>,
        }
        serde_json::to_string(&Envelope { error: self }).unwrap_or_else(|_| r#"{"error":null}"#.to_owned())
    }

    /// The error as an event of a stream: what SDKs raise when a stream breaks after its first byte.
    pub fn to_event(&self) -> String {
        format!("data: {}\n\n", self.to_json())
    }
}

/// Whether a node's body is an error object that can be handed on as it is.
pub fn is_error_body(body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Envelope {
        error: serde_json::Map<String, serde_json::Value>,
    }
    serde_json::from_slice::<Envelope>(body).is_ok_and(|envelope| envelope.error.contains_key("message"))
}
