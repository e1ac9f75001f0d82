//! One node answers its probes and generates nothing.
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use ollama_sim::{Fault, SeenRequest, SimConfig, SimKind, SimModel, SimNode};
use scheduler::NodeState;

use crate::good::{fleet, good_users, marked, openings, states, steady_node};
use crate::harness::{ADMIN_KEY, TestApp, TestDatabase, let_pass, node, spawn_app_with, wait_long_for};

/// By when a first token comes from elsewhere, besides four times the expected time.
const FIRST_TOKEN: Duration = Duration::from_secs(5);
/// Tokens of each of those answers.
const EXPECTED_TOKENS: u32 = 20;
/// What the scheduler is held to: this, and four times the expected time, which is small here.
const FIRST_TOKEN_ELSEWHERE: Duration = Duration::from_secs(6);

#[actix_rt::test]
async fn whoever_waits_for_a_silent_node_is_answered_by_another_one_in_time() {
    let simulated = [steady_node().await, steady_node().await, steady_node().await];
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    // Each node has shown how fast it is.
    good_users(&app, &keys).await;
    simulated[0].fall_silent(true);

    // More than the budget of retries has room for.
    let ask = |number: usize| {
        let (app, key) = (&app, &keys[number % 2]);
        async move {
            let began = Instant::now();
            let reply = app.post("/v1/chat/completions", key, marked(&format!("one {number}"))).await;
            (reply.status.as_u16(), began.elapsed(), reply.text().to_owned())
        }
    };
    let asked = join_all((0..12).map(ask)).await;

    for (status, took, text) in &asked {
        assert_eq!(*status, 200, "{text}");
        assert!(*took < FIRST_TOKEN_ELSEWHERE, "{took:?}");
    }
    assert!(asked.iter().any(|(_, took, _)| *took > Duration::from_secs(2)), "none was on the silent node");
    let after = good_users(&app, &keys).await;
    assert_eq!(after.failures, [] as [&str; 0]);
    simulated[0].fall_silent(false);
    app.stop().await;
}

/// Wedges in one run: `HOSTILE_WEDGES=1000` is the real number.
const WEDGES: u64 = 16;
/// Requests at a time: all slots.
const AT_A_TIME: usize = 32;

/// How long the first token of a request takes, from the request on.
async fn first_token(app: &TestApp, key: &str, number: usize) -> Duration {
    let began = Instant::now();
    let mut body = marked(&format!("wedge {number}"));
    body["max_tokens"] = EXPECTED_TOKENS.into();
    let mut stream = app.open_stream(key, &body).await;
    stream.next().await.expect("a first token");
    let took = began.elapsed();
    let events = stream.rest().await;
    assert!(events.last().is_some_and(|event| event.contains("[DONE]")), "{number}: {events:?}");
    took
}

/// One node after another answers probes and generates nothing, while requests are on it, and is well again afterwards.
#[actix_rt::test]
async fn however_often_a_node_falls_silent_each_first_token_comes_from_another_one_in_time() {
    let wedges = std::env::var("HOSTILE_WEDGES").ok().and_then(|wedges| wedges.parse().ok()).unwrap_or(WEDGES);
    let simulated = [steady_node().await, steady_node().await, steady_node().await, steady_node().await];
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    good_users(&app, &keys).await;
    let failed = || app.dispatcher.read(|scheduler| scheduler.nodes().iter().map(|node| node.failed).sum::<u64>());
    let mut expected = Duration::ZERO;
    for number in 0..8 {
        expected = expected.max(first_token(&app, &keys[0], number).await);
    }
    let before = failed();
    let (mut round, mut slowest) = (0, Duration::ZERO);
    while failed() - before < wedges {
        let silent = &simulated[round % simulated.len()];
        silent.fall_silent(true);
        let asked = join_all((0..AT_A_TIME).map(|number| first_token(&app, &keys[number % 2], number))).await;
        silent.fall_silent(false);
        slowest = asked.into_iter().fold(slowest, Duration::max);
        round += 1;
        assert!(round < 20 + wedges as usize, "only {} wedges in {round} rounds", failed() - before);
        wait_long_for("the node is back", async || states(&app).iter().all(|state| *state == NodeState::Up)).await;
    }
    println!(
        "{} wedges in {round} rounds, the slowest first token after {slowest:?}, {expected:?} expected",
        failed() - before
    );
    assert!(slowest <= FIRST_TOKEN + 4 * expected, "{slowest:?}, where {expected:?} is expected");
    app.stop().await;
}

#[actix_rt::test]
async fn nodes_that_are_well_are_not_taken_for_silent() {
    let simulated = [steady_node().await, steady_node().await, steady_node().await];
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    for _ in 0..3 {
        assert_eq!(good_users(&app, &keys).await.failures, [] as [&str; 0]);
    }
    assert_eq!(openings(&app), 0);
    app.stop().await;
}

/// Whether the gateway sent it by itself to see whether the node works.
fn is_canary(request: &SeenRequest) -> bool {
    request.request_id.as_deref() == Some("gateway")
}

/// Those of the node `a` that ended like this.
async fn canaries(app: &TestApp, outcome: &str) -> u64 {
    let series = format!("gateway_node_canaries_total{{node=\"a\",outcome=\"{outcome}\"}} ");
    let metrics = app.get("/metrics", ADMIN_KEY).await;
    metrics.text().lines().find_map(|line| line.strip_prefix(&series)?.parse::<u64>().ok()).unwrap_or(0)
}

