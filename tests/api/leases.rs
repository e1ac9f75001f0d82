//! Do several gateways on one Postgres keep limits together, whatever becomes of one of them or of Postgres?
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use ollama_sim::{Fault, SimConfig, SimNode};
use sea_orm::{ConnectionTrait, Database, DatabaseBackend, DatabaseConnection, Statement};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::harness::{
    ADMIN_KEY, PATIENCE, Reply, TestApp, TestDatabase, chat_body, error_of, fast_node, let_pass, node, spawn_app_with,
    stream_body, wait_long_for,
};

/// The way to Postgres, which can be cut: connections end, and new ones are refused.
struct Wire {
    address: String,
    is_cut: Rc<Cell<bool>>,
    open: Rc<RefCell<CancellationToken>>,
}

impl Wire {
    async fn to(postgres: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (is_cut, open) = (Rc::new(Cell::new(false)), Rc::new(RefCell::new(CancellationToken::new())));
        let (postgres, cut, until) = (postgres.to_owned(), is_cut.clone(), open.clone());
        actix_rt::spawn(async move {
            loop {
                let (mut from, _) = listener.accept().await.unwrap();
                if cut.get() {
                    continue;
                }
                let (postgres, ended) = (postgres.clone(), until.borrow().clone());
                actix_rt::spawn(async move {
                    let mut to = TcpStream::connect(postgres).await.unwrap();
                    tokio::select! {
                        () = ended.cancelled() => {}
                        _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
                    }
                });
            }
        });
        Self { address, is_cut, open }
    }

    fn cut(&self) {
        self.is_cut.set(true);
        self.open.borrow().cancel();
    }

    fn mend(&self) {
        *self.open.borrow_mut() = CancellationToken::new();
        self.is_cut.set(false);
    }
}

/// A gateway on a database, over a wire of its own.
async fn gateway(simulated: &SimNode, mut database: TestDatabase, lease_seconds: u64, percent: u8) -> (TestApp, Wire) {
    let (before, server) = database.url.split_once('@').unwrap();
    let (server, name) = server.split_once('/').unwrap();
    let wire = Wire::to(server).await;
    database.url = format!("{before}@{}/{name}", wire.address);
    let app = spawn_app_with(vec![node("a", simulated.url(), 16)], database, |config| {
        config.database.lease_seconds = lease_seconds;
        config.database.lease_percent = percent;
    });
    (app.await, wire)
}

struct Two {
    operator: DatabaseConnection,
    simulated: SimNode,
    first: TestApp,
    first_wire: Wire,
    second: TestApp,
    second_wire: Wire,
    key: String,
}

impl Two {
    /// Two gateways, and a user with these limits whom both know; `None` without Postgres.
    async fn with(limits: Value, lease_seconds: u64) -> Option<Self> {
        Self::with_leases(limits, lease_seconds, 5).await
    }

    async fn with_leases(limits: Value, lease_seconds: u64, percent: u8) -> Option<Self> {
        let database = TestDatabase::postgres().await?;
        let operator = Database::connect(&database.url).await.unwrap();
        let simulated = SimNode::start(SimConfig { slots: 16, ..SimConfig::warm() }).await.unwrap();
        let again = database.again();
        let (first, first_wire) = gateway(&simulated, database, lease_seconds, percent).await;
        let (second, second_wire) = gateway(&simulated, again, lease_seconds, percent).await;
        let key = first.user_with("ann", limits).await;
        let other = first.user_with("otto", json!({"requests_per_minute": 1000})).await;
        wait_long_for("both know the keys", async || second.get("/v1/models", &other).await.status == 200).await;
        wait_long_for("both share", async || ask(&second, &other, 1).await.status == 200).await;
        Some(Self { operator, simulated, first, first_wire, second, second_wire, key })
    }

    async fn stop(self) {
        self.second.stop().await;
        self.first.stop().await;
        self.operator.close().await.unwrap();
    }
}

/// The number that a question to Postgres is answered with.
async fn number(db: &DatabaseConnection, question: &str) -> i64 {
    let question = Statement::from_string(DatabaseBackend::Postgres, question);
    db.query_one_raw(question).await.unwrap().unwrap().try_get_by_index(0).unwrap()
}

