//! Which requests run, wait and have ended, for the operator and for their users; and stopping one.
use actix_web::http::Method;
use ollama_sim::{Fault, SimNode};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::harness::{
    ADMIN_KEY, EventReader, Reply, TestApp, TestDatabase, chat_body, error_of, eventually, fast_node, node,
    parse_answer, spawn_app, spawn_app_with, stream_body,
};

/// A stream of ann's holds the only slot, and a request of bob's waits for it.
async fn busy_app() -> (SimNode, TestApp, [String; 2], EventReader, tokio::net::TcpStream) {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    let keys = [app.user("ann").await, app.user("bob").await];
    simulated.fault_next([Fault::HangAfter(3)]);
    let mut running = app.open_stream(&keys[0], &stream_body("llama3.2", "hi")).await;
    running.next().await;
    let waiting = app.send_and_hold(&keys[1], &chat_body("llama3.2", "hi")).await;
    eventually("one waits", || app.dispatcher.read(|scheduler| scheduler.queued()) == 1).await;
    (simulated, app, keys, running, waiting)
}

async fn list(app: &TestApp, query: &str) -> Vec<Value> {
    let reply = app.get(&format!("/admin/requests?{query}"), ADMIN_KEY).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["data"].as_array().unwrap().clone()
}

fn id(request: &Value) -> &str {
    request["request_id"].as_str().unwrap()
}

async fn stop(app: &TestApp, path: &str, key: &str) -> Reply {
    app.send(Method::DELETE, path, Some(key), "").await
}

#[actix_rt::test]
async fn what_runs_and_what_waits_is_listed_with_where_and_why() {
    let (_node, app, _, running, waiting) = busy_app().await;

    let runs = list(&app, "state=running").await;
    let waits = list(&app, "state=waiting").await;

    assert_eq!((runs.len(), waits.len()), (1, 1));
    let seen = |request: &Value| ["user_id", "node", "position", "model", "stream"].map(|field| request[field].clone());
    assert_eq!(seen(&runs[0]), [json!("ann"), json!("a"), json!(null), json!("llama3.2"), json!(true)]);
    assert_eq!(seen(&waits[0]), [json!("bob"), json!(null), json!(1), json!("llama3.2"), json!(false)]);
    assert!(runs[0]["completion_tokens"].as_u64().unwrap() > 0 && runs[0]["summary"] == "a answers", "{}", runs[0]);
    assert!(waits[0]["summary"].as_str().unwrap().starts_with("waits for a slot on a"), "{}", waits[0]);
    for (query, count) in [
        ("state=running&user=ann&node=a&model=llama3.2", 1),
        ("state=running&user=bob", 0),
        ("state=running&node=b", 0),
        ("state=running&model=other", 0),
        ("state=waiting&user=bob", 1),
    ] {
        assert_eq!(list(&app, query).await.len(), count, "{query}");
    }
    for bad in ["state=ended", "state=running&code=x", "limit=0", "other=1", "from=x"] {
        error_of(&app.get(&format!("/admin/requests?{bad}"), ADMIN_KEY).await, 400);
    }
    // Stories are told of open ones, too.
    let story = app.get(&format!("/admin/requests/{}", id(&runs[0])), ADMIN_KEY).await.json();
    assert_eq!((&story["user_id"], &story["summary"]), (&json!("ann"), &json!("It runs on a.")));
    drop((running, waiting));
    eventually("nothing is open", || app.dispatcher.read(|scheduler| scheduler.in_flight()) == 0).await;
    crate::harness::wait_for("no request is listed", async || list(&app, "state=running").await.is_empty()).await;
    app.stop().await;
}

#[actix_rt::test]
async fn an_operator_stops_a_running_and_a_waiting_request_and_their_clients_read_why() {
    let (_node, app, [ann, bob], running, mut waiting) = busy_app().await;
    let waits = list(&app, "state=waiting").await;
    let runs = list(&app, "state=running").await;
    let path = |request: &Value| format!("/admin/requests/{}?reason=too%20long", id(request));

    assert_eq!(stop(&app, &path(&waits[0]), ADMIN_KEY).await.json()["stopped"], true);
    assert_eq!(stop(&app, &path(&runs[0]), ADMIN_KEY).await.status, 200);

    let mut answer = [0; 4096];
    let length = waiting.read(&mut answer).await.unwrap();
    let (status, _, body) = parse_answer(std::str::from_utf8(&answer[..length]).unwrap());
    assert_eq!((status, &body["error"]["code"]), (403, &json!("request_stopped")));
    assert_eq!(body["error"]["message"], "An operator stopped this request: too long");
    let events = running.rest().await;
    assert!(events.last().unwrap().contains("An operator stopped this request: too long"), "{events:?}");
    for key in [ann, bob] {
        let rows = app.rows_once(&key, 1).await;
        assert_eq!((&rows[0]["status"], &rows[0]["code"]), (&json!("cancelled"), &json!("request_stopped")));
    }
    error_of(&stop(&app, &path(&runs[0]), ADMIN_KEY).await, 404);
    let long = format!("/admin/requests/{}?reason={}", id(&runs[0]), "x".repeat(201));
    assert_eq!(error_of(&stop(&app, &long, ADMIN_KEY).await, 400)["param"], "reason");
    app.stop().await;
}

