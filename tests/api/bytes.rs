//! The bytes of a node reach the client as they are, in every dialect and however they are cut; only ids, which repeat at
//! a node, are the request's own.
use serde_json::{Value, json};

use crate::dialects::{spawn_over, with};
use crate::harness::{fast_node, header_of, node, spawn_app};
use crate::scripted::{CHAT_END, ScriptedNode, Step, chat_event, chunk, last_chunk, plain, raw};

/// An id that a node gives, with its quotes; in other places than that of the answer's id it stays.
const OLD: &str = "\"theirs-7\"";

/// A request that each route can answer.
fn body() -> Value {
    json!({"model": "llama3.2", "max_tokens": 50, "messages": [{"role": "user", "content": "x"}], "prompt": "x", "input": "x"})
}

/// What a route puts before the request's id; `None` where its answers have none.
fn prefix(path: &str) -> Option<&'static str> {
    match path {
        "/v1/chat/completions" => Some("chatcmpl-"),
        "/v1/completions" => Some("cmpl-"),
        "/v1/responses" => Some("resp_"),
        "/v1/messages" => Some("msg_"),
        _ => None,
    }
}

fn renamed(path: &str, said: &str, request_id: &str) -> String {
    match prefix(path) {
        Some(prefix) => said.replace(OLD, &format!("\"{prefix}{request_id}\"")),
        None => said.to_owned(),
    }
}

