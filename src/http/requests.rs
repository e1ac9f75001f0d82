//! What do requests to a node look like? For the OpenAPI document alone: bodies are never read into these, so that
//! fields the gateway does not know pass through.
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type};

/// A model's name: one of `GET /v1/models`. Without a tag it means `:latest`.
#[derive(Debug, ToSchema)]
#[schema(min_length = 1, max_length = 128, pattern = "^[A-Za-z0-9._:/@+-]+$", example = "llama3.2")]
#[expect(dead_code, reason = "only described, never made")]
pub struct ModelName(String);

/// A chat, as OpenAI's API takes it. Any other field of that API may be given.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "only described, never made")]
pub struct Chat {
    model: ModelName,
    /// At least one.
    #[schema(min_items = 1)]
    messages: Vec<ChatMessage>,
    /// Whether the answer is a stream of events.
    stream: Option<bool>,
    /// Most tokens of the answer.
    #[schema(schema_with = limit)]
    max_tokens: Option<u64>,
    /// The newer name of `max_tokens`; it counts where both are given.
    #[schema(schema_with = limit)]
    max_completion_tokens: Option<u64>,
    /// Choices of an answer: 1, as nodes give no more.
    #[schema(minimum = 1, maximum = 1)]
    n: Option<u32>,
}

/// A message.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "only described, never made")]
pub struct ChatMessage {
    /// `system`, `user`, `assistant` or `tool`.
    role: String,
    /// Text, or parts: `{"type":"text","text":"…"}` and `{"type":"image_url","image_url":{"url":"data:image/png;base64,…"}}`.
    content: Content,
}

/// Text, or parts of it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only described, never made")]
pub enum Content {
    /// Text.
    Text(String),
    /// Parts.
    Parts(Vec<TextPart>),
}

/// A part. Images are parts of a `type` of their own.
#[derive(Debug, Serialize, ToSchema)]
pub struct TextPart {
    /// `text`
    #[schema(pattern = "^text$")]
    r#type: String,
    /// The text.
    text: String,
}

/// A completion, as OpenAI's older API takes it.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "only described, never made")]
pub struct Completion {
    model: ModelName,
    /// One text.
    prompt: String,
    /// Whether the answer is a stream of events.
    stream: Option<bool>,
    /// Most tokens of the answer.
    #[schema(schema_with = limit)]
    max_tokens: Option<u64>,
}

/// Texts to embed, as OpenAI's API takes them.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "only described, never made")]
pub struct Embedding {
    model: ModelName,
    #[schema(schema_with = texts)]
    input: Texts,
}

/// A text or several.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only described, never made")]
pub enum Texts {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

/// A text, or at least one.
fn texts() -> Schema {
    let text = ObjectBuilder::new().schema_type(Type::String).build();
    let several = ArrayBuilder::new().items(text.clone()).min_items(Some(1));
    OneOfBuilder::new().item(text).item(several).description(Some("A text or several.")).build().into()
}

/// A number of tokens that may be left out. Written in any way that is a whole number, and without a largest one.
fn limit() -> Schema {
    whole_number([Type::Integer, Type::Null].into_iter().collect())
}

fn needed_limit() -> Schema {
    whole_number(Type::Integer.into())
}

fn whole_number(kind: SchemaType) -> Schema {
    let description = Some("Most tokens of the answer.");
    ObjectBuilder::new().schema_type(kind).minimum(Some(1)).description(description).build().into()
}

/// A response, as OpenAI's newer API takes it, as far as Ollama has it.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "only described, never made")]
pub struct Response {
    model: ModelName,
    /// Text, or items as OpenAI's API has them.
    #[schema(value_type = String)]
    input: Value,
    /// Whether the answer is a stream of events.
    stream: Option<bool>,
    /// Most tokens of the answer.
    #[schema(schema_with = limit)]
    max_output_tokens: Option<u64>,
}

/// Messages, as Anthropic's API takes them.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "only described, never made")]
pub struct Message {
    model: ModelName,
    /// Most tokens of the answer.
    #[schema(schema_with = needed_limit)]
    max_tokens: u64,
    /// At least one.
    #[schema(min_items = 1)]
    messages: Vec<AnthropicMessage>,
    /// Whether the answer is a stream of events.
    stream: Option<bool>,
}

/// A message of Anthropic's API.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "only described, never made")]
pub struct AnthropicMessage {
    /// `user` or `assistant`.
    role: String,
    /// Text, or blocks: `{"type":"text","text":"…"}` and `{"type":"image","source":{"type":"base64",…}}`.
    content: Blocks,
}

/// Text, or blocks of it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only described, never made")]
pub enum Blocks {
    /// Text.
    Text(String),
    /// Blocks.
    Blocks(Vec<Block>),
}

/// A block, of any type that the API has.
#[derive(Debug, Serialize, ToSchema)]
pub struct Block {
    /// Such as `text`; each has fields of its own.
    r#type: String,
}

/// A chat, as Ollama's own API takes it.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "only described, never made")]
pub struct OllamaChat {
    model: ModelName,
    /// Without any the request is only acknowledged.
    messages: Option<Vec<OllamaMessage>>,
    /// Whether the answer is a stream of lines. Default true.
    stream: Option<bool>,
}

/// A message of Ollama's own API.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "only described, never made")]
pub struct OllamaMessage {
    /// `system`, `user`, `assistant` or `tool`.
    role: String,
    /// Text.
    content: Option<String>,
}

/// A prompt, as Ollama's own API takes it.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "only described, never made")]
pub struct OllamaGenerate {
    model: ModelName,
    /// Without one the request is only acknowledged.
    prompt: Option<String>,
    /// Whether the answer is a stream of lines. Default true.
    stream: Option<bool>,
}

/// Texts to embed, as Ollama's own API takes them.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "only described, never made")]
pub struct OllamaEmbed {
    model: ModelName,
    /// A text or several.
    input: Texts,
}

/// A text to embed, as Ollama's older API takes it.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "only described, never made")]
pub struct OllamaEmbedOne {
    model: ModelName,
    /// The text.
    prompt: String,
}

/// A model to be shown.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "only described, never made")]
pub struct Show {
    /// One of `GET /api/tags`.
    model: String,
}
