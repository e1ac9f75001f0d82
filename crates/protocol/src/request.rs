//! What does a client ask for? Reads the few fields that the gateway needs, and splices its edits into the rest.
use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::endpoint::{Dialect, Endpoint};
use super::json::{Object, Splices, span};
use super::{prompt, unsupported};

const MAX_MODEL_NAME: usize = 128;
/// Shows the rendered template with the operator's system prompt.
const REFUSED: &str = "_debug_render_only";
/// Fields of Ollama's own dialect that one user could use to reload, pin, unload or rewrite a model for everybody.
const STRIPPED: [&str; 3] = ["keep_alive", "shift", "template"];
/// Options that reload a model when they differ from those it runs with.
const STRIPPED_OPTIONS: [&str; 7] =
    ["num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict"];

/// Why a request is refused before it costs anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadRequest {
    /// For people.
    pub message: String,
    /// The field that is wrong, if it is one.
    pub param: Option<&'static str>,
}

pub(crate) fn bad(param: &'static str, message: impl Into<String>) -> BadRequest {
    BadRequest { message: message.into(), param: Some(param) }
}

/// A request of Ollama's own dialect without a prompt, with which its clients begin and end a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// The model is about to be used.
    Load,
    /// The client is done with it.
    Unload,
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
    /// Whether the client of an OpenAI stream asked for the usage chunk.
    pub include_usage: bool,
    /// How many tokens the answer may have, as the client says.
    pub max_output: Option<u64>,
    /// No prompt of this size takes more tokens.
    pub prompt_bound: u64,
    /// The same for every turn of a conversation, whose beginning a node may have in its cache.
    pub session: Option<u64>,
    /// There is no prompt: no node is needed.
    pub idle: Option<Idle>,
    edits: Splices,
    cap: Cap,
    model_at: Place,
    /// The model of the body, which counts for less than one that the path names.
    model_said: Option<String>,
}

