//! What do the bytes mean? Pure: the fields that the gateway reads and rewrites of each dialect, and nothing else.
//!
//! Bodies are never re-serialised. A parser here finds *spans* in the bytes as they came, and an edit splices into
//! them; whatever the gateway does not know passes through unchanged. The edits, all of them:
//!
//! | where | edit | why |
//! |---|---|---|
//! | request | `stream_options.include_usage` is set to `true` on streams | a stream reports no tokens otherwise |
//! | request | `max_tokens` is set from `max_completion_tokens` | Ollama ignores the newer name |
//! | request | `max_tokens` (in the dialect's own words) is written as a plain whole number, where it was `5.0` | nodes take no other |
//! | request | `max_tokens` (in the dialect's own words) is added for users with a daily limit who name none | the limit must hold |
//! | request, native | `keep_alive`, `shift`, `template` and the options that reload a model are taken out | one user's would be everybody's |
//! | request | `model` is replaced where the operator gave it another name or a fallback, or where the path names another (Azure's form) | |
//! | answer | `id` is replaced by one made from the request id | Ollama's ids repeat |
//! | stream | the usage chunk, and zero `usage` members, are hidden from clients that did not ask for them | see the first |
mod answer;
mod cut;
mod encoding;
mod endpoint;
mod error;
mod field;
mod field_names;
mod frames;
mod json;
mod model_name;
mod path;
mod prompt;
mod rename;
mod repeats;
mod request;
mod stream;
mod stripped;
mod tally;
mod text;
mod unsupported;
mod usage;

pub use answer::edit_answer;
pub use cut::StreamLimit;
pub use encoding::repaired;
pub use endpoint::{Dialect, Endpoint};
pub use error::{ErrorObject, is_error_body, message_of};
pub use field::BadRequest;
pub use frames::{FrameTooLong, Frames, Framing};
pub use model_name::ModelName;
pub use path::{Meant, meant};
pub use rename::with_model;
pub use repeats::is_repetition;
pub use request::{Idle, InferenceRequest};
pub use stream::{StreamEditor, StreamFault};
pub use tally::{AnswerProgress, ClaimBounds, Tally, TallySource};
pub use usage::Usage;
