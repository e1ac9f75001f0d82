//! What does a client ask for? Reads the few fields that the gateway needs, and edits the body without touching the
//! rest.
mod output_limit;
#[cfg(test)]
mod tests;

use std::hash::BuildHasher;
use std::ops::Range;

use bytes::Bytes;
use serde_json::value::RawValue;

use self::output_limit::{limit_of, output_of};
use super::endpoint::{Dialect, Endpoint};
use super::field::{BadRequest, bad, check_names, field, fold};
use super::json::{Object, Splices, span};
use super::prompt::{self, PromptPrefix, parts, prefixes};
use super::tally::{ClaimBounds, USUAL_BYTES_PER_TOKEN};
use super::{stripped, unsupported};

const MAX_MODEL_NAME: usize = 128;
/// More options than any node knows.
const MAX_OPTIONS: usize = 256;

/// Why a request in Ollama's own dialect has no prompt: clients begin and end a session that way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// The model is about to be used.
    Load,
    /// The client is done with it.
    Unload,
}

/// What the gateway needs to know about a request, and where its edits go.
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
    /// `max_tokens` as the client set it, under the dialect's own name.
    pub max_output: Option<u64>,
    /// Upper bound: no prompt of this size has more tokens.
    pub prompt_bound: u64,
    /// Set if there is no prompt, so no node is needed.
    pub idle: Option<Idle>,
    /// Where the parts of the prompt are in the body.
    parts: Vec<Range<usize>>,
    edits: Splices,
    cap: Cap,
    model_at: Spot,
    /// The model that the body names. A model named by the path takes precedence.
    model_said: Option<String>,
}

/// Where the gateway writes a limit on the answer, if it sets one.
#[derive(Debug)]
enum Cap {
    /// Nowhere, because the answer has no tokens.
    None,
    /// A member of the request.
    Member(&'static str, Spot),
    /// `num_predict` in the options of Ollama's own dialect, with the other options that are kept, as they came.
    Option(Spot, Vec<String>),
}

#[derive(Clone, Debug)]
enum Spot {
    Value(std::ops::Range<usize>),
    /// Directly after the opening brace.
    Front(usize),
}

impl Spot {
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
    /// [`BadRequest`] if no node could answer it.
    pub fn parse(endpoint: Endpoint, body: &[u8]) -> Result<Self, BadRequest> {
        Self::parse_for(endpoint, body, None)
    }