/// Where a limit on the answer goes, if the gateway sets one.
#[derive(Debug)]
enum Cap {
    /// Nowhere: the answer has no tokens.
    None,
    /// A member of the request.
    Member(&'static str, Place),
    /// `num_predict` among the options of Ollama's own dialect: the others that are kept, as they came.
    Option(Place, Vec<String>),
}

#[derive(Clone, Debug)]
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
        Self::parse_for(endpoint, body, None)
    }

    /// Reads a body whose model the path may name instead.
    ///
    /// # Errors
    /// [`BadRequest`] where it is not a request that a node could answer.
    pub fn parse_for(endpoint: Endpoint, body: &[u8], deployment: Option<&str>) -> Result<Self, BadRequest> {
        let object = Object::parse(body)
            .map_err(|error| BadRequest { message: format!("the body is not a JSON object: {error}"), param: None })?;
        check_names(endpoint, &object)?;
        let model_said: Option<String> = field(&object, "model", "a string")?;
        let model = deployment.map(str::to_owned).or_else(|| model_said.clone());
        let model = checked_model(model.ok_or_else(|| bad("model", "`model` is missing"))?)?;
        let native = endpoint.dialect() == Dialect::Ollama;
        let stream = match field::<bool>(&object, "stream", "true or false")? {
            _ if endpoint.embeds() => false,
            Some(stream) => stream,
            None => native,
        };
        unsupported::check(endpoint, &object)?;
        let prompt = prompt::measure(endpoint, &object)?;
        let mut request = Self {
            endpoint,
            model,
            stream,
            include_usage: false,
            max_output: None,
            prompt_bound: prompt.bound,
            session: prompt.session,
            idle: prompt.is_empty.then(|| idle_of(&object)),
            edits: Splices::default(),
            cap: Cap::None,
            model_at: place(body, &object, "model"),
            model_said,
        };
        match endpoint {
            Endpoint::ChatCompletions | Endpoint::Completions => request.read_openai(body, &object)?,
            Endpoint::Responses => request.read_cap(body, &object, "max_output_tokens")?,
            Endpoint::Messages => request.read_cap(body, &object, "max_tokens")?,
            Endpoint::Chat | Endpoint::Generate | Endpoint::Embed | Endpoint::EmbedOne => {
                request.edits.remove(body, 0, &object, |name| STRIPPED.contains(&fold(name).as_ref()));
                request.read_options(body, &object)?;
            }
            Endpoint::Embeddings => {}
        }
        Ok(request)
    }

    fn read_openai(&mut self, body: &[u8], object: &Object<'_>) -> Result<(), BadRequest> {
        let max_tokens = output_of(object, "max_tokens")?;
        let newer = output_of(object, "max_completion_tokens")?;
        self.include_usage = include_usage(object)?;
        if self.stream && !self.include_usage {
            let place = place(body, object, "stream_options");
            place.set(&mut self.edits, "stream_options", r#"{"include_usage":true}"#);
        }
        let place = place(body, object, "max_tokens");
        let counts = newer.or(max_tokens);
        if let Some(limit) = counts
            && (max_tokens != Some(limit) || !limit.plain)
        {
            place.set(&mut self.edits, "max_tokens", &limit.tokens.to_string());
        }
        self.max_output = counts.map(|limit| limit.tokens);
        self.cap = Cap::Member("max_tokens", place);
        Ok(())
    }

    fn read_cap(&mut self, body: &[u8], object: &Object<'_>, key: &'static str) -> Result<(), BadRequest> {
        let limit = output_of(object, key)?;
        if self.endpoint == Endpoint::Messages && limit.is_none() {
            return Err(bad("max_tokens", "`max_tokens` is missing"));
        }
        let place = place(body, object, key);
        if let Some(Limit { tokens, plain: false }) = limit {
            place.set(&mut self.edits, key, &tokens.to_string());
        }
        self.max_output = limit.map(|limit| limit.tokens);
        self.cap = Cap::Member(key, place);
        Ok(())
    }

    /// Reads `options`, and takes out of them what would reload the model.
    fn read_options(&mut self, body: &[u8], object: &Object<'_>) -> Result<(), BadRequest> {
        let place = place(body, object, "options");
        let Some(raw) = object.present("options") else {
            self.cap = Cap::Option(place, Vec::new());
            return Ok(());
        };
        let options = Object::parse(raw.get().as_bytes()).map_err(|_| bad("options", "`options` must be an object"))?;
        if options.keys().filter(|name| *name == "num_predict").count() > 1 {
            return Err(bad("options", "`num_predict` is given twice"));
        }
        let limit = options.present("num_predict");
        if let Some(limit) = limit {
            self.max_output = limit_of(limit).ok_or_else(|| bad("options", "`num_predict` must be a number"))?;
        }
        let stays = |name: &str| !STRIPPED_OPTIONS.contains(&fold(name).as_ref());
        let kept = options.members().filter(|(name, _)| stays(name) && *name != "num_predict");
        let kept: Vec<String> = kept.map(|(name, value)| format!("{}:{value}", quoted(name))).collect();
        if !options.keys().all(stays) {
            let limit = limit.map(|limit| format!("\"num_predict\":{limit}"));
            let with_limit: Vec<String> = kept.iter().cloned().chain(limit).collect();
            place.set(&mut self.edits, "options", &format!("{{{}}}", with_limit.join(",")));
        }
        self.cap = Cap::Option(place, kept);
        Ok(())
    }

    /// The model to ask the node for, which the body need not name yet.
    pub fn ask_for(&mut self, model: &str) {
        if self.model_said.as_deref() != Some(model) {
            self.model_at.set(&mut self.edits, "model", &quoted(model));
        }
    }

    /// The body for the node, with `output_cap` where the client named no limit.
    pub fn rewrite(&mut self, body: Bytes, output_cap: Option<u64>) -> Bytes {
        let mut edits = std::mem::take(&mut self.edits);
        if let (Some(cap), None) = (output_cap, self.max_output) {
            match &mut self.cap {
                Cap::None => {}
                Cap::Member(key, place) => place.set(&mut edits, key, &cap.to_string()),
                Cap::Option(place, kept) => {
                    kept.push(format!("\"num_predict\":{cap}"));
                    // In the place of the same edit without the cap, where there is one: the last of two counts.
                    if let Place::Value(span) = place {
                        edits.forget(span);
                    }
                    place.set(&mut edits, "options", &format!("{{{}}}", kept.join(",")));
                }
            }
        }
        if edits.is_empty() {
            return body;
        }
        let mut edited = Vec::with_capacity(body.len() + 64);
        edits.apply(&body, &mut edited);
        edited.into()
    }
}

