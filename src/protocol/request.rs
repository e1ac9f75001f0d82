//! What does a client ask for? Reads the few fields that the gateway needs, and splices its edits into the rest.
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{Object, Splices, span};

/// Tokens that one image takes at most, whatever its size in bytes.
const IMAGE_TOKENS: usize = 4096;
/// Tokens that a chat template adds around the messages, at most, beyond the JSON that surrounded them.
const TEMPLATE_TOKENS: usize = 32;
const MAX_IMAGES: usize = 128;
const MAX_MODEL_NAME: usize = 128;

/// Every field that the gateway reads. Ollama matches names without regard to case and takes the last of several, so
/// that a second spelling of one of these would mean one thing here and another there.
const READ: [&str; 11] = [
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "messages",
    "prompt",
    "suffix",
    "input",
    "tools",
    "response_format",
];
/// Shows the rendered template with the operator's system prompt.
const REFUSED: &str = "_debug_render_only";

/// A route that makes a node work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`
    ChatCompletions,
    /// `/v1/completions`
    Completions,
    /// `/v1/embeddings`
    Embeddings,
}

impl Endpoint {
    /// The path, here and on the node.
    pub fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
        }
    }

    /// The `id` of an answer as a JSON string, made from the request id.
    pub fn answer_id(self, request_id: &str) -> String {
        let prefix = if self == Self::Completions { "cmpl" } else { "chatcmpl" };
        format!("\"{prefix}-{request_id}\"")
    }
}

/// Why a request is refused before it costs anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadRequest {
    /// For people.
    pub message: String,
    /// The field that is wrong, if it is one.
    pub param: Option<&'static str>,
}

fn bad(param: &'static str, message: impl Into<String>) -> BadRequest {
    BadRequest { message: message.into(), param: Some(param) }
}

/// What the gateway needs to know of a request, and where its edits go.
#[derive(Debug)]
pub struct InferenceRequest {
    /// The route.
    pub endpoint: Endpoint,
    /// As the client spelled it.
    pub model: String,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether the client asked for the usage chunk.
    pub include_usage: bool,
    /// `max_completion_tokens`, else `max_tokens`.
    pub max_output: Option<u64>,
    /// No prompt of this size takes more tokens.
    pub prompt_bound: u64,
    edits: Splices,
    /// Where `max_tokens` stands, or where a member can be put.
    max_tokens_at: Place,
}

#[derive(Debug)]
enum Place {
    Value(std::ops::Range<usize>),
    /// Right behind the opening brace.
    Front(usize),
}

impl Place {
    fn set(&self, edits: &mut Splices, key: &str, value: &str) {
        match self {
            Self::Value(span) => edits.replace(span.clone(), value),
            Self::Front(at) => edits.replace(*at..*at, format!("\"{key}\":{value},")),
        }
    }
}

