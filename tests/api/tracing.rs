//! Traces: what a collector hears of a request, and what a node is told.
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use awc::http::Method;
use ollama_gateway::config::Config;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;

use crate::harness::{TestApp, TestDatabase, chat_body, header_of, node, spawn_app, spawn_app_with, stream_body};
use crate::scripted::{ScriptedNode, Step, chat_answer, plain, raw};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT_SPAN: &str = "00f067aa0ba902b7";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{CLIENT_SPAN}-{flags}")
}

/// A collector that takes whatever comes.
async fn collector() -> ScriptedNode {
    ScriptedNode::always(|| vec![plain("")]).await
}

/// Every span that the collector was sent.
fn spans(collector: &ScriptedNode) -> Vec<Span> {
    let mut spans = Vec::new();
    for received in collector.received() {
        assert!(received.head.starts_with("post /v1/traces "), "{}", received.head);
        let said = ExportTraceServiceRequest::decode(received.body).unwrap();
        for resource in said.resource_spans {
            let service = attributes(&resource.resource.as_ref().unwrap().attributes);
            assert_eq!(service["service.name"], "ollama-gateway");
            spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    spans
}

fn attributes(list: &[opentelemetry_proto::tonic::common::v1::KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        other => panic!("{other:?}"),
    };
    let value = |value: &Option<opentelemetry_proto::tonic::common::v1::AnyValue>| {
        text(value.as_ref().unwrap().value.as_ref().unwrap())
    };
    list.iter().map(|attribute| (attribute.key.clone(), value(&attribute.value))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

async fn spawn_traced(nodes: &[&ScriptedNode], collector: &ScriptedNode, change: impl FnOnce(&mut Config)) -> TestApp {
    let nodes = nodes.iter().enumerate().map(|(index, scripted)| node(&format!("n{index}"), scripted.url(), 4));
    spawn_app_with(nodes.collect(), TestDatabase::sqlite(), |config| {
        config.tracing.otlp_endpoint = Some(collector.url());
        change(config);
    })
    .await
}

async fn chat_with(app: &TestApp, key: &str, headers: &[(&str, &str)]) -> u16 {
    let bearer = format!("Bearer {key}");
    let mut all = vec![("authorization", bearer.as_str())];
    all.extend(headers);
    let body = chat_body("llama3.2", "a secret prompt").to_string();
    app.send_with(Method::POST, "/v1/chat/completions", &all, body).await.status.as_u16()
}

#[actix_rt::test]
async fn a_request_is_a_part_of_its_clients_trace_with_spans_for_key_queue_and_node() {
    let (collector, scripted) = (collector().await, ScriptedNode::always(|| vec![plain(&chat_answer("hi"))]).await);
    let app = spawn_traced(&[&scripted], &collector, |_| {}).await;
    let key = app.user("ann").await;

    let status = chat_with(&app, &key, &[("traceparent", &traceparent("01")), ("tracestate", "vendor=1")]).await;

    app.stop().await;
    assert_eq!(status, 200);
    let spans = spans(&collector);
    assert!(
        spans.iter().all(|span| hex(&span.trace_id) == TRACE && span.end_time_unix_nano >= span.start_time_unix_nano)
    );
    let [request] = named(&spans, "POST /v1/chat/completions")[..] else { panic!("{spans:?}") };
    assert_eq!(hex(&request.parent_span_id), CLIENT_SPAN);
    let said = attributes(&request.attributes);
    let expected = [
        ("http.route", "/v1/chat/completions"),
        ("http.response.status_code", "200"),
        ("gen_ai.request.model", "llama3.2"),
        ("gen_ai.usage.output_tokens", "5"),
        ("gateway.user", "ann"),
        ("gateway.status", "completed"),
    ];
    for (name, value) in expected {
        assert_eq!(said[name], value, "{name}");
    }
    for name in ["auth", "queue", "upstream"] {
        let [child] = named(&spans, name)[..] else { panic!("{name}: {spans:?}") };
        assert_eq!(child.parent_span_id, request.span_id, "{name}");
        assert!(child.start_time_unix_nano >= request.start_time_unix_nano, "{name}");
        assert!(child.end_time_unix_nano <= request.end_time_unix_nano, "{name}");
    }
    let upstream = named(&spans, "upstream")[0];
    assert_eq!(attributes(&upstream.attributes)["gateway.node"], "n0");
    let head = &scripted.received()[0].head;
    let told = format!("00-{TRACE}-{}-01", hex(&upstream.span_id));
    assert_eq!((header_of(head, "traceparent"), header_of(head, "tracestate")), (Some(&*told), Some("vendor=1")));
    assert!(collector.received().iter().all(|received| !received.body.windows(6).any(|part| part == b"secret")));
}

#[actix_rt::test]
async fn each_attempt_has_a_span_of_its_own() {
    let collector = collector().await;
    let scripted = ScriptedNode::start(|received| {
        let crashed = "HTTP/1.1 503 Busy\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        if received.connection + received.earlier == 0 { vec![raw(crashed)] } else { vec![plain(&chat_answer("hi"))] }
    })
    .await;
    let app = spawn_traced(&[&scripted], &collector, |config| config.server.workers = 1).await;
    let key = app.user("ann").await;

    assert_eq!(chat_with(&app, &key, &[]).await, 200);

    app.stop().await;
    let spans = spans(&collector);
    let attempts = named(&spans, "upstream");
    let outcomes: Vec<String> =
        attempts.iter().map(|span| attributes(&span.attributes)["gateway.outcome"].clone()).collect();
    assert_eq!(outcomes, ["busy", "ok"]);
    assert_eq!(named(&spans, "queue").len(), 2);
    let told: Vec<String> = scripted
        .received()
        .iter()
        .map(|seen| header_of(&seen.head, "traceparent").unwrap()[36..52].to_owned())
        .collect();
    assert_eq!(told, attempts.iter().map(|span| hex(&span.span_id)).collect::<Vec<_>>());
}

#[actix_rt::test]
async fn requests_that_end_early_have_their_span_too() {
    let (collector, scripted) = (collector().await, ScriptedNode::always(|| vec![plain(&chat_answer("hi"))]).await);
    let app = spawn_traced(&[&scripted], &collector, |_| {}).await;
    let key = app.user("ann").await;

    assert_eq!(chat_with(&app, "sk-ann-00000000000000000000000000000000", &[]).await, 401);
    assert_eq!(app.chat(&key, "nothing", "hi").await.status, 404);

    app.stop().await;
    let spans = spans(&collector);
    let requests = named(&spans, "POST /v1/chat/completions");
    let codes: Vec<String> =
        requests.iter().map(|span| attributes(&span.attributes)["http.response.status_code"].clone()).collect();
    assert_eq!(codes, ["401", "404"]);
    assert!(named(&spans, "upstream").is_empty());
}

#[actix_rt::test]
async fn the_client_decides_whether_its_trace_is_recorded_and_else_the_share_does() {
    let (collector, scripted) = (collector().await, ScriptedNode::always(|| vec![plain(&chat_answer("hi"))]).await);
    let app = spawn_traced(&[&scripted], &collector, |config| config.tracing.sample_ratio = 0.0).await;
    let key = app.user("ann").await;

    let recorded = traceparent("01").replace(TRACE, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    for headers in [&[][..], &[("traceparent", &*traceparent("00"))], &[("traceparent", &*recorded)]] {
        assert_eq!(chat_with(&app, &key, headers).await, 200);
    }

    app.stop().await;
    let traces: Vec<String> = spans(&collector).iter().map(|span| hex(&span.trace_id)).collect();
    assert!(!traces.is_empty() && traces.iter().all(|trace| trace.starts_with("aaaa")), "{traces:?}");
    let told: Vec<Option<String>> =
        scripted.received().iter().map(|seen| header_of(&seen.head, "traceparent").map(str::to_owned)).collect();
    assert_eq!(told[0], None);
    assert!(told[1].as_deref().unwrap().ends_with("-00") && told[2].as_deref().unwrap().ends_with("-01"));
}

#[actix_rt::test]
async fn without_a_collector_a_clients_trace_is_still_passed_on() {
    let scripted = ScriptedNode::always(|| vec![plain(&chat_answer("hi"))]).await;
    let app = spawn_app(vec![node("a", scripted.url(), 1)]).await;
    let key = app.user("ann").await;

    assert_eq!(chat_with(&app, &key, &[]).await, 200);
    assert_eq!(chat_with(&app, &key, &[("traceparent", &traceparent("01"))]).await, 200);

    app.stop().await;
    let told: Vec<Option<String>> =
        scripted.received().iter().map(|seen| header_of(&seen.head, "traceparent").map(str::to_owned)).collect();
    assert_eq!(told[0], None);
    let passed = told[1].as_deref().unwrap();
    assert!(passed.starts_with(&format!("00-{TRACE}-")) && !passed.contains(CLIENT_SPAN), "{passed}");
}

#[actix_rt::test]
async fn a_collector_that_hangs_or_is_away_costs_no_request_its_time() {
    let hanging = ScriptedNode::always(|| vec![Step::Pass(std::rc::Rc::new(tokio::sync::Semaphore::new(0)))]).await;
    let away = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    for endpoint in [hanging.url(), away] {
        let scripted = ScriptedNode::always(|| vec![plain(&chat_answer("hi"))]).await;
        let app = spawn_traced(&[&scripted], &hanging, |config| config.tracing.otlp_endpoint = Some(endpoint)).await;
        let key = app.user("ann").await;
        let began = Instant::now();
        for _ in 0..200 {
            assert_eq!(chat_with(&app, &key, &[]).await, 200);
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let began = Instant::now();
        app.stop().await;
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    }
}

#[actix_rt::test]
async fn a_client_that_leaves_while_it_waits_has_its_span() {
    let collector = collector().await;
    let gate = std::rc::Rc::new(tokio::sync::Semaphore::new(0));
    let held = ScriptedNode::always(move || vec![Step::Pass(gate.clone())]).await;
    let app = spawn_traced(&[&held], &collector, |config| config.nodes[0].slots = Some(1)).await;
    let key = app.user("ann").await;
    let running = app.send_and_hold(&key, &stream_body("llama3.2", "hi")).await;
    crate::harness::eventually("it runs", || !held.received().is_empty()).await;
    let waiting = app.send_and_hold(&key, &stream_body("llama3.2", "hi")).await;
    crate::harness::eventually("it waits", || app.dispatcher.read(|scheduler| scheduler.queued()) == 1).await;

    drop(waiting);
    crate::harness::eventually("it left", || app.dispatcher.read(|scheduler| scheduler.queued()) == 0).await;
    drop(running);

    app.stop().await;
    let spans = spans(&collector);
    let waits: Vec<i32> = named(&spans, "queue").iter().map(|span| span.status.as_ref().unwrap().code).collect();
    // The one that got no slot says so; it ended first, after the other had begun.
    assert_eq!(waits, [0, 2]);
    assert_eq!(named(&spans, "POST /v1/chat/completions").len(), 2);
}
