//! What is usage safe from? A file that cannot be written, a Postgres that is away or refuses, a process that dies.
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use awc::http::Method;
use futures_util::future::join_all;
use ollama_gateway::store::{DatabaseSettings, Store};
use ollama_sim::{SimConfig, SimNode};
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, Statement};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::harness::{
    ADMIN_KEY, TestApp, TestDatabase, chat_body, error_of, events_of, fast_node, let_pass, node, spawn_app_with,
    stream_body, wait_for,
};
use crate::scripted::{CHAT_END, ScriptedNode, Step, chat_event, chunk, last_chunk, stream_head};

async fn ready(app: &TestApp) -> (u16, String) {
    let reply = app.send(Method::GET, "/health/ready", None, "").await;
    (reply.status.as_u16(), reply.json()["status"].as_str().unwrap().to_owned())
}

async fn gauge(app: &TestApp, name: &str) -> f64 {
    let text = app.send(Method::GET, "/metrics", None, "").await.text().to_owned();
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()).unwrap()
}

pub(crate) async fn operator(url: &str) -> DatabaseConnection {
    Database::connect(url).await.unwrap()
}

/// The number that a question is answered with.
async fn number(db: &DatabaseConnection, question: &str) -> i64 {
    let question = Statement::from_string(db.get_database_backend(), question);
    db.query_one_raw(question).await.unwrap().unwrap().try_get_by_index(0).unwrap()
}

/// The local file of a gateway: the database itself, or the outbox in front of it.
fn local_file(database: &TestDatabase) -> String {
    match database.url.starts_with("sqlite") {
        true => database.url.clone(),
        false => format!("sqlite://{}", database.folder.path().join("outbox.db").display()),
    }
}

#[actix_rt::test]
async fn while_the_local_file_cannot_be_written_no_answer_is_complete_and_nothing_is_admitted() {
    for database in TestDatabase::each().await {
        let file = local_file(&database);
        let config = SimConfig { tokens_per_second: 100.0, ..SimConfig::warm() };
        let simulated = SimNode::start(config).await.unwrap();
        let app = spawn_app_with(vec![node("a", simulated.url(), 4)], database, |_| {}).await;
        let key = app.user("ann").await;
        let operator = operator(&file).await;
        operator.execute_unprepared("ALTER TABLE usage RENAME TO elsewhere").await.unwrap();

        // Both are admitted before the first of them cannot be recorded.
        let streamed = stream_body("llama3.2", "[[n=60]] hi");
        let plain = async {
            wait_for("the stream is at its node", async || simulated.stats().in_flight == 1).await;
            app.chat(&key, "llama3.2", "[[n=5]] hi").await
        };
        let (plain, stream) = tokio::join!(plain, app.exchange(&key, &streamed));

        assert_eq!(error_of(&plain, 503)["code"], "storage_unavailable");
        assert_eq!(plain.header("retry-after"), Some("5"));
        let events = events_of(&stream.1);
        assert!(events.len() > 5 && !stream.1.contains("[DONE]"), "all but the end passes: {}", stream.1);
        let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
        assert_eq!(last["error"]["code"], "storage_unavailable");
        assert_eq!(ready(&app).await, (503, "storage_unavailable".to_owned()));
        assert_eq!(gauge(&app, "gateway_usage_storage_ready").await, 0.0);
        let seen = simulated.requests().len();
        for path in ["/v1/chat/completions", "/api/chat", "/v1/messages"] {
            let mut body = chat_body("llama3.2", "hi");
            body["max_tokens"] = 5.into();
            let refused = app.post(path, &key, body).await;
            assert_eq!(refused.status, 503, "{path}: {}", refused.text());
            assert!(refused.text().contains("cannot be stored"), "{path}: {}", refused.text());
        }
        assert_eq!(simulated.requests().len(), seen, "no node works for nothing");

        operator.execute_unprepared("ALTER TABLE elsewhere RENAME TO usage").await.unwrap();
        wait_for("it is ready again", async || ready(&app).await.0 == 200).await;
        assert_eq!(app.chat(&key, "llama3.2", "hi").await.status, 200);
        assert_eq!(app.rows_once(&key, 3).await.len(), 3, "rows that could not be written at first are not lost");
        operator.close().await.unwrap();
        app.stop().await;
    }
}