impl InferenceRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// [`BadRequest`] where it is not a request that a node could answer.
    pub fn parse(endpoint: Endpoint, body: &[u8]) -> Result<Self, BadRequest> {
        let object = Object::parse(body)
            .map_err(|error| BadRequest { message: format!("the body is not a JSON object: {error}"), param: None })?;
        check_names(&object)?;
        let model = model_of(&object)?;
        let stream =
            endpoint != Endpoint::Embeddings && field::<bool>(&object, "stream", "true or false")?.unwrap_or(false);
        let max_tokens = output_of(&object, "max_tokens")?;
        let max_completion_tokens = output_of(&object, "max_completion_tokens")?;
        let front = 1 + body.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let place = |key| match object.get(key) {
            Some(value) => Place::Value(span(body, value)),
            None => Place::Front(front),
        };
        let mut edits = Splices::default();
        let mut include_usage = false;
        if let Some(options) = field::<StreamOptions>(&object, "stream_options", "an object")? {
            include_usage = options.include_usage.unwrap_or(false);
        }
        if stream && !include_usage {
            place("stream_options").set(&mut edits, "stream_options", r#"{"include_usage":true}"#);
        }
        if let (Some(newer), true) = (max_completion_tokens, max_completion_tokens != max_tokens) {
            place("max_tokens").set(&mut edits, "max_tokens", &newer.to_string());
        }
        let max_tokens_at = place("max_tokens");
        let prompt_bound = prompt_bound(endpoint, &object)?;
        let max_output = max_completion_tokens.or(max_tokens);
        Ok(Self { endpoint, model, stream, include_usage, max_output, prompt_bound, edits, max_tokens_at })
    }

    /// The body for the node, with `output_cap` as its `max_tokens` where the client named none.
    pub fn rewrite(&mut self, body: Bytes, output_cap: Option<u64>) -> Bytes {
        let mut edits = std::mem::take(&mut self.edits);
        if let (Some(cap), None) = (output_cap, self.max_output) {
            self.max_tokens_at.set(&mut edits, "max_tokens", &cap.to_string());
        }
        if edits.is_empty() {
            return body;
        }
        let mut edited = Vec::with_capacity(body.len() + 64);
        edits.apply(&body, &mut edited);
        edited.into()
    }
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

fn field<'a, T: Deserialize<'a>>(
    object: &Object<'a>,
    key: &'static str,
    expected: &str,
) -> Result<Option<T>, BadRequest> {
    object
        .present(key)
        .map(|value| serde_json::from_str(value.get()).map_err(|_| bad(key, format!("`{key}` must be {expected}"))))
        .transpose()
}

fn check_names(object: &Object<'_>) -> Result<(), BadRequest> {
    let mut seen = [false; READ.len()];
    for key in object.keys() {
        let folded = fold(key);
        if folded == REFUSED {
            return Err(bad(REFUSED, format!("`{REFUSED}` is not available through this service")));
        }
        let Some(index) = READ.iter().position(|name| *name == folded) else {
            continue;
        };
        if key != READ[index] {
            return Err(bad(READ[index], format!("write `{}` in lower case", READ[index])));
        }
        if std::mem::replace(&mut seen[index], true) {
            return Err(bad(READ[index], format!("`{}` is given twice", READ[index])));
        }
    }
    Ok(())
}

/// A name as Go's JSON decoder compares it: without regard to case, with its two letters from outside ASCII.
fn fold(key: &str) -> std::borrow::Cow<'_, str> {
    let plain = |letter: char| letter.is_ascii() && !letter.is_ascii_uppercase();
    if key.chars().all(plain) {
        return key.into();
    }
    key.chars()
        .map(|letter| match letter {
            '\u{17f}' => 's',
            '\u{212a}' => 'k',
            other => other.to_ascii_lowercase(),
        })
        .collect::<String>()
        .into()
}

fn model_of(object: &Object<'_>) -> Result<String, BadRequest> {
    let model: String = field(object, "model", "a string")?.ok_or_else(|| bad("model", "`model` is missing"))?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-@+".contains(&byte);
    if model.is_empty() || model.len() > MAX_MODEL_NAME || !model.bytes().all(allowed) {
        let message = format!("`model` must be 1 to {MAX_MODEL_NAME} of the characters A-Z a-z 0-9 . _ : / - @ +");
        return Err(bad("model", message));
    }
    Ok(model)
}

fn output_of(object: &Object<'_>, key: &'static str) -> Result<Option<u64>, BadRequest> {
    let limit = field::<u64>(object, key, "a whole number of at least 1")?;
    match limit {
        Some(0) => Err(bad(key, format!("`{key}` must be a whole number of at least 1"))),
        // As far as a node's own integers go.
        Some(limit) => Ok(Some(limit.min(i32::MAX as u64))),
        None => Ok(None),
    }
}

/// Every token stands for at least a byte of text, and JSON only makes text longer; images count by number.
fn prompt_bound(endpoint: Endpoint, object: &Object<'_>) -> Result<u64, BadRequest> {
    let length = |key| object.present(key).map_or(0, |value: &RawValue| value.get().len());
    let bytes = match endpoint {
        Endpoint::ChatCompletions => {
            let images = images_of(object)?;
            length("messages") - images.bytes
                + images.count * IMAGE_TOKENS
                + length("tools")
                + length("response_format")
        }
        Endpoint::Completions => {
            field::<String>(object, "prompt", "a string")?.ok_or_else(|| bad("prompt", "`prompt` is missing"))?;
            length("prompt") + length("suffix")
        }
        Endpoint::Embeddings => {
            let input = object.present("input").ok_or_else(|| bad("input", "`input` is missing"))?;
            if !matches!(input.get().as_bytes().first(), Some(b'"' | b'[')) {
                return Err(bad("input", "`input` must be a string or a list of strings"));
            }
            length("input")
        }
    };
    Ok((bytes + TEMPLATE_TOKENS) as u64)
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    image_url: Option<&'a RawValue>,
}

#[derive(Default)]
struct Images {
    count: usize,
    bytes: usize,
}

