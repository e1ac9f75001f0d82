//! What do the bytes mean? Pure: the fields that the gateway reads and rewrites in each dialect, and nothing else.
//!
//! Bodies are never re-serialised. A parser here finds *spans* in the bytes as they came, and an edit splices into
//! them; whatever the gateway does not know passes through unchanged. These are all the edits:
//!
//! | where | edit | why |
//! |---|---|---|
//! | request | a byte order mark is taken off; bytes that are not UTF-8 and escaped half surrogates become U+FFFD | as Go's decoder reads them; other engines refuse them |
//! | request | `stream_options.include_usage` is set to `true` on streams | a stream reports no tokens otherwise |
//! | request | `max_tokens` is set from `max_completion_tokens` | Ollama ignores the newer name |
//! | request | `max_tokens` (in the dialect's own words) is written as a plain whole number where it was `5.0` | nodes take no other |
//! | request | `max_tokens` (in the dialect's own words) is added, or replaces -1, for users with a limit of tokens per minute or per day who name none | the limit must hold |
//! | request, native | `keep_alive`, `shift`, `template` and the options that reload a model are checked and taken out | one user's would be everybody's |
//! | request | `model` is replaced where the operator gave it another name or a fallback, or where the path names another (Azure's form) | |
//! | answer | `id` is replaced by one made from the request id | Ollama's ids repeat |
//! | answer | an answer that Ollama's token-repeat guard broke off gets `length` as the reason for its end, and a stream its terminal frames | clients wait for them |
//! | stream | the usage chunk, and other `usage` members, are hidden from clients that did not ask for them | they come only because the gateway asks for them |
//!
//! What a node reports is a claim ([`Usage`]); what a request is charged ([`Tally`]) lies within what its body and its
//! limit allow ([`ClaimBounds`]).
mod answer;
mod count_tokens;
mod cut;
mod encoding;
mod endpoint;
mod error;
mod field;
mod field_names;
mod frames;
mod json;
mod listing;
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
pub use count_tokens::{TokenCount, count_tokens};
pub use cut::StreamLimit;
pub use encoding::repaired;
pub use endpoint::{Dialect, Endpoint};
pub use error::{ErrorObject, is_error_body, message_of};
pub use field::BadRequest;
pub use frames::{FrameTooLong, Frames, Framing};
pub use listing::{ListedModel, ListedProcess, Listing, MAX_LISTED, listed_models, listed_processes};
pub use model_name::ModelName;
pub use path::{Meant, likely, meant};
pub use prompt::PromptPrefix;
pub use rename::with_model;
pub use repeats::is_repetition;
pub use request::{Idle, InferenceRequest};
pub use stream::{StreamEditor, StreamFault};
pub use tally::{AnswerProgress, ClaimBounds, Tally, TallySource};
pub use usage::Usage;