/// Longer than a statement may take, and shorter than two.
const STALL: Duration = Duration::from_secs(6);

/// Somebody else holds the local file's lock.
async fn stall(database: TestDatabase) {
    let mut options = ConnectOptions::new(local_file(&database));
    options.max_connections(1);
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 4)], database, |_| {}).await;
    let key = app.user("ann").await;
    let somebody = Database::connect(options).await.unwrap();
    somebody.execute_unprepared("BEGIN IMMEDIATE").await.unwrap();
    let later = async {
        tokio::time::sleep(STALL - Duration::from_millis(400)).await;
        assert_eq!(ready(&app).await, (200, "ready".to_owned()));
        app.chat(&key, "llama3.2", "hi").await
    };
    let ending = async {
        tokio::time::sleep(STALL).await;
        somebody.execute_unprepared("COMMIT").await.unwrap();
    };
    let (first, later, ()) = tokio::join!(app.chat(&key, "llama3.2", "hi"), later, ending);
    assert_eq!((first.status.as_u16(), later.status.as_u16()), (200, 200), "{} {}", first.text(), later.text());
    assert_eq!(app.rows_once(&key, 2).await.len(), 2);
    somebody.close().await.unwrap();
    app.stop().await;
}

#[actix_rt::test]
async fn a_local_file_that_is_slow_for_six_seconds_refuses_nobody() {
    join_all(TestDatabase::each().await.into_iter().map(stall)).await;
}

#[actix_rt::test]
async fn a_postgres_that_cannot_work_costs_no_request_and_no_row() {
    let Some(database) = TestDatabase::postgres().await else { return };
    let url = database.url.clone();
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], database, |_| {}).await;
    let key = app.user("ann").await;
    let operator = operator(&url).await;
    operator.execute_unprepared("ALTER TABLE usage RENAME TO elsewhere").await.unwrap();

    let mut sent = Vec::new();
    for _ in 0..3 {
        let answered = app.chat(&key, "llama3.2", "hi").await;
        assert_eq!(answered.status, 200, "{}", answered.text());
        sent.insert(0, json!(answered.header("x-request-id").unwrap()));
    }

    wait_for("it is noticed", async || gauge(&app, "gateway_database_up").await == 0.0).await;
    assert_eq!(gauge(&app, "gateway_usage_outbox_rows").await, 3.0);
    assert_eq!(ready(&app).await, (200, "ready".to_owned()));
    assert_eq!(error_of(&app.get("/v1/usage", &key).await, 503)["code"], "storage_unavailable");
    // Neither does a restart lose any.
    let database = app.stop().await;
    operator.execute_unprepared("ALTER TABLE elsewhere RENAME TO usage").await.unwrap();
    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], database, |_| {}).await;
    let rows = app.rows_once(&key, 3).await;
    assert_eq!(rows.iter().map(|row| row["request_id"].clone()).collect::<Vec<_>>(), sent);
    wait_for("it is empty", async || gauge(&app, "gateway_usage_outbox_rows").await == 0.0).await;
    assert_eq!(gauge(&app, "gateway_database_up").await, 1.0);
    operator.close().await.unwrap();
    app.stop().await;
}

#[actix_rt::test]
async fn a_row_that_postgres_refuses_is_set_aside_and_holds_up_no_other() {
    let Some(database) = TestDatabase::postgres().await else { return };
    let url = database.url.clone();
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], database, |_| {}).await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    let operator = operator(&url).await;
    operator.execute_unprepared("ALTER TABLE usage ADD CONSTRAINT no_bob CHECK (user_id <> 'bob')").await.unwrap();
    for turn in 0..6 {
        app.chat(if turn % 3 == 1 { &bob } else { &ann }, "llama3.2", "hi").await;
    }

    assert_eq!(app.rows_once(&ann, 4).await.len(), 4);

    assert_eq!(app.rows(&bob).await.len(), 0);
    assert_eq!(gauge(&app, "gateway_usage_parked_rows").await, 2.0);
    let app = app.restart().await;
    assert_eq!(gauge(&app, "gateway_usage_parked_rows").await, 2.0, "they stay for somebody to look at");
    assert_eq!((app.chat(&ann, "llama3.2", "hi").await.status.as_u16(), app.rows_once(&ann, 5).await.len()), (200, 5));
    operator.close().await.unwrap();
    app.stop().await;
}