/// The users' requests that a node gets within a few seconds after this fault took it out. Many run at a time, so that
/// each node that may be used gets some of them.
async fn users_requests_to_a_node_that_is_out(app: &TestApp, keys: &[String], node: &SimNode) -> usize {
    let ask = |number: usize| app.post("/v1/chat/completions", &keys[number % 2], marked(&format!("one {number}")));
    while states(app)[0] != NodeState::Down {
        join_all((0..12).map(ask)).await;
    }
    let before = node.requests().len();
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        for reply in join_all((0..8).map(ask)).await {
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
        let_pass(Duration::from_millis(50)).await;
    }
    let of_users = |request: &&SeenRequest| request.path == "/v1/chat/completions" && !is_canary(request);
    node.requests()[before..].iter().filter(of_users).count()
}

#[actix_rt::test]
async fn whether_a_silent_node_works_again_is_found_out_by_the_gateway_and_not_by_users() {
    let simulated = [steady_node().await, steady_node().await];
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    good_users(&app, &keys).await;
    simulated[0].fall_silent(true);

    let sent = users_requests_to_a_node_that_is_out(&app, &keys, &simulated[0]).await;

    assert_eq!(sent, 0, "users found out");
    wait_long_for("a canary has failed", async || canaries(&app, "failed").await > 0).await;
    simulated[0].fall_silent(false);
    // Nobody asks for anything.
    wait_long_for("the node is back", async || states(&app)[0] == NodeState::Up).await;
    assert!(canaries(&app, "answered").await > 0);
    let seen = simulated[0].requests();
    assert!(!seen.iter().any(|request| is_canary(request) && request.found_loaded == Some(false)), "it loads nothing");
    let answered = seen.iter().filter(|request| is_canary(request)).map(|request| request.tokens_generated);
    assert_eq!(answered.max(), Some(1), "one token is enough");
    assert!(!simulated[1].requests().iter().any(is_canary), "the other node is well");
    app.stop().await;
}

/// Servers of OpenAI's API: one that ignores the model's name, and one that lists a model that only embeds before the
/// other, has names of its own, and wants a key.
#[actix_rt::test]
async fn the_same_of_a_node_that_is_no_ollama() {
    const THEIRS: &str = "meta-llama/Llama-3.2-3B-Instruct";
    let paced = |config: SimConfig| SimConfig { tokens_per_second: 250.0, batch_slowdown: 0.0, slots: 8, ..config };
    let llama = paced(SimConfig::llama_server(SimModel::chat("llama3.2", 5.0)));
    let models = vec![SimModel::embedding("a-bert", 0.05), SimModel::chat(THEIRS, 5.0)];
    let vllm = paced(SimConfig { models, ..SimConfig::vllm(SimModel::chat(THEIRS, 5.0)) });
    for config in [llama, SimConfig { api_key: Some("theirs".to_owned()), ..vllm }] {
        let kind = config.kind;
        let simulated = [SimNode::start(config).await.unwrap(), steady_node().await];
        let mut settings = node("a", simulated[0].url(), 8);
        settings.api_key = Some("theirs".to_owned());
        settings.aliases = [("llama3.2".to_owned(), THEIRS.to_owned())].into();
        let nodes = vec![settings, node("b", simulated[1].url(), 8)];
        let app = spawn_app_with(nodes, TestDatabase::sqlite(), |_| {}).await;
        let keys = vec![app.user("ann").await, app.user("bob").await];
        good_users(&app, &keys).await;
        simulated[0].fall_silent(true);

        let sent = users_requests_to_a_node_that_is_out(&app, &keys, &simulated[0]).await;

        assert_eq!(sent, 0, "{kind:?}: users found out");
        wait_long_for("a canary has failed", async || canaries(&app, "failed").await > 0).await;
        simulated[0].fall_silent(false);
        wait_long_for("the node is back", async || states(&app)[0] == NodeState::Up).await;
        let answered = canaries(&app, "answered").await;
        assert!(answered > 0, "{kind:?}");
        let seen: Vec<_> = simulated[0].requests().into_iter().filter(is_canary).collect();
        let of = |name: &str| seen.iter().filter(|seen| String::from_utf8_lossy(&seen.body).contains(name)).count();
        let name = if kind == SimKind::Vllm { THEIRS } else { "llama3.2" };
        assert!(of(name) + of("a-bert") == seen.len() && !seen.is_empty(), "{kind:?}: {seen:?}");
        let generated = seen.iter().map(|seen| seen.tokens_generated).max();
        assert!(generated <= Some(1), "{kind:?}: {seen:?}");
        let before = simulated[0].requests().len();
        good_users(&app, &keys).await;
        assert!(simulated[0].requests().len() > before, "{kind:?}: it is used again");
        app.stop().await;
    }
}

/// The control: of a node that answers with errors, one token shows little, and the requests of users try it.
#[actix_rt::test]
async fn whether_a_node_that_failed_works_again_is_found_out_by_users() {
    let simulated = [steady_node().await, steady_node().await];
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    good_users(&app, &keys).await;
    simulated[0].set_fault(Some(Fault::Status(500)));

    let sent = users_requests_to_a_node_that_is_out(&app, &keys, &simulated[0]).await;

    assert!(sent > 0, "no request was there");
    assert!(!simulated[0].requests().iter().any(is_canary));
    app.stop().await;
}
