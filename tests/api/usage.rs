//! Is every request written down once, truly, and readable by its user alone?
use std::collections::BTreeSet;

use ollama_sim::SimNode;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::harness::{ADMIN_KEY, TestApp, TestDatabase, error_of, fast_node, node, spawn_app, spawn_app_with};

const FIELDS: [&str; 23] = [
    "attempts",
    "code",
    "completion_tokens",
    "created_at",
    "decode_ms",
    "duration_ms",
    "endpoint",
    "group_id",
    "http_status",
    "limit",
    "load_ms",
    "model",
    "node",
    "prefill_ms",
    "prompt_tokens",
    "queue_ms",
    "request_id",
    "requests",
    "status",
    "stream",
    "time_to_first_token_ms",
    "tokens_from",
    "total_tokens",
];
const TOKENS: [&str; 3] = ["prompt_tokens", "completion_tokens", "total_tokens"];

async fn app_on(database: TestDatabase) -> (SimNode, TestApp) {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 4)], database, |_| {}).await;
    (simulated, app)
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn created(row: &Value) -> OffsetDateTime {
    OffsetDateTime::parse(row["created_at"].as_str().unwrap(), &Rfc3339).unwrap()
}

fn ids(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["request_id"].as_str().unwrap()).collect()
}

/// The sums that a summary over these rows must show: by model, and over all.
fn sums(rows: &[Value]) -> Value {
    let counted: Vec<&Value> = rows.iter().filter(|row| row["status"] != "refused").collect();
    let sum = |model: Option<&str>| {
        let rows = || counted.iter().filter(|row| model.is_none_or(|model| row["model"] == model));
        let mut sum = json!({"requests": rows().count()});
        for field in TOKENS {
            sum[field] = rows().map(|row| row[field].as_u64().unwrap()).sum::<u64>().into();
        }
        sum
    };
    let models: BTreeSet<&str> = counted.iter().map(|row| row["model"].as_str().unwrap()).collect();
    let by_model: Vec<(&str, Value)> = models.into_iter().map(|model| (model, sum(Some(model)))).collect();
    json!({"by_model": by_model, "total": sum(None)})
}

/// A summary in the form of [`sums`].
fn in_order(summary: &Value) -> Value {
    let mut by_model: Vec<(&str, Value)> = Vec::new();
    for entry in summary["data"].as_array().unwrap() {
        assert_eq!(keys(entry), ["completion_tokens", "model", "prompt_tokens", "requests", "total_tokens"]);
        let mut sum = entry.clone();
        sum.as_object_mut().unwrap().remove("model");
        by_model.push((entry["model"].as_str().unwrap(), sum));
    }
    by_model.sort_by_key(|(model, _)| *model);
    json!({"by_model": by_model, "total": summary["total"]})
}

/// Requests of several kinds: two models, three routes, streamed and not, and one that is refused.
async fn some_requests(app: &TestApp, key: &str) {
    for turn in 0..3 {
        app.chat(key, "llama3.2", &format!("[[n={turn}1]] hello")).await;
        app.chat(key, "llama3.2:1b", "hi").await;
        let stream = json!({"model": "llama3.2:1b", "prompt": "hi", "stream": true});
        app.post("/v1/completions", key, stream).await;
        app.post("/v1/embeddings", key, json!({"model": "all-minilm", "input": "hi"})).await;
    }
    app.put("/admin/users/ann/limits", ADMIN_KEY, json!({"requests_per_minute": 0})).await;
    error_of(&app.chat(key, "llama3.2", "hi").await, 429);
    app.put("/admin/users/ann/limits", ADMIN_KEY, json!({"requests_per_minute": null})).await;
}

