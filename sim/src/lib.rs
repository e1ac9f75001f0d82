//! A faithful simulated Ollama node: the same routes, shapes, errors, queues and weaknesses as the real one, with
//! answers that depend on the prompt alone and failures on command.
//!
//! Start a [`SimNode`] from a [`SimConfig`] inside an actix system, talk HTTP to [`SimNode::url`], make it fail with
//! [`SimNode::set_fault`], and look at what happened with [`SimNode::requests`] and [`SimNode::stats`].
//!
//! A prompt with the mark `[[n=K]]` is answered with exactly K tokens; otherwise the length follows from the prompt,
//! between 20 and 120. If tools are offered and the user's last message contains `tool` or `weather`, the first tool
//! is called. A trailing assistant message that is the beginning of the answer is continued.
//!
//! | floor | modules |
//! |---|---|
//! | the node | `node` starts and stops it; `http` finds the handler; `info` lists models; `disk` keeps them |
//! | an answer | `inference` carries a request; `generation` speaks it token by token; `dialect` writes it down for each route |
//! | the parts | `engine` loads and queues, `options` tells when anew, `seat` holds; `ask` decides the answer; `fault`, `ledger`, `config`, `text`, `error`, `clock` |

mod ask;
mod clock;
mod config;
mod dialect;
mod disk;
mod engine;
mod error;
mod fault;
mod generation;
mod http;
mod inference;
mod info;
mod ledger;
mod library;
mod model;
mod names;
mod node;
mod options;
mod runners;
mod state;
mod text;

pub use config::SimConfig;
pub use fault::Fault;
pub use ledger::{Outcome, SeenRequest, SimStats};
pub use model::SimModel;
pub use node::SimNode;