#[actix_rt::test]
async fn users_see_and_stop_their_own_requests_alone() {
    let (_node, app, [ann, bob], running, waiting) = busy_app().await;
    let own = async |key: &str| app.get("/v1/me/requests", key).await.json();
    let (of_ann, of_bob) = (own(&ann).await, own(&bob).await);
    let only = |list: &Value| {
        assert_eq!(list["data"].as_array().unwrap().len(), 1, "{list}");
        list["data"][0].clone()
    };
    let (runs, waits) = (only(&of_ann), only(&of_bob));
    assert_eq!(
        (&runs["state"], &waits["state"], &waits["position"]),
        (&json!("running"), &json!("waiting"), &json!(1))
    );

    error_of(&stop(&app, &format!("/v1/me/requests/{}", id(&runs)), &bob).await, 404);
    assert_eq!(stop(&app, &format!("/v1/me/requests/{}", id(&runs)), &ann).await.status, 200);

    let events = running.rest().await;
    assert!(events.last().unwrap().contains("stopped with one of your keys"), "{events:?}");
    app.rows_once(&ann, 1).await;
    let after = own(&ann).await;
    assert_eq!((after["data"].as_array().unwrap().len(), &after["recent"][0]["code"]), (0, &json!("request_stopped")));
    error_of(&app.get("/v1/me/requests", ADMIN_KEY).await, 401);
    drop(waiting);
    app.stop().await;
}

#[actix_rt::test]
async fn a_user_reads_its_limits_what_is_used_and_when_it_comes_back() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    let key = app.user_with("ann", json!({"requests_per_minute": 2, "tokens_per_day": 100_000, "weight": 3})).await;
    assert_eq!(app.chat(&key, "llama3.2", "hi").await.status, 200);

    let me = app.get("/v1/me", &key).await.json();

    assert_eq!((&me["user_id"], &me["weight"], &me["requests_per_minute"]), (&json!("ann"), &json!(3.0), &json!(2)));
    assert_eq!((&me["used"]["requests_last_minute"], &me["left"]["requests"]), (&json!(1), &json!(1)));
    assert!(me["used"]["tokens_today"].as_u64().unwrap() > 0 && me["key_id"].is_string(), "{me}");
    assert!(me["allowed_models"].is_null() && me["resets"]["tokens_ms"].as_u64().unwrap() <= 86_400_000, "{me}");
    assert!(me["resets"]["requests_ms"].as_u64().unwrap() <= 60_000, "{me}");
    app.stop().await;
}

#[actix_rt::test]
async fn ended_requests_are_found_by_what_is_known_of_them_and_explained_for_good() {
    for database in TestDatabase::each().await {
        let simulated = fast_node().await;
        let app = spawn_app_with(vec![node("a", simulated.url(), 1)], database, |_| {}).await;
        let (ann, bob) = (app.user_with("ann", json!({"requests_per_minute": 3})).await, app.user("bob").await);
        for _ in 0..3 {
            assert_eq!(app.chat(&ann, "llama3.2", "hi").await.status, 200);
        }
        let refused = app.chat(&ann, "llama3.2", "hi").await;
        assert_eq!(refused.status, 429);
        let answered = app.chat(&bob, "llama3.2", "hi").await;
        app.rows_once(&ann, 4).await;
        app.rows_once(&bob, 1).await;

        for (query, count) in [
            ("", 5),
            ("user=ann", 4),
            ("user=ann&status=completed", 3),
            ("code=rate_limit_exceeded", 1),
            ("node=a", 4),
            ("node=b", 0),
            ("model=llama3.2", 5),
            ("from=2999-01-01", 0),
            ("to=2020-01-01", 0),
        ] {
            assert_eq!(list(&app, query).await.len(), count, "{query}");
        }
        let first = app.get("/admin/requests?limit=3", ADMIN_KEY).await.json();
        let rest = list(&app, &format!("limit=3&after={}", first["next"].as_str().unwrap())).await;
        let newest = id(&first["data"][0]).to_owned();
        assert_eq!((rest.len(), newest.as_str()), (2, answered.header("x-request-id").unwrap()));
        assert_eq!(first["data"][0]["user_id"], "bob");

        let explain = async |app: &TestApp, reply: &Reply| {
            let path = format!("/admin/requests/{}", reply.header("x-request-id").unwrap());
            app.get(&path, ADMIN_KEY).await.json()
        };
        let story = explain(&app, &refused).await;
        assert_eq!((&story["user_id"], &story["outcome"]["http_status"]), (&json!("ann"), &json!(429)));
        assert_eq!(story["summary"], "It was refused: its user had used up the requests of a minute.");
        let story = explain(&app, &answered).await;
        let summary = story["summary"].as_str().unwrap();
        assert!(summary.starts_with("It went to a at once. It was answered whole"), "{summary}");

        let app = app.restart().await;
        let story = explain(&app, &answered).await;
        // What the scheduler expected is forgotten.
        assert!(summary.starts_with(story["summary"].as_str().unwrap()), "{story}");
        assert_eq!(story["steps"], json!([]));
        // Not even one that has the first half of its id.
        let other = format!("{}-0000-000000000000", &newest[..18]);
        error_of(&app.get(&format!("/admin/requests/{other}"), ADMIN_KEY).await, 404);
        app.stop().await;
    }
}