/// Plain answers, as no serialiser would write them, and the tokens that they report.
const PLAIN: [(&str, &str, [Option<u64>; 2]); 9] = [
    (
        "/v1/chat/completions",
        " {\"x\":[1.0,  2e3, 18446744073709551616], \"id\" : \"theirs-7\",\"choices\":[{\"index\":0,\"message\":{\"role\":\
         \"assistant\",\"content\":\"h\\u00e9 \\\"\u{2603}\\ud83d\\ude00\",\"reasoning\":\"m\",\"tool_calls\":[{\"id\":\"call_1\",\
         \"index\":0}]},\"finish_reason\":\"stop\"}],\n\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2},\"x\":null}\n",
        [Some(1), Some(2)],
    ),
    ("/v1/completions", r#"{"id":"theirs-7","choices":[{"text":"a","new":{}}]}"#, [None, None]),
    ("/v1/embeddings", r#"{"object":"list","data":[{"embedding":[0.10,-1e-7],"index":0}],"model":"m"}"#, [None, None]),
    (
        "/v1/responses",
        " {\"output\":[{\"id\":\"msg_7\",\"content\":[{\"text\":\"theirs-7 \\u00e9\"}]}], \"id\" : \"theirs-7\",\"error\":null,\
         \"x\":[1.0,  2],\"usage\":{\"input_tokens\":4,\"output_tokens\":5,\"total_tokens\":9, \"new\":{}}}\n",
        [Some(4), Some(5)],
    ),
    (
        "/v1/messages",
        " {\"content\":[{\"type\":\"text\",\"text\":\"h\\u00e9\", \"id\":\"kept\"}], \"id\" : \"theirs-7\",\
         \"x\":[1.0,  2],\"stop_reason\":\"end_turn\",\"usage\":{\"input_tokens\":4,\"output_tokens\":5}}\n",
        [Some(4), Some(5)],
    ),
    (
        "/api/chat",
        " {\"x\":[1.0,  2e3, 18446744073709551616], \"id\" : \"theirs-7\",\"model\":\"\", \"message\":{\"role\":\"assistant\",\
         \"content\":\"h\\u00e9 \u{2603}\",\"tool_calls\":[{\"id\":\"call_1\"}]},\"done\":true,\"usage\":{}, \"eval_count\" :5}\n",
        [None, Some(5)],
    ),
    ("/api/generate", r#"{"response":"a","done":true,"done_reason":"stop","context":[1, 2],"new":{}}"#, [None, None]),
    (
        "/api/embed",
        r#"{"model":"m","embeddings":[[0.10,-1e-7]],"total_duration":1,"prompt_eval_count":4}"#,
        [Some(4), Some(0)],
    ),
    ("/api/embeddings", r#"{"embedding":[ 0.5, 1 ]}"#, [None, Some(0)]),
];

#[actix_rt::test]
async fn a_plain_answer_is_the_nodes_own_but_for_its_id() {
    let said = |head: &str| PLAIN.iter().find(|(path, ..)| head.contains(&format!("{path} "))).unwrap().1;
    let node_a = ScriptedNode::start(move |received| vec![plain(said(&received.head))]).await;
    let app = spawn_app(vec![node("a", node_a.url(), 1)]).await;
    let key = app.user("ann").await;
    for (count, (path, answer, reported)) in PLAIN.into_iter().enumerate() {
        let reply = app.post(path, &key, with(body(), "stream", json!(false))).await;

        assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, Some("application/json")), "{path}");
        assert_eq!(reply.text(), renamed(path, answer, reply.header("x-request-id").unwrap()), "{path}");
        let row = &app.rows_once(&key, count + 1).await[0];
        // What is not reported is estimated.
        for (field, reported) in ["prompt_tokens", "completion_tokens"].into_iter().zip(reported) {
            assert!(reported.is_none_or(|reported| row[field] == json!(reported)), "{path}: {row}");
        }
    }
    app.stop().await;
}

/// Streams with what nobody knows in them, frame by frame; of Ollama's lines the blank ones go.
fn streams() -> Vec<(&'static str, Vec<String>, [u64; 2])> {
    let event = |data: &str| {
        let kind = serde_json::from_str::<Value>(data).unwrap()["type"].as_str().unwrap().to_owned();
        format!("event: {kind}\ndata: {data}\n\n")
    };
    let chat = [
        ": \u{2603} a comment\n\n",
        &chat_event("h\u{e9}\u{2603}\u{1f600}\\u00e9"),
        "data:{\"id\" :\"chatcmpl-7\",\"x\":[1.0,  2],\"choices\":[]}\r\n\r\n",
        &chat_event("chatcmpl"),
        CHAT_END,
    ];
    let lines = [
        "{\"model\":\"m\",\"message\":{\"content\":\"h\u{e9}\u{1f600}\"},\"id\":\"theirs-7\",\"done\":false}\n",
        "\n",
        " {\"usage\":null , \"response\":\"\\u00e9\", \"done\" : false}\r\n",
        " \r\n",
        "{\"message\":{\"content\":\"\"},\"done\":true,\"prompt_eval_count\":3,\"eval_count\":2}\n",
    ]
    .map(str::to_owned);
    vec![
        ("/v1/chat/completions", chat.map(|frame| frame.replace("\"chatcmpl-7\"", OLD)).to_vec(), [11, 2]),
        (
            "/v1/responses",
            [
                r#"{"type":"response.created","response":{"x":1.0, "id" : "theirs-7"},"sequence_number":0}"#,
                r#"{"type":"response.in_progress","response":{"id":"theirs-7"},"sequence_number":1}"#,
                "{\"type\":\"response.output_text.delta\", \"item_id\":\"msg_7\",\"delta\":\"\u{2603}\\u00e9\",\"sequence_number\":2}",
                r#"{"type":"response.unheard_of","id":"theirs-7 ","sequence_number":3}"#,
                r#"{"type":"response.completed","response":{"id":"theirs-7","usage":{"input_tokens":26,"output_tokens":1}}}"#,
            ]
            .map(event)
            .to_vec(),
            [26, 1],
        ),
        (
            "/v1/messages",
            [
                r#"{"type":"message_start","message":{"x":1.0, "id" : "theirs-7","content":[]}}"#,
                r#"{"type":"ping"}"#,
                "{\"type\":\"content_block_delta\",\"index\":0, \"delta\":{\"text\":\"theirs-7 \u{2603}\\u00e9\"}}",
                r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":26,"output_tokens":2}}"#,
                r#"{"type":"message_stop"}"#,
            ]
            .map(event)
            .to_vec(),
            [26, 2],
        ),
        ("/api/chat", lines.to_vec(), [3, 2]),
        ("/api/generate", lines.to_vec(), [3, 2]),
    ]
}

fn in_chunks(content_type: &str, stream: &str, size: usize) -> Vec<Step> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n");
    let chunks = stream.as_bytes().chunks(size).map(chunk);
    [raw(head)].into_iter().chain(chunks).chain([last_chunk()]).collect()
}

// Line 18 of the clients' checklist, first half: the content type of Ollama's lines, and no blank one.
#[actix_rt::test]
async fn a_stream_is_the_nodes_own_but_for_its_ids_and_blank_lines_wherever_it_is_cut() {
    for (path, frames, [prompt, completion]) in streams() {
        let lines = path.starts_with("/api/");
        let content_type = if lines { "application/x-ndjson" } else { "text/event-stream; charset=utf-8" };
        let (sent, kept): (String, String) =
            (frames.concat(), frames.iter().filter(|frame| !lines || !frame.trim().is_empty()).cloned().collect());
        for size in [1, 7, 100_000] {
            let sent = sent.clone();
            let node_a = ScriptedNode::always(move || in_chunks(content_type, &sent, size)).await;
            let app = spawn_app(vec![node("a", node_a.url(), 1)]).await;
            let key = app.user("ann").await;
            let mut asked = with(body(), "stream", json!(true));
            asked["stream_options"] = json!({"include_usage": true});

            let reply = app.post(path, &key, asked).await;

            assert_eq!(reply.header("content-type"), Some(content_type), "{path}");
            assert_eq!(reply.header("cache-control"), Some("no-cache"), "{path}");
            let expected = renamed(path, &kept, reply.header("x-request-id").unwrap());
            assert_eq!(reply.text(), expected, "{path} in chunks of {size}");
            let row = &app.rows_once(&key, 1).await[0];
            assert_eq!(
                (&row["prompt_tokens"], &row["completion_tokens"]),
                (&json!(prompt), &json!(completion)),
                "{path}"
            );
            app.stop().await;
        }
    }
}

#[actix_rt::test]
async fn every_answer_has_an_id_of_its_own_that_is_the_requests() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    for path in ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"] {
        for stream in [false, true, false, true] {
            let reply = app.post(path, &key, with(body(), "stream", json!(stream))).await;

            let id = format!("\"{}{}\"", prefix(path).unwrap(), reply.header("x-request-id").unwrap());
            assert!(reply.text().contains(&format!("\"id\":{id}")), "{path}: {}", reply.text());
        }
    }
    app.stop().await;
}