#[actix_rt::test]
async fn without_postgres_it_starts_with_the_users_and_limits_that_it_knew() {
    let Some(database) = TestDatabase::postgres().await else { return };
    let simulated = fast_node().await;
    let nodes = vec![node("a", simulated.url(), 1)];
    let app = spawn_app_with(nodes.clone(), database, |_| {}).await;
    let key = app.user_with("ann", json!({"tokens_per_day": 1000, "requests_per_minute": 3})).await;
    let body =
        json!({"model": "llama3.2", "messages": [{"role": "user", "content": "[[n=400]] hi"}], "max_tokens": 400});
    assert_eq!(app.post("/v1/chat/completions", &key, body.clone()).await.status, 200);
    let standing = app.get("/admin/users/ann/limits", ADMIN_KEY).await.json();
    let outbox = operator(&local_file(app.database.as_ref().unwrap())).await;
    wait_for("users are copied", async || number(&outbox, "SELECT count(*) FROM users WHERE id = 'ann'").await == 1)
        .await;
    outbox.close().await.unwrap();
    let mut database = app.stop().await;

    let real = std::mem::replace(&mut database.url, "postgres://postgres@127.0.0.1:1/gone".to_owned());
    let app = spawn_app_with(nodes.clone(), database, |_| {}).await;
    assert_eq!(ready(&app).await, (200, "ready".to_owned()));
    assert_eq!(error_of(&app.chat("sk-ann-unknown", "llama3.2", "hi").await, 503)["code"], "storage_unavailable");
    assert_eq!(app.get("/admin/users/ann/limits", ADMIN_KEY).await.json(), standing, "what was used is not forgotten");
    let second = app.post("/v1/chat/completions", &key, body.clone()).await;
    assert_eq!(second.status, 200, "{}", second.text());
    let third = error_of(&app.post("/v1/chat/completions", &key, body.clone()).await, 429);
    assert_eq!(third["code"], "insufficient_quota");
    let mut database = app.stop().await;

    database.url = real;
    let app = spawn_app_with(nodes, database, |_| {}).await;
    error_of(&app.chat("sk-ann-unknown", "llama3.2", "hi").await, 401);
    let statuses: Vec<Value> = app.rows_once(&key, 3).await.iter().map(|row| row["status"].clone()).collect();
    assert_eq!(statuses, ["refused", "completed", "completed"]);
    app.stop().await;
}

#[actix_rt::test]
async fn without_postgres_and_without_users_it_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let settings = DatabaseSettings {
        url: "postgres://postgres@127.0.0.1:1/gone".to_owned(),
        outbox: folder.path().join("outbox.db"),
        ..DatabaseSettings::default()
    };
    assert!(Store::open(&settings).await.is_err());
}

/// What a process that dies at this moment leaves of a local file.
pub(crate) fn copy_as_after_a_crash(file: &str, to: &Path) {
    let file = file.strip_prefix("sqlite://").unwrap();
    for ending in ["", "-wal"] {
        let name = Path::new(file).file_name().unwrap().to_str().unwrap();
        std::fs::copy(format!("{file}{ending}"), to.join(format!("{name}{ending}"))).unwrap();
    }
}

