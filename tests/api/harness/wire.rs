//! What goes over the wire: requests, and answers taken apart.
use bytes::BytesMut;
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::PATIENCE;

/// The status line and the JSON body of an answer as it came over the wire.
#[track_caller]
pub fn parse_answer(answer: &str) -> (u16, String, Value) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body:?}")))
}

pub fn chat_body(model: &str, prompt: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": prompt}]})
}

/// A chat request whose answer is streamed.
pub fn stream_body(model: &str, prompt: &str) -> Value {
    let mut body = chat_body(model, prompt);
    body["stream"] = true.into();
    body
}

/// A chat request as it goes over the wire.
pub fn chat_bytes(key: &str, body: &Value, connection: &str) -> Vec<u8> {
    post_bytes("/v1/chat/completions", key, body, connection)
}

pub(super) fn post_bytes(path: &str, key: &str, body: &Value, connection: &str) -> Vec<u8> {
    let body = body.to_string();
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\nconnection: {connection}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// The value of a header in a head in lower case.
pub fn header_of<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// The content of a chunked body, which must end properly, and there.
#[track_caller]
pub(super) fn dechunk(mut body: &str) -> String {
    let mut content = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n").unwrap_or_else(|| panic!("the body was cut short: {content}"));
        let size = usize::from_str_radix(size, 16).unwrap();
        let (chunk, end) = rest.split_at_checked(size).unwrap_or_else(|| panic!("a chunk was cut short: {rest}"));
        content.push_str(chunk);
        body = end.strip_prefix("\r\n").unwrap_or_else(|| panic!("a chunk does not end: {end}"));
        if size == 0 {
            assert_eq!(body, "", "something follows the end of the body");
            return content;
        }
    }
}

/// The data of each event of a stream that is one `data:` line and a blank line an event, and nothing else.
#[track_caller]
pub fn events_of(stream: &str) -> Vec<&str> {
    let mut events: Vec<&str> = stream.split("\n\n").collect();
    assert_eq!(events.pop(), Some(""), "the last event ends: {stream}");
    let data = |event| str::strip_prefix(event, "data: ").filter(|data| !data.is_empty() && !data.contains('\n'));
    events.into_iter().map(|event| data(event).unwrap_or_else(|| panic!("no event: {event:?}"))).collect()
}

/// A streamed answer, read event by event as they come.
pub struct EventReader {
    pub response: awc::ClientResponse,
    held: BytesMut,
}

impl EventReader {
    pub(super) fn of(response: awc::ClientResponse) -> Self {
        Self { response, held: BytesMut::new() }
    }

    /// The data of the next event; `None` at the end.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.held.windows(2).position(|pair| pair == b"\n\n") {
                let event = self.held.split_to(end + 2);
                return Some(events_of(std::str::from_utf8(&event).unwrap())[0].to_owned());
            }
            let waited = tokio::time::timeout(PATIENCE, self.response.next()).await;
            match waited.expect("the next part comes in time") {
                Some(part) => self.held.extend_from_slice(&part.unwrap()),
                None => {
                    assert!(self.held.is_empty(), "half an event: {:?}", self.held);
                    return None;
                }
            }
        }
    }

    /// The events that are still to come.
    pub async fn rest(mut self) -> Vec<String> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}
