//! What does an event look like on the wire?
use serde::Serialize;

/// An event as it goes over the wire.
pub(super) fn event(name: &str, id: Option<u64>, data: &impl Serialize) -> String {
    // What is written here has text for keys and finite numbers, so there is nothing that could not be written.
    let data = serde_json::to_string(data).unwrap_or_default();
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!("event: {name}\n{id}data: {data}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_block_of_lines() {
        let data = serde_json::json!({"text": "two\nlines"});
        let text = event("change", Some(7), &data);
        assert_eq!(text, "event: change\nid: 7\ndata: {\"text\":\"two\\nlines\"}\n\n");
        assert_eq!(event("tick", None, &1), "event: tick\ndata: 1\n\n");
    }
}
