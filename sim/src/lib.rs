//! A faithful simulated Ollama node: the routes, shapes, errors, queues and weaknesses of the real one, with answers
//! that depend on the prompt alone and failures on command. It also imitates llama.cpp's server and vLLM.
//!
//! Start a [`SimNode`] from a [`SimConfig`] inside an actix system, talk HTTP to [`SimNode::url`], make it fail with
//! [`SimNode::set_fault`] and its siblings, and look at what happened with [`SimNode::requests`] and [`SimNode::stats`].
//!
//! A prompt with the mark `[[n=K]]` is answered with exactly K tokens; otherwise the length follows from the prompt,
//! between 20 and 120. If tools are offered and the user's last message contains `tool` or `weather`, the first tool
//! is called. A trailing assistant message that is the beginning of the answer is continued. `[[repeat]]` makes the
//! answer repeat one word, until Ollama's guard against repetition ends it.
//!
//! | floor | modules |
//! |---|---|
//! | the node | `node` starts, steers and stops it; `http` routes; `info` describes it and its models, and `served` other servers; `library` pulls and deletes; `state` is what they share |
//! | an answer | `inference` carries a request; `generation` makes the answer token by token; `dialect` writes it for each route |
//! | the scheduler | `engine` loads and queues; `runners` are the models in memory; `slots` the queue for one; `options` tell when to reload; `pace` is the speed |
//! | the parts | `ask` determines the answer; `fault` and `listing` are what goes wrong; `config`, `model`, `names`, `ledger`, `text`, `error`, `clock` |

mod ask;
mod clock;
mod config;
mod dialect;
mod engine;
mod error;
mod fault;
mod generation;
mod http;
mod inference;
mod info;
mod ledger;
mod library;
mod listing;
mod model;
mod names;
mod node;
mod options;
mod pace;
mod runners;
mod served;
mod slots;
mod state;
mod text;

pub use crate::fault::UsageClaim;
pub use config::{SimConfig, SimKind};
pub use fault::Fault;
pub use ledger::{Outcome, SeenRequest, SimStats};
pub use listing::OddListing;
pub use model::SimModel;
pub use node::SimNode;