#[actix_rt::test]
async fn requests_that_die_with_the_gateway_leave_rows_with_what_was_counted() {
    for database in TestDatabase::each().await {
        let (file, url) = (local_file(&database), database.url.clone());
        let gate = Rc::new(Semaphore::new(0));
        let shared = gate.clone();
        let simulated = ScriptedNode::start(move |_| {
            let (one, two) = (chunk(chat_event("one")), chunk(chat_event("two")));
            let pass = Step::Pass(shared.clone());
            let later = Step::Pass(shared.clone());
            vec![stream_head(), one, pass, two, later, chunk(CHAT_END), last_chunk()]
        })
        .await;
        let nodes = vec![node("a", simulated.url(), 1)];
        let app = spawn_app_with(nodes.clone(), database, |_| {}).await;
        let key = app.user_with("ann", json!({"requests_per_minute": 2})).await;
        let mut running = app.open_stream(&key, &stream_body("llama3.2", "hello")).await;
        running.next().await.unwrap();
        // Progress is noted a second later at the earliest.
        let_pass(Duration::from_millis(1100)).await;
        gate.add_permits(1);
        running.next().await.unwrap();
        let queued = app.send_and_hold(&key, &chat_body("llama3.2", "hi")).await;
        let noted = operator(&file).await;
        wait_for("both are noted", async || {
            let progress = "SELECT count(*) FROM running WHERE row LIKE '%\"completion_tokens\":2%'";
            number(&noted, "SELECT count(*) FROM running").await == 2 && number(&noted, progress).await == 1
        })
        .await;
        noted.close().await.unwrap();

        let crashed = TestDatabase { url: url.clone(), folder: tempfile::tempdir().unwrap() };
        copy_as_after_a_crash(&file, crashed.folder.path());
        let crashed = match url.starts_with("sqlite") {
            true => {
                let url = format!("sqlite://{}", crashed.folder.path().join("gateway.db").display());
                TestDatabase { url, ..crashed }
            }
            false => crashed,
        };
        let after = spawn_app_with(nodes, crashed, |_| {}).await;

        let rows = after.rows_once(&key, 2).await;
        let (waiting, streaming) = (&rows[0], &rows[1]);
        for row in &rows {
            assert_eq!(row["status"], "interrupted", "{row}");
        }
        assert_eq!((&waiting["node"], &waiting["total_tokens"]), (&json!(null), &json!(0)));
        assert_eq!((&streaming["node"], &streaming["completion_tokens"]), (&json!("a"), &json!(2)));
        assert_eq!((&streaming["tokens_from"], &streaming["attempts"]), (&json!("counted"), &json!(1)));
        assert!(streaming["duration_ms"].as_u64().unwrap() >= 1100, "{streaming}");
        let refused = error_of(&after.chat(&key, "llama3.2", "hi").await, 429);
        assert_eq!(refused["code"], "rate_limit_exceeded", "a crash gives no admission back");
        after.stop().await;
        // The one that was copied goes on and ends well; whoever wrote first is believed.
        drop(queued);
        gate.add_permits(100);
        running.rest().await;
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_row_that_came_first_is_believed_and_no_request_has_two() {
    let database = TestDatabase::sqlite();
    let file = database.url.clone();
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], database, |_| {}).await;
    let key = app.user("ann").await;
    let id = app.chat(&key, "llama3.2", "hi").await.header("x-request-id").unwrap().to_owned();
    let row = app.rows(&key).await;
    let database = app.stop().await;
    // A note that was left behind although its request has ended.
    let operator = operator(&file).await;
    let note = json!({"request_id": id, "user_id": "ann", "created_at_ms": 1, "day": 1, "model": "m", "endpoint": "e",
        "stream": false, "status": "interrupted", "prompt_tokens": 7, "completion_tokens": 7, "tokens_from": "counted",
        "attempts": 0, "queue_ms": 0, "duration_ms": 0});
    let blob = uuid::Uuid::parse_str(&id).unwrap().simple().to_string();
    operator.execute_unprepared(&format!("INSERT INTO running VALUES (x'{blob}', '{note}')")).await.unwrap();
    operator
        .execute_unprepared("INSERT INTO running VALUES (x'00000000000000000000000000000000', 'nonsense')")
        .await
        .unwrap();
    operator.close().await.unwrap();

    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], database, |_| {}).await;

    assert_eq!(app.rows(&key).await, row);
    app.stop().await;
}