/// A request for an answer of exactly so many tokens.
fn answer_of(tokens: u64) -> Value {
    let mut body = chat_body("llama3.2", &format!("[[n={tokens}]] hi"));
    body["max_tokens"] = tokens.into();
    body
}

async fn ask(app: &TestApp, key: &str, tokens: u64) -> Reply {
    app.post("/v1/chat/completions", key, answer_of(tokens)).await
}

/// What a user has used, by the rows in the database, which any gateway reads.
async fn used(app: &TestApp, key: &str) -> u64 {
    app.get("/v1/usage/summary", key).await.json()["total"]["total_tokens"].as_u64().unwrap()
}

/// Asks both until both refuse, waiting where it is worth it; how many were answered.
async fn exhaust(two: &Two, tokens: u64, patience: Duration) -> usize {
    let drain = async |app: &TestApp| {
        let (mut answered, began) = (0, Instant::now());
        loop {
            let reply = ask(app, &two.key, tokens).await;
            match reply.status.as_u16() {
                200 => answered += 1,
                429 if reply.header("x-should-retry") == Some("false") || began.elapsed() > patience => {
                    return answered;
                }
                429 | 503 => let_pass(Duration::from_millis(200)).await,
                other => panic!("{other}: {}", reply.text()),
            }
        }
    };
    let (first, second) = tokio::join!(drain(&two.first), drain(&two.second));
    assert!(first > 0 && second > 0, "both had a part: {first} and {second}");
    first + second
}