    /// Reads a body whose model may be named by the path instead.
    ///
    /// # Errors
    /// [`BadRequest`] if no node could answer it.
    pub fn parse_for(endpoint: Endpoint, body: &[u8], deployment: Option<&str>) -> Result<Self, BadRequest> {
        let object = Object::parse(body)
            .map_err(|error| BadRequest { message: format!("the body is not a JSON object: {error}"), param: None })?;
        check_names(endpoint, &object)?;
        let model_said: Option<String> = field(&object, "model", "a string")?;
        // Some clients send an empty string for every field that they leave out.
        let model_said = model_said.filter(|model| !model.is_empty());
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
            idle: prompt.is_empty.then(|| idle_of(&object)),
            parts: parts(endpoint, body, &object),
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
                stripped::check(endpoint, &object)?;
                request.edits.remove(body, 0, &object, stripped::is_field);
                request.read_options(body, &object)?;
            }
            Endpoint::Embeddings => {}
        }
        Ok(request)
    }

    /// The beginnings of the prompt, shortest first. `body` must be the one that was parsed.
    pub fn prefixes(&self, body: &[u8], seed: &impl BuildHasher) -> Vec<PromptPrefix> {
        prefixes(&self.parts, body, seed)
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
        let counts = [newer, max_tokens].into_iter().flatten().find(|limit| limit.tokens.is_some()).or(max_tokens);
        if let Some(limit) = counts
            && (max_tokens != Some(limit) || !limit.plain)
        {
            place.set(&mut self.edits, "max_tokens", &limit.to_string());
        }
        self.max_output = counts.and_then(|limit| limit.tokens);
        self.cap = Cap::Member("max_tokens", place);
        Ok(())
    }

    fn read_cap(&mut self, body: &[u8], object: &Object<'_>, key: &'static str) -> Result<(), BadRequest> {
        let limit = output_of(object, key)?;
        if self.endpoint == Endpoint::Messages {
            let limit = limit.ok_or_else(|| bad("max_tokens", "`max_tokens` is missing"))?;
            limit.tokens.ok_or_else(|| bad("max_tokens", "`max_tokens` must be a whole number of at least 1"))?;
        }
        let place = place(body, object, key);
        if let Some(limit) = limit.filter(|limit| !limit.plain) {
            place.set(&mut self.edits, key, &limit.to_string());
        }
        self.max_output = limit.and_then(|limit| limit.tokens);
        self.cap = Cap::Member(key, place);
        Ok(())
    }

    /// Reads `options`, and removes those that would reload the model.
    fn read_options(&mut self, body: &[u8], object: &Object<'_>) -> Result<(), BadRequest> {
        let place = place(body, object, "options");
        let Some(raw) = object.present("options") else {
            self.cap = Cap::Option(place, Vec::new());
            return Ok(());
        };
        let options = Object::parse(raw.get().as_bytes()).map_err(|_| bad("options", "`options` must be an object"))?;
        if options.keys().count() > MAX_OPTIONS {
            return Err(bad("options", format!("at most {MAX_OPTIONS} options are accepted")));
        }
        stripped::check_options(&options)?;
        if options.keys().filter(|name| *name == "num_predict").count() > 1 {
            return Err(bad("options", "`num_predict` is given twice"));
        }
        let limit = options.present("num_predict");
        if let Some(limit) = limit {
            self.max_output = limit_of(limit).ok_or_else(|| bad("options", "`num_predict` must be a number"))?;
        }
        let stays = |name: &str| !stripped::is_option(name);
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

    /// Estimated tokens of the prompt.
    pub fn prompt_estimate(&self) -> u64 {
        self.prompt_bound / USUAL_BYTES_PER_TOKEN
    }

    /// How many tokens a node may claim for the request.
    pub fn claim_bounds(&self) -> ClaimBounds {
        ClaimBounds {
            prompt_bound: self.prompt_bound,
            prompt_estimate: self.prompt_estimate(),
            max_output: self.max_output,
            embeds: self.endpoint.embeds(),
        }
    }

    /// Sets the model to ask the node for, which may differ from the one in the body.
    pub fn ask_for(&mut self, model: &str) {
        if self.model_said.as_deref() != Some(model) {
            self.model_at.set(&mut self.edits, "model", &quoted(model));
        }
    }

    /// The body for the node, with `output_cap` if the client set no limit.
    pub fn rewrite(&mut self, body: Bytes, output_cap: Option<u64>) -> Bytes {
        let mut edits = std::mem::take(&mut self.edits);
        if let (Some(cap), None) = (output_cap, self.max_output) {
            match &mut self.cap {
                Cap::None => {}
                Cap::Member(key, place) => {
                    // It replaces a `-1` of the client's, so an edit of that value is dropped.
                    if let Spot::Value(span) = place {
                        edits.forget(span);
                    }
                    place.set(&mut edits, key, &cap.to_string());
                }
                Cap::Option(place, kept) => {
                    kept.push(format!("\"num_predict\":{cap}"));
                    // It replaces the edit of `options` without the cap, if there is one; of two `options` the last
                    // would count.
                    if let Spot::Value(span) = place {
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

/// Whether the client asks for the usage chunk. Only one spelling is accepted, as for every field that is read.
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

/// Where a member's value is, or where the member can be inserted.
fn place(body: &[u8], object: &Object<'_>, key: &str) -> Spot {
    let front = 1 + body.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    object.get(key).map_or(Spot::Front(front), |value| Spot::Value(span(body, value)))
}

fn quoted(name: &str) -> String {
    serde_json::Value::from(name).to_string()
}

/// A `keep_alive` of zero, as a number or a duration, asks for the model to be unloaded.
fn idle_of(object: &Object<'_>) -> Idle {
    let zero = |value: &RawValue| {
        let digits = value.get().trim_matches('"').trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        digits.parse::<f64>() == Ok(0.0)
    };
    if object.present("keep_alive").is_some_and(zero) { Idle::Unload } else { Idle::Load }
}

fn checked_model(model: String) -> Result<String, BadRequest> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-@+".contains(&byte);
    if model.is_empty() || model.len() > MAX_MODEL_NAME || !model.bytes().all(allowed) {
        let message = format!("`model` must be 1 to {MAX_MODEL_NAME} of the characters A-Z a-z 0-9 . _ : / - @ +");
        return Err(bad("model", message));
    }
    Ok(model)
}