/// Whether the client asks for the usage chunk; in one spelling, as for every field that is read.
fn include_usage(object: &Object<'_>) -> Result<bool, BadRequest> {
    let Some(raw) = object.present("stream_options") else { return Ok(false) };
    let wrong = || bad("stream_options", "`stream_options` must be an object with one `include_usage`, true or false");
    let options = Object::parse(raw.get().as_bytes()).map_err(|_| wrong())?;
    let mut spellings = options.keys().filter(|name| fold(name) == "include_usage");
    match (spellings.next(), spellings.next()) {
        (None, _) => Ok(false),
        (Some("include_usage"), None) => {
            let asked = field::<bool>(&options, "include_usage", "true or false").map_err(|_| wrong())?;
            Ok(asked.unwrap_or(false))
        }
        _ => Err(wrong()),
    }
}

/// Where a member's value stands, or else where the member can be put.
fn place(body: &[u8], object: &Object<'_>, key: &str) -> Place {
    let front = 1 + body.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    object.get(key).map_or(Place::Front(front), |value| Place::Value(span(body, value)))
}

/// A member, read as `T`; `None` where it is absent or null.
pub(crate) fn field<'a, T: Deserialize<'a>>(
    object: &Object<'a>,
    key: &'static str,
    expected: &str,
) -> Result<Option<T>, BadRequest> {
    object
        .present(key)
        .map(|value| serde_json::from_str(value.get()).map_err(|_| bad(key, format!("`{key}` must be {expected}"))))
        .transpose()
}

/// Every field that the gateway reads. Ollama matches names without regard to case and takes the last of several, so
/// that a second spelling of one of these would mean one thing here and another there.
fn read(endpoint: Endpoint) -> &'static [&'static str] {
    match endpoint {
        Endpoint::ChatCompletions => &[
            "model",
            "stream",
            "stream_options",
            "max_tokens",
            "max_completion_tokens",
            "messages",
            "tools",
            "response_format",
        ],
        Endpoint::Completions => {
            &["model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "prompt", "suffix"]
        }
        Endpoint::Embeddings => &["model", "input"],
        Endpoint::Responses => &["model", "stream", "max_output_tokens", "input", "instructions", "tools", "text"],
        Endpoint::Messages => &["model", "stream", "max_tokens", "messages", "system", "tools"],
        Endpoint::Chat => &["model", "stream", "messages", "tools", "format", "options", "keep_alive"],
        Endpoint::Generate => {
            &["model", "stream", "prompt", "system", "suffix", "images", "format", "options", "keep_alive"]
        }
        Endpoint::Embed => &["model", "input", "options"],
        Endpoint::EmbedOne => &["model", "prompt", "options"],
    }
}

fn check_names(endpoint: Endpoint, object: &Object<'_>) -> Result<(), BadRequest> {
    let names = read(endpoint);
    let mut seen = 0u32;
    for key in object.keys() {
        let folded = fold(key);
        if folded == REFUSED {
            return Err(bad(REFUSED, format!("`{REFUSED}` is not available through this service")));
        }
        let Some(index) = names.iter().position(|name| *name == folded) else {
            continue;
        };
        if key != names[index] {
            return Err(bad(names[index], format!("write `{}` in lower case", names[index])));
        }
        if seen & (1 << index) != 0 {
            return Err(bad(names[index], format!("`{}` is given twice", names[index])));
        }
        seen |= 1 << index;
    }
    Ok(())
}

/// A name as Go's JSON decoder compares it: without regard to case, with its two letters from outside ASCII.
fn fold(key: &str) -> Cow<'_, str> {
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

fn quoted(name: &str) -> String {
    serde_json::Value::from(name).to_string()
}

fn checked_model(model: String) -> Result<String, BadRequest> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-@+".contains(&byte);
    if model.is_empty() || model.len() > MAX_MODEL_NAME || !model.bytes().all(allowed) {
        let message = format!("`model` must be 1 to {MAX_MODEL_NAME} of the characters A-Z a-z 0-9 . _ : / - @ +");
        return Err(bad("model", message));
    }
    Ok(model)
}

/// A limit on the answer, and how a node can read it where it is written otherwise: `5.0` is a whole number, which no
/// node takes, and nodes' integers end somewhere.
fn output_of(object: &Object<'_>, key: &'static str) -> Result<Option<Limit>, BadRequest> {
    let Some(raw) = object.present(key) else { return Ok(None) };
    let wrong = || bad(key, format!("`{key}` must be a whole number of at least 1"));
    let limit: f64 = serde_json::from_str(raw.get()).map_err(|_| wrong())?;
    if limit < 1.0 || limit.fract() != 0.0 {
        return Err(wrong());
    }
    let tokens = limit.min(f64::from(i32::MAX)) as u64;
    Ok(Some(Limit { tokens, plain: raw.get() == tokens.to_string() }))
}