fn images_of(object: &Object<'_>) -> Result<Images, BadRequest> {
    let messages: Vec<Message> = field(object, "messages", "a list of messages, each an object")?
        .ok_or_else(|| bad("messages", "`messages` is missing"))?;
    if messages.is_empty() {
        return Err(bad("messages", "`messages` must hold at least one message"));
    }
    let mut images = Images::default();
    for message in &messages {
        if !message.role.is_some_and(|role| role.get().starts_with('"')) {
            return Err(bad("messages", "every message must have a `role`"));
        }
        let content = message.content.map_or("null", RawValue::get);
        match content.as_bytes().first() {
            Some(b'"' | b'n') => {}
            Some(b'[') => count_images(content, &mut images)?,
            _ => return Err(bad("messages", "the `content` of a message must be a string or a list of parts")),
        }
    }
    if images.count > MAX_IMAGES {
        return Err(bad("messages", format!("at most {MAX_IMAGES} images are taken in a request")));
    }
    Ok(images)
}

fn count_images(content: &str, images: &mut Images) -> Result<(), BadRequest> {
    let parts: Vec<Part> = serde_json::from_str(content)
        .map_err(|_| bad("messages", "a list as `content` must hold parts, each an object"))?;
    for image in parts.iter().filter_map(|part| part.image_url) {
        images.count += 1;
        images.bytes += image.get().len();
        let url = image_url(image).ok_or_else(|| bad("messages", "`image_url` must be an object with a `url`"))?;
        if !url {
            let message =
                "images must be given as base64 data URLs (`data:image/png;base64,…`); the gateway fetches none";
            return Err(bad("messages", message));
        }
    }
    Ok(())
}

