//! The gateway as clients and operators meet it: over real sockets, in front of simulated and scripted nodes.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on may panic, and waits in real time"
)]
mod admin;
mod admins;
mod anthropic;
mod audit;
mod auth;
mod bodies;
mod broken_streams;
mod bytes;
mod caps;
mod check;
mod checklist;
mod cli;
mod cloud;
mod cluster;
mod connections;
mod console;
mod cors;
mod damage;
mod demo;
mod dialects;
mod discovery;
mod durability;
mod events;
mod failures;
mod fidelity;
mod garbage;
mod grey;
mod groups;
mod harness;
mod http2;
mod input;
mod key_changes;
mod key_models;
mod keys;
mod learned;
mod leases;
mod leaving;
mod library;
mod limits;
mod maintenance;
mod metrics;
mod mistakes;
mod names;
mod native;
mod native_edits;
mod native_lists;
mod node_headers;
mod node_time;
mod openapi;
mod ops;
mod other_servers;
mod outages;
mod own_keys;
mod paths;
mod peppers;
mod postgres;
mod queue;
mod random_json;
mod relay;
mod reload;
mod reports;
mod requests;
mod responses;
mod roles;
mod roster;
mod scheduling;
mod scripted;
mod secure;
mod sessions;
mod shutdown;
mod streams;
mod sums;
mod tls;
mod tracing;
mod twins;
mod unsupported;
mod usage;
mod usage_rows;
mod user_limits;
mod users;
mod waiting;
mod wire;

use harness::{TestDatabase, fast_node, node, spawn_app_with};

/// The shortest way through everything.
#[actix_rt::test]
async fn a_new_user_gets_an_answer_and_a_row_on_every_database() {
    for database in TestDatabase::each().await {
        let simulated = fast_node().await;
        let app = spawn_app_with(vec![node("a", simulated.url(), 2)], database, |_| {}).await;
        let key = app.user("user-123").await;

        let reply = app.chat(&key, "llama3.2", "hello").await;

        assert_eq!(reply.status, 200, "{}", reply.text());
        let usage = &reply.json()["usage"];
        let rows = app.rows(&key).await;
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0]["request_id"], reply.header("x-request-id").unwrap());
        assert_eq!(rows[0]["status"], "completed");
        assert_eq!(rows[0]["prompt_tokens"], usage["prompt_tokens"]);
        assert_eq!(rows[0]["completion_tokens"], usage["completion_tokens"]);
        app.stop().await;
    }
}