#[actix_rt::test]
async fn a_row_has_the_documented_fields_with_what_the_answer_said() {
    for database in TestDatabase::each().await {
        let (_simulated, app) = app_on(database).await;
        let key = app.user("ann").await;
        let messages = json!([{"role": "user", "content": "hi"}]);
        for (endpoint, stream, body) in [
            ("/v1/chat/completions", false, json!({"model": "llama3.2", "messages": messages})),
            (
                "/v1/chat/completions",
                true,
                json!({"model": "llama3.2", "messages": messages, "stream": true, "stream_options": {"include_usage": true}}),
            ),
            ("/v1/completions", false, json!({"model": "llama3.2:1b", "prompt": "hi"})),
            ("/v1/embeddings", false, json!({"model": "all-minilm", "input": ["one", "two"]})),
        ] {
            let before = OffsetDateTime::now_utc();
            let reply = app.post(endpoint, &key, body.clone()).await;
            let after = OffsetDateTime::now_utc();
            assert_eq!(reply.status, 200, "{}", reply.text());
            let answer: Value = if stream {
                let usage = reply.text().split("\n\n").find(|event| event.contains("\"usage\":{")).unwrap();
                serde_json::from_str(usage.strip_prefix("data: ").unwrap()).unwrap()
            } else {
                reply.json()
            };

            let rows = app.rows(&key).await;

            let row = &rows[0];
            assert_eq!(keys(row), FIELDS);
            assert_eq!(row["request_id"], reply.header("x-request-id").unwrap());
            assert_eq!((&row["model"], &row["endpoint"]), (&body["model"], &json!(endpoint)));
            assert_eq!((&row["stream"], &row["status"]), (&json!(stream), &json!("completed")));
            assert_eq!(row["node"], reply.header("x-gateway-node").unwrap());
            assert_eq!((&row["tokens_from"], &row["attempts"]), (&json!("reported"), &json!(1)));
            assert_eq!(row["queue_ms"].as_u64().unwrap().to_string(), reply.header("x-gateway-queue-ms").unwrap());
            for field in TOKENS {
                assert_eq!(row[field], *answer["usage"].get(field).unwrap_or(&json!(0)), "{endpoint} {field}");
            }
            let (first, whole) =
                (row["time_to_first_token_ms"].as_u64().unwrap(), row["duration_ms"].as_u64().unwrap());
            assert!(first <= whole && whole <= (after - before).whole_milliseconds() as u64 + 1, "{row}");
            assert!(row["created_at"].as_str().unwrap().ends_with('Z'), "{row}");
            let slack = time::Duration::milliseconds(1);
            assert!(
                created(row) >= before - slack && created(row) <= after,
                "{row} is not between {before} and {after}"
            );
        }
        app.stop().await;
    }
}

