//! `ollama-gateway` turns several Ollama machines into one fast, fair, metered, OpenAI-compatible service.
//!
//! # The floors
//!
//! A module imports only from floors below its own; `tests/architecture` fails and names the line that does not.
//!
//! | floor | modules | contains | never contains |
//! |---|---|---|---|
//! | top | [`cli`], [`app`], [`config`] | commands; start and stop in order; all settings together | decisions |
//! | door | [`http`] | handlers, status codes, keys, the OpenAPI document | SQL, scheduling, the HTTP client for nodes |
//! | carriage | [`relay`] | carries one request: node, stream, account | status codes, handlers |
//! | fleet | [`fleet`] | the nodes: their roster, health, models, and the client to them | a request's account |
//! | fleet | [`link`] | how gateways speak with each other | decisions |
//! | dispatch | [`dispatch`] | where requests meet the scheduler | the HTTP client for nodes |
//! | memory | [`store`] | users, keys, usage; the only module that names `entity` | HTTP |
//! | half | [`metrics`], [`telemetry`], [`trace`], [`clock`], [`tls`] | what is exported, logged and traced; the time; the certificate | their callers' types |
//! | ground | [`flaw`] | what is wrong with a setting, for every module that has some | anything of a module |
//! | pure | the crates [`scheduler`], [`cluster`], [`limits`], [`protocol`] | decisions: events and `now` in, decisions out | clocks, I/O, async, randomness |
//!
//! # The path of one request
//!
//! | # | step | where | if it fails |
//! |---|---|---|---|
//! | 1 | request id (UUIDv7), route | `http::observe`, `http::router` | 404, 405 |
//! | 2 | find the key's user by digest, in memory | `http::auth` → [`store::Accounts`] | 400, 401, 403, 429, 503 |
//! | 3 | read the whole body, parse the few fields that are needed | `http::body`, [`protocol::InferenceRequest`] | 400, 408, 413, 415 |
//! | 4 | find the model, reserve a place for the usage row, check the limits | `http::inference`, [`relay::Meter`], [`limits::Budget`] | 404, 503, 429 |
//! | 5 | wait for a slot | [`dispatch::Dispatcher`] → [`scheduler::Scheduler`] | 429, 503 |
//! | 6 | ask the node, or another one while no byte has reached the client | `relay::carry`, [`fleet::Upstream`] | 502, 503, 504 |
//! | 7 | pass the answer on and watch it | [`relay::WatchedBody`], [`protocol::StreamEditor`] | an error frame in the stream |
//! | 8 | at the end or on drop, exactly once: free the slot, settle the limits, hand in the row, metrics, trace, one log line; the end of an answer waits for the row | [`relay::Meter`], [`store::Recorder`] | 503, an error frame |
//!
//! # Invariants
//!
//! * A request holds a slot on only one node, and at most `slots` requests hold a slot of the same model on one node.
//! * Every future and body may be dropped at any await: slots, reservations and rows are guards that settle on drop.
//! * A plain answer is complete before the client sees any of it. A stream gets its terminal frame only if the node
//!   sent it, or if the gateway ended the answer with `length`.
//! * Nothing on a request's path waits for the database. Only the end of an answer waits for its row in the local file,
//!   and nothing is admitted whose row could not be kept.
//! * Every queue is bounded, and every await that leaves the process has a deadline.
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dispatch;
pub mod flaw;
pub mod fleet;
pub mod http;
pub mod link;
pub mod metrics;
pub mod relay;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod trace;