#[actix_rt::test]
async fn a_client_of_http_1_0_gets_no_chunked_coding() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    // Even where it asks for the connection to be kept: a stream could not end otherwise.
    let cases = [
        ("/v1/chat/completions", false, "close", "{", "}"),
        ("/v1/chat/completions", true, "close", "data: {", "data: [DONE]\n\n"),
        ("/v1/chat/completions", true, "keep-alive", "data: {", "data: [DONE]\n\n"),
        ("/v1/messages", true, "close", "event: message_start", "data: {\"type\":\"message_stop\"}\n\n"),
        ("/api/chat", true, "keep-alive", "{", "}\n"),
    ];
    for (path, stream, connection, begin, end) in cases {
        let asked = with(body(), "stream", json!(stream)).to_string();
        let answer = app
            .send_bytes(
                format!(
                    "POST {path} HTTP/1.0\r\nhost: gateway\r\nauthorization: Bearer {key}\r\nconnection: {connection}\r\n\
                     content-type: application/json\r\ncontent-length: {}\r\n\r\n{asked}",
                    asked.len()
                )
                .as_bytes(),
            )
            .await;

        let (head, said) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with("http/1.0 200 "), "{path}: {head}");
        assert_eq!(header_of(&head, "transfer-encoding"), None, "{path}: {head}");
        let length = header_of(&head, "content-length").map(|length| length.parse::<usize>().unwrap());
        assert_eq!(length, (!stream).then_some(said.len()), "{path}: {head}");
        assert_ne!(header_of(&head, "connection"), Some("keep-alive"), "{path}: {head}");
        assert!(said.starts_with(begin), "{path}: {said}");
        assert!(said.ends_with(end), "{path}: {said}");
    }
    let rows = app.rows_once(&key, cases.len()).await;
    assert!(rows.iter().all(|row| row["status"] == "completed"), "{rows:?}");
    app.stop().await;
}