#[actix_rt::test]
async fn rows_are_paged_newest_first_without_loss_or_repetition() {
    for database in TestDatabase::each().await {
        let (_simulated, app) = app_on(database).await;
        let key = app.user("ann").await;
        let mut sent = Vec::new();
        for _ in 0..8 {
            sent.insert(0, app.chat(&key, "llama3.2", "hi").await.header("x-request-id").unwrap().to_owned());
        }
        for (path, key) in [("/v1/usage", key.as_str()), ("/admin/users/ann/usage", ADMIN_KEY)] {
            let (mut seen, mut sizes, mut after) = (Vec::new(), Vec::new(), String::new());
            loop {
                let page = app.get(&format!("{path}?limit=3{after}"), key).await.json();
                let rows = page["data"].as_array().unwrap();
                assert!(rows.iter().rev().map(created).is_sorted());
                sizes.push(rows.len());
                seen.extend(ids(rows).into_iter().map(str::to_owned));
                let Some(next) = page["next"].as_str() else { break };
                assert!(next.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{next}");
                after = format!("&after={next}");
            }
            assert_eq!((&seen, sizes.as_slice()), (&sent, &[3, 3, 2][..]), "{path}");
        }
        // A page that ends with the last row promises no further one.
        assert!(app.get("/v1/usage?limit=8", &key).await.json()["next"].is_null());
        app.stop().await;
    }
}

#[actix_rt::test]
async fn rows_that_come_between_two_pages_move_nothing() {
    let (_simulated, app) = app_on(TestDatabase::sqlite()).await;
    let key = app.user("ann").await;
    for _ in 0..4 {
        app.chat(&key, "llama3.2", "hi").await;
    }
    let all = app.rows(&key).await;
    let first = app.get("/v1/usage?limit=2", &key).await.json();

    app.chat(&key, "llama3.2", "hi").await;
    let second = app.get(&format!("/v1/usage?limit=2&after={}", first["next"].as_str().unwrap()), &key).await.json();

    assert_eq!(first["data"].as_array().unwrap()[..], all[..2]);
    assert_eq!(second["data"].as_array().unwrap()[..], all[2..]);
    app.stop().await;
}

#[actix_rt::test]
async fn pages_outside_the_bounds_and_foreign_cursors_are_400() {
    let (_simulated, app) = app_on(TestDatabase::sqlite()).await;
    let key = app.user("ann").await;
    app.user("bob").await;
    let of_users = app.get("/admin/users?limit=1", ADMIN_KEY).await.json()["next"].as_str().unwrap().to_owned();
    for (query, param) in [
        ("limit=0".to_owned(), json!("limit")),
        ("limit=1001".to_owned(), json!("limit")),
        ("limit=-1".to_owned(), json!(null)),
        ("limit=x".to_owned(), json!(null)),
        ("user=bob".to_owned(), json!("user")),
        ("after=".to_owned(), json!("after")),
        ("after=AA".to_owned(), json!("after")),
        ("after=%27%20OR%201=1".to_owned(), json!("after")),
        (format!("after={of_users}"), json!("after")),
    ] {
        let reply = app.get(&format!("/v1/usage?{query}"), &key).await;
        assert_eq!(error_of(&reply, 400)["param"], param, "{query}");
    }
    for limit in [1, 1000] {
        let page = app.get(&format!("/v1/usage?limit={limit}"), &key).await;
        assert_eq!(page.json(), json!({"object": "list", "data": [], "next": null}));
    }
    app.stop().await;
}

#[actix_rt::test]
async fn a_page_has_100_rows_unless_asked_otherwise() {
    let (_simulated, app) = app_on(TestDatabase::sqlite()).await;
    let key = app.user("ann").await;
    futures_util::future::join_all((0..101).map(|_| app.chat(&key, "llama3.2", "hi"))).await;

    let page = app.get("/v1/usage", &key).await.json();

    assert_eq!(page["data"].as_array().unwrap().len(), 100);
    let last = app.get(&format!("/v1/usage?after={}", page["next"].as_str().unwrap()), &key).await.json();
    assert_eq!((last["data"].as_array().unwrap().len(), &last["next"]), (1, &json!(null)));
    app.stop().await;
}

#[actix_rt::test]
async fn sums_agree_with_the_rows_for_the_user_and_for_the_admin() {
    for database in TestDatabase::each().await {
        let (_simulated, app) = app_on(database).await;
        let key = app.user("ann").await;
        assert_eq!(
            app.get("/v1/usage/summary", &key).await.json(),
            json!({"data": [], "total": {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}})
        );
        some_requests(&app, &key).await;

        let rows = app.rows(&key).await;
        let summary = app.get("/v1/usage/summary", &key).await.json();
        let seen_by_admin = app.get("/admin/users/ann/usage", ADMIN_KEY).await.json();

        assert_eq!(rows.len(), 13);
        assert_eq!(keys(&summary), ["data", "total"]);
        assert_eq!(in_order(&summary), sums(&rows));
        assert_eq!(summary["total"]["requests"], 12);
        let sizes: Vec<u64> =
            summary["data"].as_array().unwrap().iter().map(|sum| sum["total_tokens"].as_u64().unwrap()).collect();
        assert!(sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
        assert_eq!(keys(&seen_by_admin), ["data", "next", "object", "summary"]);
        assert_eq!((&seen_by_admin["data"], &seen_by_admin["summary"]), (&json!(rows), &summary));
        // The sums are over all rows, not over the page.
        let one = app.get("/admin/users/ann/usage?limit=1", ADMIN_KEY).await.json();
        assert_eq!((one["data"].as_array().unwrap().len(), &one["summary"]), (1, &summary));
        app.stop().await;
    }
}

#[actix_rt::test]
async fn sums_over_a_span_of_time_hold_its_first_moment_and_not_its_end() {
    for database in TestDatabase::each().await {
        let (_simulated, app) = app_on(database).await;
        let key = app.user("ann").await;
        some_requests(&app, &key).await;
        let rows = app.rows(&key).await;
        let (older, newer) = (created(&rows[9]), created(&rows[4]));
        let text = |moment: OffsetDateTime| moment.format(&Rfc3339).unwrap();
        let elsewhere = older.to_offset(time::UtcOffset::from_hms(5, 30, 0).unwrap());
        for (query, from, to) in [
            (format!("from={}", text(older)), Some(older), None),
            (format!("from={}", text(elsewhere).replace('+', "%2B")), Some(older), None),
            (format!("to={}", text(newer)), None, Some(newer)),
            (format!("from={}&to={}", text(older), text(newer)), Some(older), Some(newer)),
            (format!("from={0}&to={0}", text(newer)), Some(newer), Some(newer)),
            (format!("from={}&to={}", text(newer), text(older)), Some(newer), Some(older)),
            ("from=2020-01-01".to_owned(), None, None),
            ("to=2020-01-01".to_owned(), None, Some(OffsetDateTime::UNIX_EPOCH)),
            ("from=2999-12-31&to=3000-01-01T00:00:00Z".to_owned(), None, Some(OffsetDateTime::UNIX_EPOCH)),
        ] {
            let summary = app.get(&format!("/v1/usage/summary?{query}"), &key).await;

            let is_inside =
                |row: &&Value| from.is_none_or(|from| created(row) >= from) && to.is_none_or(|to| created(row) < to);
            let inside: Vec<Value> = rows.iter().filter(is_inside).cloned().collect();
            assert_eq!(in_order(&summary.json()), sums(&inside), "{query}");
        }
        app.stop().await;
    }
}

#[actix_rt::test]
async fn spans_that_are_none_are_400() {
    let (_simulated, app) = app_on(TestDatabase::sqlite()).await;
    let key = app.user("ann").await;
    for (query, param) in [
        ("from=yesterday", json!("from")),
        ("from=", json!("from")),
        ("from=2026-13-01", json!("from")),
        ("from=2026-02-30", json!("from")),
        ("from=1700000000", json!("from")),
        ("to=2026-01-01T00:00:00", json!("to")),
        ("to=99999-01-01", json!("to")),
        ("since=2026-01-01", json!("since")),
        ("limit=3", json!("limit")),
    ] {
        let reply = app.get(&format!("/v1/usage/summary?{query}"), &key).await;
        assert_eq!(error_of(&reply, 400)["param"], param, "{query}");
    }
    app.stop().await;
}

#[actix_rt::test]
async fn a_user_sees_own_rows_only_even_with_the_cursor_of_another() {
    for database in TestDatabase::each().await {
        let (_simulated, app) = app_on(database).await;
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        for _ in 0..3 {
            app.chat(&ann, "llama3.2", "of ann").await;
            app.chat(&bob, "llama3.2:1b", "of bob").await;
        }
        let of_ann: BTreeSet<String> = ids(&app.rows(&ann).await).into_iter().map(str::to_owned).collect();
        let of_bob: BTreeSet<String> = ids(&app.rows(&bob).await).into_iter().map(str::to_owned).collect();

        assert_eq!((of_ann.len(), of_bob.len()), (3, 3));
        assert!(of_ann.is_disjoint(&of_bob));
        let summary = app.get("/v1/usage/summary", &ann).await.json();
        assert_eq!((summary["data"].as_array().unwrap().len(), &summary["data"][0]["model"]), (1, &json!("llama3.2")));
        let cursor = app.get("/v1/usage?limit=1", &bob).await.json()["next"].as_str().unwrap().to_owned();
        let page = app.get(&format!("/v1/usage?after={cursor}"), &ann).await.json();
        let seen = ids(page["data"].as_array().unwrap()).into_iter().map(str::to_owned).collect();
        assert!(of_ann.is_superset(&seen), "{seen:?}");
        app.stop().await;
    }
}

#[actix_rt::test]
async fn rows_and_sums_outlast_a_restart() {
    for database in TestDatabase::each().await {
        let (_simulated, app) = app_on(database).await;
        let key = app.user("ann").await;
        some_requests(&app, &key).await;
        // Stopped at once: what is not yet written is written on the way out.
        let last = app.chat(&key, "llama3.2", "hi").await.header("x-request-id").unwrap().to_owned();

        let app = app.restart().await;

        let rows = app.rows(&key).await;
        assert_eq!((rows.len(), &rows[0]["request_id"]), (14, &json!(last)));
        assert_eq!(in_order(&app.get("/v1/usage/summary", &key).await.json()), sums(&rows));
        app.stop().await;
    }
}

#[actix_rt::test]
async fn the_usage_of_somebody_who_never_asked_anything_is_empty_and_of_nobody_is_404() {
    let app = spawn_app(vec![node("gone", "http://127.0.0.1:1".to_owned(), 1)]).await;
    app.user("ann").await;

    let usage = app.get("/admin/users/ann/usage", ADMIN_KEY).await.json();

    assert_eq!((&usage["data"], &usage["next"]), (&json!([]), &json!(null)));
    assert_eq!(usage["summary"]["total"]["requests"], 0);
    error_of(&app.get("/admin/users/bob/usage", ADMIN_KEY).await, 404);
    app.stop().await;
}
