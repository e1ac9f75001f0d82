//! `ollama-gateway` turns several Ollama machines into one fast, fair, metered, OpenAI-compatible service.
//!
//! # The floors
//!
//! A module imports only from floors below its own; `tests/architecture.rs` fails naming the line that does not.
//!
//! | floor | modules | what they are | never in them |
//! |---|---|---|---|
//! | top | [`cli`], [`app`], [`config`] | commands; start and stop in order; all settings together | decisions |
//! | door | [`http`] | handlers, status codes, keys, the OpenAPI document | SQL, scheduling, the client to nodes |
//! | carriage | [`relay`] | carries one request: node, stream, account | status codes, handlers |
//! | fleet | [`fleet`] | the nodes: which there are, how they are, the client to them, their models | a request's account |
//! | dispatch | [`dispatch`] | where requests meet the scheduler | the client to nodes |
//! | memory | [`store`] | users, keys, usage; the only module that names `entity` | HTTP |
//! | half | [`metrics`], [`telemetry`], [`trace`], [`clock`] | what is exported, logged and traced; what time it is | their callers' types |
//! | pure | the crates [`scheduler`], [`cluster`], [`limits`], [`protocol`] | decisions: events and `now` in, decisions out | clocks, I/O, async, randomness |
//!
//! # The path of one request
//!
//! | # | step | where | when it fails |
//! |---|---|---|---|
//! | 1 | request id (UUIDv7), route | `http::observe`, `http::routes` | 404, 405 |
//! | 2 | whose key is it? digests, looked up in memory | `http::auth` → [`store::Accounts`] | 400, 401, 403, 429, 503 |
//! | 3 | the whole body, the few fields that are needed | `http::body`, [`protocol::InferenceRequest`] | 400, 408, 413, 415 |
//! | 4 | a listed model, a place for the usage row, the limits | `http::inference`, [`relay::Meter`], [`limits::Budget`] | 404, 503, 429 |
//! | 5 | wait for a slot | [`dispatch::Dispatcher`] → [`scheduler::Scheduler`] | 429, 503 |
//! | 6 | ask the node; another one, while no byte has reached the client | `relay::carry`, [`fleet::Upstream`] | 502, 503, 504 |
//! | 7 | pass the answer on, watching it | [`relay::MeteredBody`], [`protocol::StreamEditor`] | an error frame in the stream |
//! | 8 | end or drop, once: slot free, limits settled, row handed in, metrics, trace, one log line; the end of an answer waits for the row | [`relay::Meter`], [`store::Recorder`] | 503, an error frame |
//!
//! # Invariants
//!
//! * A request holds a slot only on one node, and at most `slots` requests hold one of a (node, model).
//! * Every future and body may be dropped at any await: slots, reservations and rows are guards that settle on drop.
//! * A plain answer is whole before the client sees any of it; a stream never ends with `[DONE]` unless the node's did.
//! * Nothing on a request's path waits for the database. The end of an answer waits for its row in the local file, nothing else
//!   does, and nothing is admitted whose row could not be kept.
//! * Every queue is bounded, and every await that leaves the process has a deadline.
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dispatch;
pub mod fleet;
pub mod http;
pub mod metrics;
pub mod relay;
pub mod store;
pub mod telemetry;
pub mod trace;
