//! How large is a prompt, and is it one? Checked and measured in each dialect, without looking at what it says.
//!
//! Every token stands for at least a byte of text, and JSON only makes text longer: the length of the raw members is an
//! upper bound. Images are counted by number, whatever their size; sound by its size, far below a token a byte.
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::endpoint::Endpoint;
use super::field::{BadRequest, bad, field};
use super::json::Object;

/// Tokens that one image takes at most.
const IMAGE_TOKENS: usize = 4096;
/// Bytes of base64 that a token of sound stands for, at least: the tightest speech codecs beside the finest models.
const SOUND_BYTES_PER_TOKEN: usize = 32;
/// Tokens that a chat template adds around the messages, at most, beyond the JSON that surrounded them.
const TEMPLATE_TOKENS: usize = 32;
const MAX_IMAGES: usize = 128;
const NOT_DATA: &str = "images must be given as base64 data URLs (`data:image/png;base64,…`); the gateway fetches none";

/// A prompt's measure.
pub(crate) struct Prompt {
    /// No prompt of this size takes more tokens.
    pub(crate) bound: u64,
    /// There is none, which in Ollama's own dialect means something.
    pub(crate) is_empty: bool,
    /// The same for every turn of a conversation.
    pub(crate) session: Option<u64>,
}

/// What is no text, though it is written as text.
#[derive(Default)]
struct Media {
    images: usize,
    /// Of base64.
    bytes: usize,
    tokens: usize,
}

impl Media {
    fn add_image(&mut self, raw: &RawValue) {
        self.images += 1;
        self.bytes += raw.get().len();
        self.tokens += IMAGE_TOKENS;
    }

    fn add_sound(&mut self, raw: &RawValue) {
        self.bytes += raw.get().len();
        self.tokens += raw.get().len().div_ceil(SOUND_BYTES_PER_TOKEN);
    }
}

/// Checks the prompt of a request and measures it.
pub(crate) fn measure(endpoint: Endpoint, object: &Object<'_>) -> Result<Prompt, BadRequest> {
    let mut media = Media::default();
    let mut is_empty = false;
    let mut session = None;
    let text = match endpoint {
        Endpoint::ChatCompletions | Endpoint::Messages => {
            session = messages(object, &mut media)?;
            &["messages", "system", "tools", "response_format"][..]
        }
        Endpoint::Chat => {
            is_empty = field::<Vec<&RawValue>>(object, "messages", "a list of messages, each an object")?
                .is_none_or(|messages| messages.is_empty());
            if !is_empty {
                session = messages(object, &mut media)?;
            }
            &["messages", "tools", "format"]
        }
        Endpoint::Completions => {
            field::<String>(object, "prompt", "a string")?.ok_or_else(|| bad("prompt", "`prompt` is missing"))?;
            &["prompt", "suffix"]
        }
        Endpoint::Generate => {
            is_empty = field::<String>(object, "prompt", "a string")?.is_none_or(|prompt| prompt.is_empty());
            if let Some(list) = field::<Vec<&RawValue>>(object, "images", "a list")? {
                list.into_iter().for_each(|image| media.add_image(image));
            }
            &["prompt", "suffix", "system", "format", "images"]
        }
        Endpoint::EmbedOne => {
            field::<String>(object, "prompt", "a string")?.ok_or_else(|| bad("prompt", "`prompt` is missing"))?;
            &["prompt"]
        }
        Endpoint::Embeddings | Endpoint::Embed => {
            let input = input(object, "`input` must be a string or a list of strings")?;
            if endpoint == Endpoint::Embeddings && input.get()[1..].trim_start() == "]" {
                return Err(bad("input", "`input` must hold at least one text"));
            }
            &["input"]
        }
        Endpoint::Responses => {
            let input = input(object, "`input` must be a string or a list of items")?;
            if input.get().starts_with('[') {
                items(input, &mut media)?;
            }
            &["input", "instructions", "tools", "text"]
        }
    };
    if media.images > MAX_IMAGES {
        let param = match endpoint {
            Endpoint::Generate => "images",
            Endpoint::Responses => "input",
            _ => "messages",
        };
        return Err(bad(param, format!("at most {MAX_IMAGES} images are taken in a request")));
    }
    let bytes: usize = text.iter().filter_map(|key| object.present(key)).map(|value| value.get().len()).sum();
    let bound = bytes - media.bytes.min(bytes) + media.tokens + TEMPLATE_TOKENS;
    Ok(Prompt { bound: bound as u64, is_empty, session })
}