/// A limit on the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    tokens: u64,
    /// It is written as nodes read it.
    plain: bool,
}

/// `num_predict` as a node reads it: cut to a whole number; without end where it is not above zero. `None` where it is no
/// number at all.
fn limit_of(limit: &RawValue) -> Option<Option<u64>> {
    let limit: f64 = serde_json::from_str(limit.get()).ok()?;
    let whole = limit.trunc().min(f64::from(i32::MAX));
    Some((whole >= 1.0).then_some(whole as u64))
}

/// `keep_alive` of zero, as a number or a duration, asks for the model to be unloaded.
fn idle_of(object: &Object<'_>) -> Idle {
    let zero = |value: &RawValue| {
        let digits = value.get().trim_matches('"').trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        digits.parse::<f64>() == Ok(0.0)
    };
    if object.present("keep_alive").is_some_and(zero) { Idle::Unload } else { Idle::Load }
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
    fn a_limit_may_be_written_in_any_way_that_is_a_whole_number() {
        for (written, sent) in [("7.0", "7"), ("1e2", "100"), ("99999999999", "2147483647"), ("7", "7")] {
            let body = format!(r#"{{"model":"m","max_tokens": {written},{ONE}}}"#);
            assert_eq!(rewritten(&body, Some(5)), body.replace(written, sent));
            let body = format!(r#"{{"model":"m","max_completion_tokens": {written},{ONE}}}"#);
            assert!(rewritten(&body, None).starts_with(&format!(r#"{{"max_tokens":{sent},"#)), "{written}");
            let body = format!(r#"{{"model":"m","max_output_tokens": {written},"input":"hi"}}"#);
            assert_eq!(native(Endpoint::Responses, &body, None).1["max_output_tokens"].to_string(), sent);
        }
        for wrong in ["0.5", "7.5", "0.0", "-1.0", "1e999"] {
            assert!(chat(&format!(r#"{{"model":"m","max_tokens":{wrong},{ONE}}}"#)).is_err(), "{wrong}");
        }
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
    fn another_spelling_within_a_field_is_refused_too() {
        for options in [
            r#"{"include_usage":true,"Include_Usage":false}"#,
            r#"{"include_usage":true,"include_usage":false}"#,
            r#"{"INCLUDE_USAGE":true}"#,
            r#"{"include_usage":1}"#,
        ] {
            let body = format!(r#"{{"model":"m","stream":true,"stream_options":{options},{ONE}}}"#);
            assert_eq!(chat(&body).unwrap_err().param, Some("stream_options"), "{body}");
        }
        let body = r#"{"model":"m","prompt":"x","options":{"num_predict":1,"num_predict":9}}"#;
        assert_eq!(InferenceRequest::parse(Endpoint::Generate, body.as_bytes()).unwrap_err().param, Some("options"));
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

    fn native(endpoint: Endpoint, body: &str, cap: Option<u64>) -> (InferenceRequest, serde_json::Value) {
        let mut request = InferenceRequest::parse(endpoint, body.as_bytes()).unwrap();
        let body = request.rewrite(Bytes::from(body.to_owned()), cap);
        (request, serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn what_would_reload_a_model_for_everybody_is_taken_out() {
        let body = r#"{"model":"m","keep_alive":0,"Template":"5m","shift":false,"template":"x","options":{"num_ctx":8192,"temperature": 0.5,"num_gpu":1},"messages":[{"role":"user","content":"hi"}]}"#;
        let (request, sent) = native(Endpoint::Chat, body, None);
        assert_eq!(
            sent,
            serde_json::json!({"model":"m","options":{"temperature":0.5},"messages":[{"role":"user","content":"hi"}]})
        );
        assert!(request.stream && request.idle.is_none());
        let (_, sent) = native(Endpoint::Chat, body, Some(7));
        assert_eq!(sent["options"], serde_json::json!({"temperature":0.5,"num_predict":7}));
    }

    #[test]
    fn the_cap_of_the_native_dialect_stands_among_the_options() {
        let one = r#""messages":[{"role":"user","content":"hi"}]"#;
        for (options, cap) in [
            ("", 7),
            (r#""options":{},"#, 7),
            (r#""options":{"num_ctx":1},"#, 7),
            (r#""options":null,"#, 7),
            (r#""options":{"num_predict":-1},"#, 7),
            (r#""options":{"num_predict":-2,"num_ctx":1},"#, 7),
            (r#""options":{"num_predict":0.5},"#, 7),
            (r#""options":{"num_predict":5,"num_ctx":1},"#, 5),
        ] {
            let (_, sent) = native(Endpoint::Chat, &format!("{{\"model\":\"m\",{options}{one}}}"), Some(7));
            assert_eq!(sent["options"], serde_json::json!({"num_predict": cap}), "{options}");
        }
    }

    #[test]
    fn a_limit_of_the_native_dialect_is_any_number_and_stays_as_it_came() {
        let one = r#""messages":[{"role":"user","content":"hi"}]"#;
        for (limit, means) in [
            ("5.0", Some(5)),
            ("5.7", Some(5)),
            ("1e2", Some(100)),
            ("-2", None),
            ("0", None),
            ("1e30", Some(i32::MAX as u64)),
        ] {
            for other in ["", r#","num_ctx":1"#] {
                let body = format!("{{\"model\":\"m\",\"options\":{{\"num_predict\":{limit}{other}}},{one}}}");
                let mut request = InferenceRequest::parse(Endpoint::Chat, body.as_bytes()).unwrap();
                assert_eq!(request.max_output, means, "{limit}");
                let sent = request.rewrite(Bytes::from(body), None);
                assert!(String::from_utf8_lossy(&sent).contains(&format!("{{\"num_predict\":{limit}}}")), "{limit}");
            }
        }
        let body = format!("{{\"model\":\"m\",\"options\":{{\"num_predict\":\"5\"}},{one}}}");
        assert_eq!(InferenceRequest::parse(Endpoint::Chat, body.as_bytes()).unwrap_err().param, Some("options"));
    }

    #[test]
    fn a_model_that_the_path_names_counts_for_more_than_that_of_the_body() {
        let sent = |model: &str, ask_for: &str| {
            let body = format!("{{{model}{ONE}}}");
            let mut request =
                InferenceRequest::parse_for(Endpoint::ChatCompletions, body.as_bytes(), Some("d")).unwrap();
            assert_eq!(request.model, "d");
            request.ask_for(ask_for);
            String::from_utf8(request.rewrite(Bytes::from(body), None).to_vec()).unwrap()
        };
        assert_eq!(sent("", "d"), format!(r#"{{"model":"d",{ONE}}}"#));
        assert_eq!(sent("", "e"), format!(r#"{{"model":"e",{ONE}}}"#));
        assert_eq!(sent(r#""model": "m","#, "d"), format!(r#"{{"model": "d",{ONE}}}"#));
        assert_eq!(sent(r#""model":null,"#, "d"), format!(r#"{{"model":"d",{ONE}}}"#));
        assert_eq!(sent(r#""model": "d","#, "d"), format!(r#"{{"model": "d",{ONE}}}"#));
    }

    #[test]
    fn a_request_without_a_prompt_needs_no_node() {
        let idle = |endpoint, body| native(endpoint, body, None).0.idle;
        assert_eq!(idle(Endpoint::Generate, r#"{"model":"m"}"#), Some(Idle::Load));
        assert_eq!(idle(Endpoint::Generate, r#"{"model":"m","prompt":"","keep_alive":"0s"}"#), Some(Idle::Unload));
        assert_eq!(idle(Endpoint::Chat, r#"{"model":"m","messages":[],"keep_alive":0}"#), Some(Idle::Unload));
        assert_eq!(idle(Endpoint::Chat, r#"{"model":"m","keep_alive":-1}"#), Some(Idle::Load));
        assert_eq!(idle(Endpoint::Generate, r#"{"model":"m","prompt":"hi"}"#), None);
    }

    #[test]
    fn the_other_dialects_name_their_limit_in_their_own_way() {
        let responses = r#"{"model":"m","input":"hi"}"#;
        assert_eq!(native(Endpoint::Responses, responses, Some(7)).1["max_output_tokens"], 7);
        let messages = r#"{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"hi"}]}"#;
        let (request, sent) = native(Endpoint::Messages, messages, Some(7));
        assert_eq!((request.max_output, &sent["max_tokens"]), (Some(5), &serde_json::json!(5)));
        let without = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
        assert_eq!(
            InferenceRequest::parse(Endpoint::Messages, without.as_bytes()).unwrap_err().param,
            Some("max_tokens")
        );
    }
}
