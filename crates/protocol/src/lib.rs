//! What do the bytes mean? Pure: the fields that the gateway reads and rewrites in each dialect, and nothing else.
//!
//! Bodies are never re-serialised. A parser finds *spans* in the bytes as they arrived, and an edit replaces spans;
//! everything that the gateway does not know passes through unchanged. These are all the edits:
//!
//! | where | edit | why |
//! |---|---|---|
//! | request | a byte order mark is removed; bytes that are not UTF-8 and escaped halves of surrogate pairs become U+FFFD | Go's decoder reads them that way; other engines refuse them |
//! | request | `stream_options.include_usage` is set to `true` for streams | a stream reports no usage otherwise |
//! | request | `max_tokens` is set from `max_completion_tokens` | Ollama ignores the newer name |
//! | request | `max_tokens` (under the dialect's own name) is written as a whole number if it was `5.0` | nodes accept no other form |
//! | request | `max_tokens` (under the dialect's own name) is added, or replaces -1, if the user has a limit of tokens per minute or per day | the limit must hold |
//! | request, native | `keep_alive`, `shift`, `template` and the options that reload a model are checked and removed | one user's choice would apply to everybody |
//! | request | `model` is replaced if the operator gave it another name or a fallback, or if the path names another model (Azure's form) | the node must be asked for the model that was chosen |
//! | answer | `id` is replaced with one made from the request id | Ollama's ids repeat |
//! | answer | an answer that Ollama's token-repeat guard broke off gets `length` as the reason for its end; a stream gets its terminal frames | clients wait for them |
//! | stream | the usage chunk and other `usage` members are hidden from clients that did not ask for them | they come only because the gateway asks for them |
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
mod frames;
mod json;
mod listing;
mod model_name;
mod path;
mod prompt;
mod repeats;
mod request;
mod stream;
mod stripped;
mod tally;
mod text;
mod unsupported;
mod usage;

pub use crate::model_name::with_model;
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
pub use repeats::is_repetition;
pub use request::{Idle, InferenceRequest};
pub use stream::{StreamEditor, StreamFault};
pub use tally::{AnswerProgress, ClaimBounds, Tally, TallySource};
pub use usage::Usage;