/// Whether the image is a data URL; `None` where it has no URL at all.
fn image_url(image: &RawValue) -> Option<bool> {
    #[derive(Deserialize)]
    struct Wrapped<'a> {
        #[serde(borrow)]
        url: &'a RawValue,
    }
    let raw = image.get();
    let url = if raw.starts_with('{') { serde_json::from_str::<Wrapped>(raw).ok()?.url.get() } else { raw };
    url.starts_with('"').then(|| url.starts_with("\"data:"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chat(body: &str) -> Result<InferenceRequest, BadRequest> {
        InferenceRequest::parse(Endpoint::ChatCompletions, body.as_bytes())
    }

    fn rewritten(body: &str, cap: Option<u64>) -> String {
        let mut request = chat(body).unwrap();
        String::from_utf8(request.rewrite(Bytes::from(body.to_owned()), cap).to_vec()).unwrap()
    }

    const ONE: &str = r#""messages":[{"role":"user","content":"hi"}]"#;

    #[test]
    fn a_plain_request_passes_unchanged() {
        let body = format!(r#" {{"model":"m", {ONE}, "x": 1.0e2 }}"#);
        assert_eq!(rewritten(&body, None), body);
    }

    #[test]
    fn a_stream_asks_for_its_usage() {
        let body = format!(r#" {{"model":"m","stream":true,{ONE}}}"#);
        let expected = format!(r#" {{"stream_options":{{"include_usage":true}},"model":"m","stream":true,{ONE}}}"#);
        assert_eq!(rewritten(&body, None), expected);
        let body = format!(r#"{{"model":"m","stream":true,"stream_options":{{"include_usage": false}},{ONE}}}"#);
        assert_eq!(rewritten(&body, None), body.replace(r#"{"include_usage": false}"#, r#"{"include_usage":true}"#));
        let body = format!(r#"{{"model":"m","stream":true,"stream_options":{{"include_usage":true}},{ONE}}}"#);
        assert_eq!(rewritten(&body, None), body);
    }

    #[test]
    fn the_newer_name_of_max_tokens_reaches_the_node_and_a_cap_only_where_there_is_none() {
        let body = format!(r#"{{"model":"m","max_completion_tokens":7,{ONE}}}"#);
        assert!(rewritten(&body, Some(5)).starts_with(r#"{"max_tokens":7,"#));
        let body = format!(r#"{{"model":"m","max_tokens":9,{ONE}}}"#);
        assert_eq!(rewritten(&body, Some(5)), body);
        let body = format!(r#"{{"model":"m","max_tokens":null,{ONE}}}"#);
        assert!(rewritten(&body, Some(5)).contains(r#""max_tokens":5"#));
        let body = format!(r#"{{"model":"m","max_tokens":9,"max_completion_tokens":7,{ONE}}}"#);
        assert!(rewritten(&body, None).contains(r#""max_tokens":7"#));
    }

    #[test]
    fn bad_bodies_name_the_field() {
        for (body, param) in [
            (format!(r#"{{{ONE}}}"#), "model"),
            (format!(r#"{{"model":7,{ONE}}}"#), "model"),
            (format!(r#"{{"model":"",{ONE}}}"#), "model"),
            (format!(r#"{{"model":"a\nb",{ONE}}}"#), "model"),
            (r#"{"model":"m"}"#.to_owned(), "messages"),
            (r#"{"model":"m","messages":null}"#.to_owned(), "messages"),
            (r#"{"model":"m","messages":"string"}"#.to_owned(), "messages"),
            (r#"{"model":"m","messages":[]}"#.to_owned(), "messages"),
            (r#"{"model":"m","messages":[123]}"#.to_owned(), "messages"),
            (r#"{"model":"m","messages":[{}]}"#.to_owned(), "messages"),
            (r#"{"model":"m","messages":[{"role":"user","content":5}]}"#.to_owned(), "messages"),
            (format!(r#"{{"model":"m","stream":"yes",{ONE}}}"#), "stream"),
            (format!(r#"{{"model":"m","stream_options":true,{ONE}}}"#), "stream_options"),
            (format!(r#"{{"model":"m","max_tokens":0,{ONE}}}"#), "max_tokens"),
            (format!(r#"{{"model":"m","max_tokens":-1,{ONE}}}"#), "max_tokens"),
            (format!(r#"{{"model":"m","max_tokens":"9",{ONE}}}"#), "max_tokens"),
            (format!(r#"{{"model":"m","_Debug_Render_Only":true,{ONE}}}"#), REFUSED),
        ] {
            assert_eq!(chat(&body).unwrap_err().param, Some(param), "{body}");
        }
        for body in ["", "{", "[]", "\"x\"", "null", "{\"model\":\"m\"} x"] {
            assert_eq!(chat(body).unwrap_err().param, None, "{body}");
        }
    }

    #[test]
    fn another_spelling_of_a_field_that_is_read_is_refused() {
        for twin in
            [r#""Stream":true"#, r#""\u017ftream":true"#, r#""MODEL":"n""#, r#""max_to\u212aens":9"#, r#""model":"n""#]
        {
            let body = format!(r#"{{"model":"m",{twin},{ONE}}}"#);
            assert!(chat(&body).is_err(), "{body}");
        }
    }

    #[test]
    fn images_are_bounded_by_number_and_only_data_urls_pass() {
        let image = |url: &str| {
            format!(
                r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"{url}"}}}}]}}]}}"#
            )
        };
        let small = chat(&image("data:image/png;base64,AA")).unwrap().prompt_bound;
        let large = chat(&image(&format!("data:image/png;base64,{}", "A".repeat(100_000)))).unwrap().prompt_bound;
        assert_eq!(small, large);
        assert!(small > 4096);
        assert!(chat(&image("https://example.org/x.png")).is_err());
    }

    #[test]
    fn embeddings_take_a_string_or_a_list() {
        let parse = |body: &str| InferenceRequest::parse(Endpoint::Embeddings, body.as_bytes());
        assert!(parse(r#"{"model":"m","input":"a"}"#).is_ok());
        assert!(parse(r#"{"model":"m","input":["a","b"]}"#).is_ok());
        assert!(parse(r#"{"model":"m","input":7}"#).is_err());
        assert!(parse(r#"{"model":"m"}"#).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = InferenceRequest::parse(Endpoint::ChatCompletions, &bytes);
        }

        #[test]
        fn edits_leave_valid_json_with_every_other_member_as_it_was(
            stream: bool, usage: Option<bool>, max in proptest::option::of(1u64..9), newer in proptest::option::of(1u64..9),
            cap in proptest::option::of(1u64..9), blank in "[ \n\t]{0,3}", text in "\\PC{0,20}",
        ) {
            let mut members = vec![format!("\"model\":{blank}\"m\""), format!("\"stream\":{stream}")];
            members.extend(usage.map(|usage| format!("\"stream_options\":{blank}{{\"include_usage\":{usage}}}")));
            members.extend(max.map(|max| format!("\"max_tokens\":{max}{blank}")));
            members.extend(newer.map(|newer| format!("{blank}\"max_completion_tokens\":{newer}")));
            let text = serde_json::to_string(&text).unwrap();
            members.push(format!("\"messages\":[{{\"role\":\"user\",\"content\":{text}}}]"));
            let body = format!("{blank}{{{blank}{}{blank}}}", members.join(","));
            let before: serde_json::Value = serde_json::from_str(&body).unwrap();
            let mut after: serde_json::Value = serde_json::from_str(&rewritten(&body, cap)).unwrap();
            prop_assert_eq!(after["max_tokens"].as_u64(), newer.or(max).or(cap));
            if stream { prop_assert_eq!(&after["stream_options"]["include_usage"], true); }
            for key in ["max_tokens", "stream_options"] {
                match before.get(key) {
                    Some(value) => after[key] = value.clone(),
                    None => { after.as_object_mut().unwrap().remove(key); }
                }
            }
            prop_assert_eq!(before, after);
        }
    }
}
