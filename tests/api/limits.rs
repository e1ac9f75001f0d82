//! Do both limits hold exactly, and does a refused client learn when to come back?
use futures_util::future::join_all;
use ollama_sim::{Fault, SimNode};
use serde_json::{Value, json};

use crate::admin::used_of;
use crate::harness::{
    ADMIN_KEY, Reply, TestApp, TestDatabase, chat_body, client, error_of, eventually, fast_node, node, spawn_app,
    spawn_app_with,
};

pub async fn app_with_node() -> (SimNode, TestApp) {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 4)]).await;
    (simulated, app)
}

/// A chat body with further fields.
pub fn body_with(prompt: &str, fields: Value) -> Value {
    let mut body = chat_body("llama3.2", prompt);
    for (key, value) in fields.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

pub async fn chat_with(app: &TestApp, key: &str, prompt: &str, fields: Value) -> Reply {
    app.post("/v1/chat/completions", key, body_with(prompt, fields)).await
}

/// The body of the last request that reached the node.
pub fn last_body(simulated: &SimNode) -> Value {
    serde_json::from_slice(&simulated.requests().last().unwrap().body).unwrap()
}

fn total_tokens(rows: &[Value]) -> u64 {
    rows.iter().map(|row| row["total_tokens"].as_u64().unwrap()).sum()
}

fn with_status<'a>(rows: &'a [Value], status: &str) -> Vec<&'a Value> {
    rows.iter().filter(|row| row["status"] == status).collect()
}

/// `(?i)try again in\s*(\d+(?:\.\d+)?)\s*(s|ms|seconds?)`, by which Codex finds the delay.
fn seconds_in_message(message: &str) -> Option<f64> {
    let lower = message.to_lowercase();
    let rest = lower.split_once("try again in")?.1.trim_start();
    let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
    let number: f64 = rest[..end].parse().ok()?;
    let unit: String = rest[end..].trim_start().chars().take_while(char::is_ascii_alphabetic).collect();
    match unit.as_str() {
        "s" | "second" | "seconds" => Some(number),
        "ms" => Some(number / 1000.0),
        _ => None,
    }
}

/// `^(\d+h)?(\d+m)?(\d+s)?(\d+ms)?$`, and not empty.
fn is_go_duration(text: &str) -> bool {
    let mut rest = text;
    for unit in ["h", "m", "s", "ms"] {
        let digits = rest.len() - rest.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
        let after = &rest[digits..];
        let is_unit = after.starts_with(unit) && !(unit == "m" && after.starts_with("ms"));
        if digits > 0 && is_unit {
            rest = &after[unit.len()..];
        }
    }
    !text.is_empty() && rest.is_empty()
}

/// Checks what every 429 by a limit carries; the seconds after which it says to come back.
#[track_caller]
pub fn assert_says_when(reply: &Reply, code: &str, family: &str) -> u64 {
    let error = error_of(reply, 429);
    assert_eq!((&error["type"], &error["code"]), (&json!("rate_limit_error"), &json!(code)), "{error}");
    let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    let millis: u64 = reply.header("retry-after-ms").unwrap().parse().unwrap();
    assert!(seconds >= 1 && millis.div_ceil(1000).max(1) == seconds, "{seconds} s, {millis} ms");
    assert_eq!(seconds_in_message(error["message"].as_str().unwrap()), Some(seconds as f64), "{error}");
    for part in ["limit", "remaining", "reset"] {
        assert!(reply.header(&format!("x-ratelimit-{part}-{family}")).is_some(), "{part}");
    }
    assert!(is_go_duration(reply.header(&format!("x-ratelimit-reset-{family}")).unwrap()));
    assert_eq!(reply.header("x-should-retry"), (code == "insufficient_quota").then_some("false"));
    seconds
}

