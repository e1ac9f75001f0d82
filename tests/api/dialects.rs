//! How are the answers of each dialect read? What the tests of Ollama's, Anthropic's and the Responses dialect share.
use ollama_sim::SimNode;
use serde_json::{Value, json};

use crate::harness::{Reply, TestApp, client, node, read, spawn_app};

/// A gateway over one simulated node with room for several requests.
pub async fn spawn_over(simulated: &SimNode) -> TestApp {
    spawn_app(vec![node("a", simulated.url(), 4)]).await
}

/// What the node itself says to this.
pub async fn directly(simulated: &SimNode, path: &str, body: &Value) -> Reply {
    read(client().post(simulated.url() + path).send_body(body.to_string()).await.unwrap()).await
}

/// A body with one member more, or another.
pub fn with(mut body: Value, member: &str, value: Value) -> Value {
    body[member] = value;
    body
}

/// Asserts that the gateway answers this as the node itself does, plain and streamed, and passes it on as it is.
pub async fn assert_answers_as_the_node(app: &TestApp, simulated: &SimNode, key: &str, path: &str, asked: Value) {
    for stream in [false, true] {
        let asked = if stream { with(asked.clone(), "stream", json!(true)) } else { asked.clone() };
        let reply = app.post(path, key, asked.clone()).await;
        let direct = directly(simulated, path, &asked).await;
        assert_eq!((reply.status.as_u16(), timeless(reply.text())), (200, timeless(direct.text())), "{asked}");
        assert_eq!(last_seen(simulated), asked, "the request is the client's own");
    }
}

/// The last request that reached the node, but for probes.
#[track_caller]
pub fn last_seen(simulated: &SimNode) -> Value {
    serde_json::from_slice(&simulated.requests().last().expect("a request reached the node").body).unwrap()
}

/// The lines of a stream of JSON: each is one object, and none is blank.
#[track_caller]
pub fn lines_of(stream: &str) -> Vec<Value> {
    assert!(stream.ends_with('\n'), "the last line ends: {stream:?}");
    let lines = stream.strip_suffix('\n').unwrap_or_default().split('\n');
    let parse = |line: &str| serde_json::from_str(line).ok().filter(Value::is_object);
    lines.map(|line| parse(line).unwrap_or_else(|| panic!("no object: {line:?}"))).collect()
}

/// The names and the data of a stream of events, each an `event:` line, a `data:` line and a blank line; the name is
/// the data's `type`.
#[track_caller]
pub fn named_events_of(stream: &str) -> Vec<Value> {
    let mut frames: Vec<&str> = stream.split("\n\n").collect();
    assert_eq!(frames.pop(), Some(""), "the last event ends: {stream}");
    let parse = |frame: &str| -> Option<Value> {
        let (name, data) = frame.strip_prefix("event: ")?.split_once("\ndata: ")?;
        let data: Value = serde_json::from_str(data).ok()?;
        (data["type"] == name && !frame.contains('\r')).then_some(data)
    };
    frames.into_iter().map(|frame| parse(frame).unwrap_or_else(|| panic!("no event: {frame:?}"))).collect()
}

/// The `type` of each event.
pub fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

/// An answer without what differs between two answers to one question, its ids and its times; otherwise byte for byte.
pub fn timeless(text: &str) -> String {
    const MEMBERS: [&str; 8] = [
        "id",
        "item_id",
        "created_at",
        "total_duration",
        "load_duration",
        "prompt_eval_duration",
        "eval_duration",
        "created",
    ];
    MEMBERS.iter().fold(text.to_owned(), |text, member| {
        let mark = format!("\"{member}\":");
        let mut parts = text.split(&mark);
        let mut rest = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            // Their values hold neither a comma nor a brace. A duration of zero is not there at all, comma and all.
            let end = part.find([',', '}']).unwrap_or(part.len());
            rest.truncate(rest.strip_suffix(',').unwrap_or(&rest).len());
            rest.push_str(&part[end..]);
        }
        rest
    })
}

/// Asserts that the row is that of a whole answer with the tokens that the node counted.
#[track_caller]
pub fn assert_row_is_as_the_node_counted(row: &Value, simulated: &SimNode, completion: u64) {
    let prompt = simulated.requests().last().unwrap().prompt_tokens;
    assert!(prompt > 0, "the node counts the prompt");
    assert_eq!(row["status"], "completed", "{row}");
    assert_eq!((&row["prompt_tokens"], &row["completion_tokens"]), (&json!(prompt), &json!(completion)), "{row}");
}