#[actix_rt::test]
async fn an_outage_is_no_silence_of_those_who_were_cut_off_by_it() {
    let Some(two) = Two::with(json!({"requests_per_minute": 1000}), 10).await else { return };
    two.first_wire.cut();
    // As if both had watched each other for long.
    two.operator.execute_unprepared("UPDATE gateways SET since_ms = since_ms - 60000").await.unwrap();
    tokio::time::sleep(Duration::from_secs(7)).await;
    two.second_wire.cut();
    tokio::time::sleep(Duration::from_secs(4)).await;
    two.second_wire.mend();
    let begins_anew = "SELECT count(*) FROM gateways WHERE renewed_ms - since_ms < 5000";
    wait_long_for("the second watches anew", async || number(&two.operator, begins_anew).await == 1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Silent for more than 10 s by now, but nobody can tell whether it was alive in the last four of them.
    let queue = two.second.get("/admin/queue", ADMIN_KEY).await.json();
    assert_eq!(queue["scheduling"]["gateways"], 2, "{queue}");
    two.first_wire.mend();
    two.stop().await;
}

#[actix_rt::test]
async fn tokens_of_a_day_are_never_over_in_total_and_almost_all_can_be_used() {
    let Some(two) = Two::with(json!({"tokens_per_day": 20_000}), 60).await else { return };
    exhaust(&two, 50, PATIENCE).await;
    let used = used(&two.second, &two.key).await;
    assert!(used <= 20_000, "{used}");
    // All but what is less than one more request needs, and the part in reserve.
    assert!(used >= 19_600, "{used}");
    for app in [&two.first, &two.second] {
        let refused = error_of(&ask(app, &two.key, 300).await, 429);
        assert_eq!(refused["code"], "insufficient_quota", "{refused}");
        assert!(refused["message"].as_str().unwrap().contains("of your 20000 tokens per day"), "{refused}");
        let limits = app.get("/admin/users/ann/limits", ADMIN_KEY).await.json();
        assert!(limits["left"]["tokens"].as_u64().unwrap() < 400, "{limits}");
        assert!(limits["used"]["tokens_today"].as_u64().unwrap() >= 19_600, "{limits}");
    }
    let key = two.first.user_with("zoe", json!({"tokens_per_day": 5_000})).await;
    assert_eq!(ask(&two.first, &key, 300).await.status, 200);
    wait_long_for("both know zoe", async || two.second.get("/v1/models", &key).await.status == 200).await;
    let limits = two.second.get("/admin/users/zoe/limits", ADMIN_KEY).await.json();
    assert!(limits["used"]["tokens_today"].as_u64().unwrap() >= 300, "also where she never was: {limits}");
    two.stop().await;
}

#[actix_rt::test]
async fn requests_of_a_minute_are_never_over_in_total_however_many_race() {
    let Some(two) = Two::with(json!({"requests_per_minute": 40}), 60).await else { return };
    let mut answered = 0;
    for _ in 0..3 {
        let (first, second) = (
            join_all((0..30).map(|_| ask(&two.first, &two.key, 1))),
            join_all((0..30).map(|_| ask(&two.second, &two.key, 1))),
        );
        let (first, second) = tokio::join!(first, second);
        answered += first.iter().chain(&second).filter(|reply| reply.status == 200).count();
        for reply in first.iter().chain(&second).filter(|reply| reply.status != 200) {
            let refused = error_of(reply, 429);
            assert_eq!(
                refused["message"].as_str().unwrap().split('.').next(),
                Some("Rate limit reached: 40 requests per minute, all of them used in the last 60 s")
            );
        }
    }
    // One of them may hold a twentieth in reserve.
    assert!((38..=40).contains(&answered), "{answered}");
    two.stop().await;
}

#[actix_rt::test]
async fn requests_at_a_time_are_counted_over_all_gateways_and_a_key_has_limits_of_its_own() {
    let Some(two) = Two::with(json!({}), 60).await else { return };
    let made = two.first.post("/admin/users/ann/keys", ADMIN_KEY, json!({"max_concurrency": 3})).await.json();
    let key = made["api_key"].as_str().unwrap();
    wait_long_for("both know the key", async || two.second.get("/v1/models", key).await.status == 200).await;
    two.simulated.set_fault(Some(Fault::HangAfter(3)));
    let mut streams = Vec::new();
    for app in [&two.first, &two.second, &two.first] {
        streams.push(app.open_stream(key, &stream_body("llama3.2", "hi")).await);
    }
    two.simulated.set_fault(None);
    for app in [&two.first, &two.second] {
        let refused = error_of(&ask(app, key, 1).await, 429);
        assert!(
            refused["message"].as_str().unwrap().starts_with("Your key `default-2` has 3 requests running"),
            "{refused}"
        );
        // The user's other key is free.
        assert_eq!(ask(app, &two.key, 1).await.status, 200);
    }
    drop(streams);
    wait_long_for("there is room again at the second", async || ask(&two.second, key, 1).await.status == 200).await;
    two.stop().await;
}

#[actix_rt::test]
async fn while_postgres_is_away_a_gateway_uses_what_it_holds_and_then_refuses_whoever_has_a_limit() {
    for (percent, answers) in [(5, 5..=12), (20, 40..=48)] {
        away(percent, answers).await;
    }
}

/// So many answers of about 410 tokens are what it holds of 100,000.
async fn away(percent: u8, answers: std::ops::RangeInclusive<usize>) {
    let Some(two) = Two::with_leases(json!({"tokens_per_day": 100_000}), 60, percent).await else { return };
    let free = two.first.user("bob").await;
    wait_long_for("both know bob", async || two.second.get("/v1/models", &free).await.status == 200).await;
    assert_eq!(ask(&two.first, &two.key, 50).await.status, 200);
    let reserve = i64::from(percent) * 1000;
    wait_long_for("it holds its part in reserve", async || {
        number(&two.operator, "SELECT coalesce(max(day_tokens), 0) FROM leases WHERE subject = 'user:ann'").await
            >= reserve
    })
    .await;
    two.first_wire.cut();
    two.second_wire.cut();
    let began = Instant::now();
    let mut answered = 0;
    let refused = loop {
        let reply = ask(&two.first, &two.key, 400).await;
        match reply.status.as_u16() {
            200 => answered += 1,
            _ => break reply,
        }
        assert!(answered < 100, "it has used far more than it holds");
    };
    assert!(began.elapsed() < 2 * PATIENCE);
    assert!(answers.contains(&answered), "{answered} answers, not {answers:?}: {}", refused.text());
    assert_eq!(error_of(&refused, 503)["code"], "limits_unavailable");
    assert_eq!(refused.header("retry-after"), Some("5"));
    for app in [&two.first, &two.second] {
        assert_eq!(ask(app, &free, 50).await.status, 200, "without a limit one goes on");
    }
    two.first_wire.mend();
    two.second_wire.mend();
    for app in [&two.first, &two.second] {
        wait_long_for("it goes on", async || ask(app, &two.key, 50).await.status == 200).await;
    }
    two.stop().await;
}

#[actix_rt::test]
async fn what_a_gateway_that_is_not_heard_of_any_more_held_goes_back_to_the_others() {
    let Some(two) = Two::with(json!({"tokens_per_day": 10_000, "max_concurrency": 2}), 3).await else { return };
    two.simulated.set_fault(Some(Fault::HangAfter(3)));
    let hanging = stream_body("llama3.2", "hi");
    let running = [two.first.open_stream(&two.key, &hanging).await, two.first.open_stream(&two.key, &hanging).await];
    two.simulated.set_fault(None);
    error_of(&ask(&two.second, &two.key, 50).await, 429);
    two.first_wire.cut();
    drop(running);
    let began = Instant::now();
    wait_long_for("the second has room", async || ask(&two.second, &two.key, 50).await.status == 200).await;
    assert!(began.elapsed() > Duration::from_secs(2), "not before its time is over");
    // The first does not know any more what is left.
    assert_eq!(error_of(&ask(&two.first, &two.key, 50).await, 503)["code"], "limits_unavailable");
    two.first_wire.mend();
    wait_long_for("the first is back", async || ask(&two.first, &two.key, 50).await.status == 200).await;
    two.stop().await;
}

#[actix_rt::test]
async fn a_gateway_that_ends_gives_back_what_it_held_at_once_and_its_minute_still_counts() {
    let Some(two) = Two::with(json!({"requests_per_minute": 10, "tokens_per_day": 2_000}), 60).await else { return };
    for _ in 0..4 {
        assert_eq!(ask(&two.first, &two.key, 300).await.status, 200);
    }
    let (key, second) = (two.key, two.second);
    two.first.stop().await;
    let all = ask(&second, &key, 600).await;
    assert_eq!(all.status, 200, "it is all there: {}", all.text());
    let mut answered = 1;
    while ask(&second, &key, 1).await.status == 200 {
        answered += 1;
    }
    assert_eq!(answered, 6, "of ten in this minute");
    second.stop().await;
}

#[actix_rt::test]
async fn a_gateway_that_is_alone_needs_nobody_and_one_that_comes_waits_until_it_shares() {
    let Some(database) = TestDatabase::postgres().await else { return };
    let simulated = fast_node().await;
    let (later, again) = (database.again(), database.again());
    let operator = Database::connect(&database.url).await.unwrap();
    let (first, wire) = gateway(&simulated, database, 8, 5).await;
    let key = first.user_with("ann", json!({"tokens_per_day": 10_000})).await;
    let (other, _other_wire) = gateway(&simulated, later, 8, 5).await;
    wait_long_for("the other knows the key", async || other.get("/v1/models", &key).await.status == 200).await;
    assert_eq!(ask(&other, &key, 50).await.status, 200, "it waits for the first to share");
    other.stop().await;
    let sole = "SELECT count(*) FROM gateways WHERE is_sole";
    wait_long_for("the first knows that it is alone again", async || number(&operator, sole).await == 1).await;
    assert_eq!(ask(&first, &key, 50).await.status, 200);
    wire.cut();
    let_pass(Duration::from_secs(9)).await;
    for _ in 0..10 {
        assert_eq!(ask(&first, &key, 400).await.status, 200, "who is alone goes on without Postgres");
    }
    // One that comes now gets nothing before it is clear that the first is gone.
    let (third, _third_wire) = gateway(&simulated, again, 8, 5).await;
    assert_eq!(error_of(&ask(&third, &key, 50).await, 503)["code"], "limits_unavailable");
    wire.mend();
    wait_long_for("both share", async || ask(&third, &key, 50).await.status == 200).await;
    assert_eq!(ask(&first, &key, 50).await.status, 200);
    third.stop().await;
    first.stop().await;
    operator.close().await.unwrap();
}