#[test]
fn the_matchers_of_these_tests_match_what_clients_match() {
    for good in ["1s", "6m0s", "250ms", "2h5m0s", "59s", "0ms"] {
        assert!(is_go_duration(good), "{good}");
    }
    for bad in ["", "1.5s", "s", "1", "1s1m", "1d", "-1s", "1ms1s"] {
        assert!(!is_go_duration(bad), "{bad}");
    }
    assert_eq!(seconds_in_message("Please TRY again in 1.5 seconds."), Some(1.5));
    assert_eq!(seconds_in_message("try again in 20ms"), Some(0.02));
    assert_eq!(seconds_in_message("try again soon"), None);
}

#[actix_rt::test]
async fn of_many_requests_at_once_exactly_as_many_as_the_limit_get_in() {
    for database in TestDatabase::each().await {
        let simulated = fast_node().await;
        let app = spawn_app_with(vec![node("a", simulated.url(), 4)], database, |_| {}).await;
        let key = app.user_with("ann", json!({"requests_per_minute": 10})).await;

        let replies = join_all((0..60).map(|_| app.chat(&key, "llama3.2", "hi"))).await;

        let (good, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
        assert_eq!((good.len(), refused.len()), (10, 50));
        for reply in refused {
            let seconds = assert_says_when(reply, "rate_limit_exceeded", "requests");
            assert!(seconds <= 60, "{seconds}");
            assert_eq!(reply.header("x-ratelimit-limit-requests"), Some("10"));
            assert_eq!(reply.header("x-ratelimit-remaining-requests"), Some("0"));
        }
        assert_eq!(simulated.requests().len(), 10);
        let rows = app.rows(&key).await;
        // Ten of a minute have rows of their own; tests/hostile looks at the others, which share a row when the minute of the
        // clock ends. That may be now.
        let (alone, shared): (Vec<_>, Vec<_>) =
            with_status(&rows, "refused").into_iter().partition(|row| row["model"] != "");
        assert_eq!(with_status(&rows, "completed").len(), 10);
        let minutes: Vec<&str> = alone.iter().map(|row| &row["created_at"].as_str().unwrap()[..16]).collect();
        let in_minute = |minute: &&str| minutes.iter().filter(|other| *other == minute).count();
        // Of fifty in at most two minutes, one minute has its ten.
        assert_eq!(minutes.iter().map(in_minute).max(), Some(10), "{minutes:?}");
        assert!(alone.len() <= 20 && shared.len() < 2, "{rows:?}");
        for row in alone {
            assert_eq!((&row["total_tokens"], &row["node"]), (&json!(0), &json!(null)));
            assert_eq!((&row["code"], &row["limit"]), (&json!("rate_limit_exceeded"), &json!("requests_per_minute")));
            assert_eq!((&row["http_status"], &row["requests"]), (&json!(429), &json!(1)));
            assert!(replies.iter().any(|reply| row["request_id"] == reply.header("x-request-id").unwrap()));
        }
        app.stop().await;
    }
}

#[actix_rt::test]
async fn what_is_left_of_the_minute_falls_by_one_with_every_kind_of_request() {
    let (_simulated, app) = app_with_node().await;
    let key = app.user_with("ann", json!({"requests_per_minute": 5})).await;
    let requests = [
        ("/v1/chat/completions", chat_body("llama3.2", "hi")),
        ("/v1/chat/completions", body_with("hi", json!({"stream": true}))),
        ("/v1/completions", json!({"model": "llama3.2", "prompt": "hi"})),
        ("/v1/completions", json!({"model": "llama3.2", "prompt": "hi", "stream": true})),
        ("/v1/embeddings", json!({"model": "all-minilm", "input": "hi"})),
    ];
    for (left, (path, body)) in ["4", "3", "2", "1", "0"].into_iter().zip(requests) {
        let reply = app.post(path, &key, body).await;

        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        assert_eq!(reply.header("x-ratelimit-limit-requests"), Some("5"));
        assert_eq!(reply.header("x-ratelimit-remaining-requests"), Some(left), "{path}");
        assert!(is_go_duration(reply.header("x-ratelimit-reset-requests").unwrap()));
        assert_eq!(reply.header("x-ratelimit-limit-tokens"), None);
    }
    assert_says_when(&app.chat(&key, "llama3.2", "hi").await, "rate_limit_exceeded", "requests");
    app.stop().await;
}

#[actix_rt::test]
async fn tokens_of_a_day_never_go_over_however_many_requests_race() {
    for database in TestDatabase::each().await {
        let simulated = fast_node().await;
        let app = spawn_app_with(vec![node("a", simulated.url(), 4)], database, |_| {}).await;
        let key = app.user_with("ann", json!({"tokens_per_day": 5000})).await;
        let ask = |turn: usize| {
            let fields = match turn % 4 {
                0 => json!({}),
                1 => json!({"stream": true}),
                2 => json!({"max_tokens": 250}),
                _ => json!({"max_completion_tokens": 100, "stream": true}),
            };
            chat_with(&app, &key, "[[n=300]] and so on", fields)
        };

        for round in 0..4 {
            let replies = join_all((0..20).map(ask)).await;
            let good = replies.iter().filter(|reply| reply.status == 200).count();
            assert!(good > 0 || round > 0, "the first round lets somebody in");
            for reply in replies.iter().filter(|reply| reply.status != 200) {
                let code = error_of(reply, 429)["code"].as_str().unwrap().to_owned();
                assert_says_when(reply, &code, "tokens");
            }
            let used = total_tokens(&app.rows(&key).await);
            assert!(used <= 5000, "{used} in round {round}");
        }

        // One after the other they use the day up: to less than the smallest request needs, and not one token over.
        let mut last = ask(0).await;
        while last.status == 200 {
            last = ask(0).await;
        }
        assert_says_when(&last, "insufficient_quota", "tokens");
        let rows = app.rows(&key).await;
        let used = total_tokens(&rows);
        assert!((4700..=5000).contains(&used), "{used}");
        let limits = app.get("/admin/users/ann/limits", ADMIN_KEY).await.json();
        assert_eq!(limits["used"]["tokens_today"], used);
        assert_eq!((&limits["used"]["tokens_reserved"], &limits["left"]["tokens"]), (&json!(0), &json!(5000 - used)));
        app.stop().await;
    }
}

#[actix_rt::test]
async fn tokens_that_are_only_reserved_are_worth_waiting_for_and_come_back_when_the_client_leaves() {
    let (simulated, app) = app_with_node().await;
    let key = app.user_with("ann", json!({"tokens_per_day": 1000})).await;
    simulated.set_fault(Some(Fault::HangBeforeHead));
    let (url, held) = (app.url("/v1/chat/completions"), body_with("hi", json!({"max_tokens": 800})).to_string());
    let bearer = key.clone();
    let holding = actix_rt::spawn(async move { drop(client().post(url).bearer_auth(bearer).send_body(held).await) });
    eventually("the first request is at the node", || simulated.stats().in_flight == 1).await;
    simulated.set_fault(None);

    let refused = chat_with(&app, &key, "hi", json!({"max_tokens": 500})).await;

    let seconds = assert_says_when(&refused, "rate_limit_exceeded", "tokens");
    assert!(seconds <= 5, "{seconds}");
    holding.abort();
    eventually("the node sees the client leave", || simulated.stats().in_flight == 0).await;
    let limits = app.get("/admin/users/ann/limits", ADMIN_KEY).await.json();
    assert_eq!(limits["used"]["tokens_reserved"], 0);
    assert_eq!(chat_with(&app, &key, "hi", json!({"max_tokens": 500})).await.status, 200);
    app.stop().await;
}

#[actix_rt::test]
async fn requests_that_are_refused_do_not_count() {
    for database in TestDatabase::each().await {
        let simulated = fast_node().await;
        let app = spawn_app_with(vec![node("a", simulated.url(), 4)], database, |_| {}).await;
        let key = app.user_with("ann", json!({"requests_per_minute": 3, "tokens_per_day": 1000})).await;
        for _ in 0..5 {
            error_of(&chat_with(&app, &key, "hi", json!({"max_tokens": 5000})).await, 429);
            error_of(&app.chat(&key, "no-such-model", "hi").await, 404);
            error_of(&app.post("/v1/chat/completions", &key, json!([])).await, 400);
        }

        let limits = app.get("/admin/users/ann/limits", ADMIN_KEY).await.json();
        assert_eq!(limits["used"], used_of(0, json!(0)));
        assert_eq!(with_status(&app.rows(&key).await, "refused").len(), 5);
        // Nor does a restart make them count.
        let app = app.restart().await;
        for _ in 0..3 {
            assert_eq!(chat_with(&app, &key, "hi", json!({"max_tokens": 5})).await.status, 200);
        }
        for _ in 0..2 {
            let refused = chat_with(&app, &key, "hi", json!({"max_tokens": 5})).await;
            assert_says_when(&refused, "rate_limit_exceeded", "requests");
        }
        app.stop().await;
    }
}

#[actix_rt::test]
async fn both_limits_outlast_a_restart() {
    for database in TestDatabase::each().await {
        let simulated = fast_node().await;
        let app = spawn_app_with(vec![node("a", simulated.url(), 4)], database, |_| {}).await;
        let frequent = app.user_with("frequent", json!({"requests_per_minute": 3})).await;
        let greedy = app.user_with("greedy", json!({"tokens_per_day": 400})).await;
        for _ in 0..2 {
            assert_eq!(app.chat(&frequent, "llama3.2", "hi").await.status, 200);
        }
        assert_eq!(chat_with(&app, &greedy, "[[n=200]]", json!({"max_tokens": 200})).await.status, 200);
        let before = app.get("/admin/users/greedy/limits", ADMIN_KEY).await.json();
        assert!(before["used"]["tokens_today"].as_u64().unwrap() > 200);

        let app = app.restart().await;

        assert_eq!(app.get("/admin/users/greedy/limits", ADMIN_KEY).await.json(), before);
        let refused = chat_with(&app, &greedy, "[[n=200]]", json!({"max_tokens": 200})).await;
        assert_says_when(&refused, "insufficient_quota", "tokens");
        let last = app.chat(&frequent, "llama3.2", "hi").await;
        assert_eq!((last.status.as_u16(), last.header("x-ratelimit-remaining-requests")), (200, Some("0")));
        assert_says_when(&app.chat(&frequent, "llama3.2", "hi").await, "rate_limit_exceeded", "requests");
        app.stop().await;
    }
}

#[actix_rt::test]
async fn limits_of_one_user_are_no_concern_of_another() {
    let (_simulated, app) = app_with_node().await;
    let limits = json!({"requests_per_minute": 20, "tokens_per_day": 100_000});
    let (ann, bob) = (app.user_with("ann", limits.clone()).await, app.user_with("bob", limits).await);

    let both = (0..60).flat_map(|_| [app.chat(&ann, "llama3.2", "hi"), app.chat(&bob, "llama3.2", "hi")]);
    join_all(both).await;

    for key in [ann, bob] {
        assert_eq!(with_status(&app.rows(&key).await, "completed").len(), 20);
    }
    app.stop().await;
}

#[actix_rt::test]
async fn a_changed_limit_holds_from_the_next_request_on() {
    let (_simulated, app) = app_with_node().await;
    let key = app.user_with("ann", json!({"requests_per_minute": 1, "tokens_per_day": 10_000})).await;
    let change =
        async |limits: Value| assert_eq!(app.put("/admin/users/ann/limits", ADMIN_KEY, limits).await.status, 200);
    let status = async || app.chat(&key, "llama3.2", "hi").await.status.as_u16();

    assert_eq!((status().await, status().await), (200, 429));
    change(json!({"requests_per_minute": 2})).await;
    assert_eq!((status().await, status().await), (200, 429));
    change(json!({"requests_per_minute": null})).await;
    assert_eq!((status().await, status().await), (200, 200));
    change(json!({"tokens_per_day": 1})).await;
    assert_eq!(status().await, 429);
    change(json!({"tokens_per_day": null})).await;
    assert_eq!(status().await, 200);
    change(json!({"requests_per_minute": 0})).await;
    let refused = app.chat(&key, "llama3.2", "hi").await;
    assert_says_when(&refused, "rate_limit_exceeded", "requests");
    app.stop().await;
}

#[actix_rt::test]
async fn a_prompt_that_fills_the_day_by_itself_is_refused() {
    let (simulated, app) = app_with_node().await;
    let key = app.user_with("ann", json!({"tokens_per_day": 200})).await;

    let reply = app.chat(&key, "llama3.2", &"word ".repeat(100)).await;

    assert_says_when(&reply, "insufficient_quota", "tokens");
    assert!(simulated.requests().is_empty());
    app.stop().await;
}

/// A node that never ends an answer which it has begun.
pub async fn endless_node() -> SimNode {
    let simulated = fast_node().await;
    simulated.set_fault(Some(Fault::HangAfter(3)));
    simulated
}

#[actix_rt::test]
async fn no_more_requests_run_or_wait_at_a_time_than_may() {
    let simulated = endless_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    let key = app.user_with("ann", json!({"max_concurrency": 2})).await;
    let stream = app.open_stream(&key, &body_with("hi", json!({"stream": true}))).await;
    let waiting = app.send_and_hold(&key, &chat_body("llama3.2", "hi")).await;
    eventually("one waits", || app.dispatcher.read(|scheduler| scheduler.queued()) == 1).await;

    let refused = app.chat(&key, "llama3.2", "hi").await;

    let error = error_of(&refused, 429);
    assert_eq!(error["code"], "rate_limit_exceeded");
    assert_eq!((refused.header("retry-after"), refused.header("x-should-retry")), (Some("1"), None));
    assert_eq!(seconds_in_message(error["message"].as_str().unwrap()), Some(1.0));
    let limits = app.get("/admin/users/ann/limits", ADMIN_KEY).await.json();
    assert_eq!((&limits["max_concurrency"], &limits["used"]["concurrency"]), (&json!(2), &json!(2)));
    drop((stream, waiting));
    simulated.set_fault(None);
    eventually("both are gone", || {
        app.dispatcher.read(|scheduler| (scheduler.in_flight(), scheduler.queued())) == (0, 0)
    })
    .await;
    assert_eq!(app.chat(&key, "llama3.2", "hi").await.status, 200);
    let limits = app.get("/admin/users/ann/limits", ADMIN_KEY).await.json();
    assert_eq!(limits["used"]["concurrency"], 0);
    app.stop().await;
}

#[actix_rt::test]
async fn tokens_of_a_minute_never_go_over_and_outlast_a_restart() {
    for database in TestDatabase::each().await {
        let simulated = fast_node().await;
        let app = spawn_app_with(vec![node("a", simulated.url(), 4)], database, |_| {}).await;
        let key = app.user_with("ann", json!({"tokens_per_minute": 2000, "tokens_per_day": 100_000})).await;

        let replies = join_all((0..30).map(|_| chat_with(&app, &key, "[[n=300]]", json!({"max_tokens": 250})))).await;

        let refused: Vec<_> = replies.iter().filter(|reply| reply.status != 200).collect();
        assert!((1..30).contains(&refused.len()), "{}", refused.len());
        for reply in refused {
            assert!(assert_says_when(reply, "rate_limit_exceeded", "tokens") <= 60);
            assert_eq!(reply.header("x-ratelimit-limit-tokens"), Some("2000"));
        }
        let used = total_tokens(&app.rows(&key).await);
        assert!(used <= 2000, "{used}");
        let app = app.restart().await;
        let limits = app.get("/admin/users/ann/limits", ADMIN_KEY).await.json();
        assert_eq!(limits["used"]["tokens_last_minute"], used);
        assert_eq!(limits["left"]["tokens_this_minute"], 2000 - used);
        let last = chat_with(&app, &key, "hi", json!({"max_tokens": 1900})).await;
        assert!(assert_says_when(&last, "rate_limit_exceeded", "tokens") > 5, "nothing of it is only reserved");
        // No minute has room for this one.
        let never = chat_with(&app, &key, "hi", json!({"max_tokens": 2000})).await;
        assert_says_when(&never, "insufficient_quota", "tokens");
        app.stop().await;
    }
}
