//! What does the scheduler learn of nodes? How many slots each has, from requests alone, although its queue does not keep
//! their order; and when a first token comes, against what a client measures.
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use ollama_gateway::fleet::NodeSettings;
use ollama_sim::{SimConfig, SimModel, SimNode};
use serde_json::json;

use crate::harness::{TestApp, TestDatabase, let_pass, node, spawn_app, spawn_app_with, stream_body};

/// More than any node here has.
const AT_ONCE: usize = 6;
const BATCHES: usize = 40;

fn slots(app: &TestApp) -> u32 {
    app.dispatcher.read(|scheduler| scheduler.nodes()[0].slots)
}

/// How a client asks.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Stream,
    /// Ollama's own dialect tells how long the node worked.
    Native,
    /// A plain answer that tells nothing.
    Plain,
}

async fn ask(app: &TestApp, key: &str, asked: Asked, number: usize) {
    let messages = json!([{"role": "user", "content": format!("[[n={}]]", 12 + number % 7)}]);
    let (path, is_stream) = match asked {
        Asked::Stream => ("/v1/chat/completions", true),
        Asked::Native => ("/api/chat", false),
        Asked::Plain => ("/v1/chat/completions", false),
    };
    let body = json!({"model": "llama3.2", "messages": messages, "stream": is_stream});
    let (head, _) = app.exchange_at(path, key, &body).await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
}

#[actix_rt::test]
async fn the_number_of_slots_is_learned_from_every_kind_of_request() {
    let cases = [(1, Asked::Native), (3, Asked::Native), (3, Asked::Stream), (2, Asked::Plain)];
    for (truly, asked) in cases {
        let jitter = Duration::from_millis(5);
        // Slow beside what a busy machine adds to every time that is measured.
        let config = SimConfig { tokens_per_second: 75.0, slots: truly, queue_jitter: jitter, ..SimConfig::warm() };
        let simulated = SimNode::start(config).await.unwrap();
        let nodes = vec![NodeSettings::new("a", simulated.url())];
        let app = spawn_app_with(nodes, TestDatabase::sqlite(), |_| {}).await;
        let key = app.user("ann").await;
        let truly = truly as u32;
        let mut seen = vec![slots(&app)];
        for batch in 0..BATCHES {
            join_all((0..AT_ONCE).map(|place| ask(&app, &key, asked, batch * AT_ONCE + place))).await;
            seen.push(slots(&app));
            if batch >= 5 && seen.ends_with(&[truly; 5]) {
                break;
            }
        }
        assert!(seen.ends_with(&[truly; 5]), "{asked:?} with {truly} slots: {seen:?}");
        app.stop().await;
    }
}

/// Numbers that look random and are always the same.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

/// So many requests of both models, one after so many milliseconds, with prompts of 20 to 2,000 tokens. Seconds to the
/// first token, as expected and as the client measured it, of those that were told what to expect.
async fn run(app: &TestApp, keys: &[String], numbers: &mut Numbers, count: usize, every: u64) -> Vec<(f64, f64)> {
    let mut asked = Vec::new();
    for index in 0..count {
        let model = if numbers.below(3) == 0 { "small" } else { "large" };
        // Each of its own, so that no two are turns of one conversation.
        let words = "word".repeat(20 + numbers.below(1980) as usize);
        let tokens = 60 + numbers.below(120);
        let body = stream_body(model, &format!("{index} [[n={tokens}]] {words}"));
        let at = Duration::from_millis(every * index as u64 + numbers.below(every));
        asked.push((at, body, &keys[index % keys.len()]));
    }
    let began = Instant::now();
    let answers = join_all(asked.into_iter().map(async |(at, body, key)| {
        let_pass(at.saturating_sub(began.elapsed())).await;
        let sent = Instant::now();
        let mut stream = app.open_stream(key, &body).await;
        assert!(stream.next().await.is_some());
        let measured = sent.elapsed().as_secs_f64();
        let expected = stream.response.headers().get("x-gateway-expected-ms");
        let expected: Option<f64> = expected.map(|value| value.to_str().unwrap().parse().unwrap());
        let events = stream.rest().await;
        assert_eq!(events.last().map(String::as_str), Some("[DONE]"), "{events:?}");
        Some((expected? / 1000.0, measured))
    }));
    answers.await.into_iter().flatten().collect()
}

#[actix_rt::test]
async fn the_first_token_comes_when_it_was_expected_but_for_a_quarter() {
    let mut nodes = Vec::new();
    for (speed, slots) in [(400.0, 2), (250.0, 2), (180.0, 1)] {
        let models = vec![SimModel::chat("large", 5.0), SimModel::chat("small", 2.5)];
        let config = SimConfig { tokens_per_second: speed, slots, models, is_warm: true, ..SimConfig::default() };
        nodes.push((SimNode::start(config).await.unwrap(), slots as u32));
    }
    let named = nodes.iter().zip(["a", "b", "c"]);
    let app = spawn_app(named.map(|((simulated, slots), name)| node(name, simulated.url(), *slots)).collect()).await;
    let keys = [app.user("u0").await, app.user("u1").await, app.user("u2").await];
    let mut numbers = Numbers(7);
    run(&app, &keys, &mut numbers, 60, 140).await;

    let forecasts = run(&app, &keys, &mut numbers, 50, 150).await;

    assert!(forecasts.len() > 45, "{}", forecasts.len());
    let mut errors: Vec<f64> =
        forecasts.iter().map(|(expected, measured)| (expected - measured).abs() / measured).collect();
    errors.sort_by(f64::total_cmp);
    let (median, ninth) = (errors[errors.len() / 2], errors[errors.len() * 9 / 10]);
    let mut measured: Vec<f64> = forecasts.iter().map(|(_, measured)| *measured).collect();
    measured.sort_by(f64::total_cmp);
    println!(
        "first token after {:.3} s (median); error {median:.3} (median), {ninth:.3} (p90)",
        measured[measured.len() / 2]
    );
    let used = nodes.iter().map(|(simulated, _)| simulated.requests().len());
    assert!(used.clone().all(|count| count > 0), "all nodes take part: {:?}", used.collect::<Vec<_>>());
    assert!(median < 0.25, "{median}: {forecasts:?}");
    app.stop().await;
}
