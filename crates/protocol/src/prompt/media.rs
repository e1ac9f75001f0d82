//! What in a prompt is not text, and how many tokens does it take?
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::field::{BadRequest, bad, kind_of};
use crate::text::{Form, weight};

/// The most tokens that one image takes.
const IMAGE_TOKENS: usize = 4096;
/// The least bytes of base64 for a token of sound: the tightest speech codecs with the finest models.
const SOUND_BYTES_PER_TOKEN: usize = 32;
const NOT_DATA: &str =
    "images must be given as base64 data URLs (`data:image/png;base64,…`); the gateway does not fetch images";
const NO_FILES: &str =
    "`file_id` names a file that is stored elsewhere; this service stores no files, so send the content itself";

/// What is written as text but is not text, and text that is longer in the prompt than in the body.
#[derive(Debug, Default)]
pub(super) struct Media {
    pub(super) images: usize,
    /// The media's weight in the body.
    pub(super) weight: usize,
    /// The media's tokens in the prompt.
    pub(super) tokens: usize,
    /// How much heavier text is when a node writes it as JSON than it is in the body.
    pub(super) rendered: usize,
}

impl Media {
    fn add_image(&mut self, raw: &RawValue) {
        self.images += 1;
        self.weight += weight(raw.get(), Form::Text);
        self.tokens += IMAGE_TOKENS;
    }

    fn add_sound(&mut self, raw: &RawValue) {
        self.weight += weight(raw.get(), Form::Text);
        self.tokens += raw.get().len().div_ceil(SOUND_BYTES_PER_TOKEN);
    }

    /// Counts text that a node puts into the prompt as JSON.
    pub(super) fn add_rendered(&mut self, raw: &RawValue) {
        self.rendered += weight(raw.get(), Form::Json).saturating_sub(weight(raw.get(), Form::Text));
    }
}

/// A part of a content, with every member that may hold media: OpenAI's chat (`image_url`, `input_audio`, `file`), its
/// responses (`image_url` as a string, `file_data`), Anthropic's (`source`).
#[derive(Deserialize)]
pub(super) struct ContentPart<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Option<&'a RawValue>,
    /// What a tool returned, in Anthropic's dialect.
    #[serde(borrow)]
    pub(super) content: Option<&'a RawValue>,
    /// A tool call's input, in Anthropic's dialect.
    #[serde(borrow)]
    pub(super) input: Option<&'a RawValue>,
    #[serde(borrow)]
    image_url: Option<&'a RawValue>,
    #[serde(borrow)]
    input_audio: Option<MediaSource<'a>>,
    #[serde(borrow)]
    pub(super) source: Option<MediaSource<'a>>,
    #[serde(borrow)]
    file: Option<FileSource<'a>>,
    #[serde(borrow)]
    file_id: Option<&'a RawValue>,
    #[serde(borrow)]
    file_data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub(super) struct MediaSource<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    file_id: Option<&'a RawValue>,
    /// A document that itself consists of parts.
    #[serde(borrow)]
    pub(super) content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct FileSource<'a> {
    #[serde(borrow)]
    file_id: Option<&'a RawValue>,
    #[serde(borrow)]
    file_data: Option<&'a RawValue>,
}

/// An empty string counts as absent: some clients send one for every field that they leave out.
fn given(value: Option<&RawValue>) -> Option<&RawValue> {
    value.filter(|value| value.get() != "\"\"")
}

/// Checks a part's media and counts it.
pub(super) fn check(param: &'static str, part: &ContentPart<'_>, media: &mut Media) -> Result<(), BadRequest> {
    let nested = part.file.as_ref().and_then(|file| given(file.file_id));
    if given(part.file_id).or(nested).is_some() {
        return Err(bad(param, NO_FILES));
    }
    if let Some(image) = part.image_url {
        let is_image = part.kind.is_none_or(|kind| matches!(kind.get(), "\"image_url\"" | "\"input_image\""));
        match url_of(image) {
            // Some clients send every field in every part, empty where it does not apply.
            Some("\"\"") if !is_image => {}
            Some(url) if url.starts_with("\"data:") => media.add_image(image),
            Some(_) => return Err(bad(param, NOT_DATA)),
            None => return Err(bad(param, "`image_url` must be an object with a `url`")),
        }
    }
    let file = part.file.as_ref().and_then(|file| file.file_data);
    for data in [given(part.file_data), given(file)].into_iter().flatten() {
        media.add_image(data);
    }
    if let Some(MediaSource { data: Some(data), .. }) = part.input_audio {
        media.add_sound(data);
    }
    part.source.as_ref().map_or(Ok(()), |found| source(param, found, media))
}

/// Anthropic's member for media: base64, a text, or parts of its own.
fn source(param: &'static str, source: &MediaSource<'_>, media: &mut Media) -> Result<(), BadRequest> {
    let kind = source.kind.map_or("", RawValue::get);
    match source.data {
        _ if given(source.file_id).is_some() => return Err(bad(param, NO_FILES)),
        // A document in plain text.
        Some(_) if kind == "\"text\"" => {}
        Some(data) => media.add_image(data),
        None if source.content.is_some() => {}
        None => return Err(bad(param, "images must be given as base64; the gateway does not fetch images")),
    }
    Ok(())
}

/// Counts the images of Ollama's own dialect, which are beside the text.
pub(super) fn images(param: &'static str, list: Option<&RawValue>, media: &mut Media) -> Result<(), BadRequest> {
    let Some(list) = list.filter(|list| list.get() != "null") else { return Ok(()) };
    let images: Vec<&RawValue> = serde_json::from_str(list.get())
        .map_err(|_| bad(param, format!("`images` must be a list of images in base64, not {}", kind_of(list))))?;
    images.into_iter().for_each(|image| media.add_image(image));
    Ok(())
}

/// The URL of an image, including its quotes; `None` if it has none.
fn url_of(image: &RawValue) -> Option<&str> {
    #[derive(Deserialize)]
    struct Wrapped<'a> {
        #[serde(borrow)]
        url: &'a RawValue,
    }
    let raw = image.get();
    let url = if raw.starts_with('{') { serde_json::from_str::<Wrapped>(raw).ok()?.url.get() } else { raw };
    url.starts_with('"').then_some(url)
}