fn input<'a>(object: &Object<'a>, expected: &str) -> Result<&'a RawValue, BadRequest> {
    let input = object.present("input").ok_or_else(|| bad("input", "`input` is missing"))?;
    match input.get().as_bytes().first() {
        Some(b'"' | b'[') => Ok(input),
        _ => Err(bad("input", expected)),
    }
}

/// A message of any dialect. Ollama's own carries its images beside the content.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    images: Option<Vec<&'a RawValue>>,
}

/// A part of a content: OpenAI's chat (`image_url`, `input_audio`), its responses (`image_url` as a string), Anthropic's
/// (`source`).
#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    image_url: Option<&'a RawValue>,
    #[serde(borrow)]
    input_audio: Option<Source<'a>>,
    #[serde(borrow)]
    source: Option<Source<'a>>,
}

#[derive(Deserialize)]
struct Source<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// Checks the messages. What they begin with, up to the first of the user, stays the same through a conversation: its
/// digest stands for it.
fn messages(object: &Object<'_>, media: &mut Media) -> Result<Option<u64>, BadRequest> {
    let messages: Vec<Message> = field(object, "messages", "a list of messages, each an object")?
        .ok_or_else(|| bad("messages", "`messages` is missing"))?;
    if messages.is_empty() {
        return Err(bad("messages", "`messages` must hold at least one message"));
    }
    let mut beginning = DefaultHasher::new();
    let mut session = None;
    for message in messages {
        if session.is_none() {
            message.content.map_or("", RawValue::get).hash(&mut beginning);
            let is_user = message.role.is_some_and(|role| role.get() == "\"user\"");
            session = is_user.then(|| beginning.finish());
        }
        if !message.role.is_some_and(|role| role.get().starts_with('"')) {
            return Err(bad("messages", "every message must have a `role`"));
        }
        message.images.into_iter().flatten().for_each(|image| media.add_image(image));
        content("messages", message.content, media)?;
    }
    Ok(session)
}

fn items(input: &RawValue, media: &mut Media) -> Result<(), BadRequest> {
    // Items that are no messages (calls, their outputs, reasoning) have no content.
    #[derive(Deserialize)]
    struct Item<'a> {
        #[serde(borrow)]
        content: Option<&'a RawValue>,
    }
    let items: Vec<Item> = serde_json::from_str(input.get())
        .map_err(|_| bad("input", "a list as `input` must hold items, each an object"))?;
    items.into_iter().try_for_each(|item| content("input", item.content, media))
}

fn content(param: &'static str, content: Option<&RawValue>, media: &mut Media) -> Result<(), BadRequest> {
    let content = content.map_or("null", RawValue::get);
    match content.as_bytes().first() {
        Some(b'"' | b'n') => Ok(()),
        Some(b'[') => parts(param, content, media),
        _ => Err(bad(param, "the `content` of a message must be a string or a list of parts")),
    }
}

fn parts(param: &'static str, content: &str, media: &mut Media) -> Result<(), BadRequest> {
    let parts: Vec<Part> =
        serde_json::from_str(content).map_err(|_| bad(param, "a list as `content` must hold parts, each an object"))?;
    for part in parts {
        // Items of the newer API may do without.
        let has_kind = part.kind.map_or(param == "input", |kind| kind.get().starts_with('"'));
        if !has_kind {
            return Err(bad(param, "every part of a `content` must have a `type`"));
        }
        if let Some(image) = part.image_url {
            let is_data = is_data_url(image);
            if !is_data.ok_or_else(|| bad(param, "`image_url` must be an object with a `url`"))? {
                return Err(bad(param, NOT_DATA));
            }
            media.add_image(image);
        }
        if let Some(Source { data: Some(data) }) = part.input_audio {
            media.add_sound(data);
        }
        match part.source {
            Some(Source { data: Some(data) }) => media.add_image(data),
            Some(Source { data: None }) => {
                return Err(bad(param, "images must be given as base64; the gateway fetches none"));
            }
            None => {}
        }
    }
    Ok(())
}

/// Whether the image is a data URL; `None` where it has no URL at all.
fn is_data_url(image: &RawValue) -> Option<bool> {
    #[derive(Deserialize)]
    struct Wrapped<'a> {
        #[serde(borrow)]
        url: &'a RawValue,
    }
    let raw = image.get();
    let url = if raw.starts_with('{') { serde_json::from_str::<Wrapped>(raw).ok()?.url.get() } else { raw };
    url.starts_with('"').then(|| url.starts_with("\"data:"))
}
