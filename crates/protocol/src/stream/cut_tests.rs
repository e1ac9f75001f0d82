//! How does a stream end that is cut at its limit, in each dialect?
#![cfg(test)]
use serde_json::{Value, json};

use crate::{Endpoint, StreamEditor, StreamFault, StreamLimit};

/// What a client gets from a node that repeats one word for ever, with a limit of two tokens.
fn cut(endpoint: Endpoint, event: &str, hide_usage: bool) -> Result<String, StreamFault> {
    let limit = StreamLimit { output: Some(2), prompt: 7 };
    let mut editor = StreamEditor::new(endpoint, "1", hide_usage).limited(limit);
    let mut out = Vec::new();
    for _ in 0..9 {
        editor.push(event.to_owned().into(), &mut out)?;
    }
    let progress = editor.progress();
    assert!(editor.is_cut() && progress.done && progress.counted() == 2 && progress.usage.is_none());
    Ok(String::from_utf8(out).unwrap())
}

fn parse(data: &str) -> Value {
    serde_json::from_str(data).unwrap()
}

#[test]
fn a_chat_ends_with_its_reason_and_the_usage_that_was_asked_for() {
    let event = "data: {\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"created\":5,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n";
    for (hide_usage, frames) in [(true, 4), (false, 5)] {
        let out = cut(Endpoint::ChatCompletions, event, hide_usage).unwrap();
        let events: Vec<&str> = out.split_terminator("\n\n").map(|e| e.strip_prefix("data: ").unwrap()).collect();
        assert_eq!((events.len(), events[frames - 1]), (frames, "[DONE]"));
        let last = parse(events[2]);
        assert_eq!((&last["choices"][0]["finish_reason"], &last["created"]), (&json!("length"), &json!(5)));
        assert_eq!((&last["id"], &last["model"]), (&json!("chatcmpl-1"), &json!("m")));
        if !hide_usage {
            let usage = parse(events[3]);
            assert_eq!((&usage["choices"], &usage["usage"]["total_tokens"]), (&json!([]), &json!(9)));
        }
    }
}

#[test]
fn the_other_dialects_end_in_their_own_words() {
    let line = "{\"model\":\"m\",\"created_at\":\"t\",\"message\":{\"role\":\"assistant\",\"content\":\"a\"},\"done\":false}\n";
    let out = cut(Endpoint::Chat, line, true).unwrap();
    let last = parse(out.lines().nth(2).unwrap());
    assert_eq!(out.lines().count(), 3);
    assert_eq!((&last["done"], &last["done_reason"], &last["eval_count"]), (&json!(true), &json!("length"), &json!(2)));
    assert_eq!((&last["message"]["content"], &last["created_at"]), (&json!(""), &json!("t")));
    let line = "{\"model\":\"m\",\"created_at\":\"t\",\"response\":\"a\",\"done\":false}\n";
    assert!(cut(Endpoint::Generate, line, true).unwrap().contains("\"response\":\"\""));

    let event = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"text_delta\",\"text\":\"a\"}}\n\n";
    let out = cut(Endpoint::Messages, event, true).unwrap();
    let kinds: Vec<&str> = out.lines().filter_map(|line| line.strip_prefix("event: ")).skip(2).collect();
    assert_eq!(kinds, ["content_block_stop", "message_delta", "message_stop"]);
    assert!(
        out.contains("\"stop_reason\":\"max_tokens\"") && out.contains("\"index\":1,\"type\":\"content_block_stop\""),
        "{out}"
    );

    let event =
        "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}\n\n";
    let out = cut(Endpoint::Responses, event, true).unwrap();
    let last = parse(out.trim_end().rsplit("data: ").next().unwrap());
    assert_eq!((&last["type"], &last["response"]["id"]), (&json!("response.incomplete"), &json!("resp_1")));
    assert_eq!(last["response"]["incomplete_details"]["reason"], "max_output_tokens");

    let event = "data: {\"id\":\"x\",\"object\":\"text_completion\",\"model\":\"m\",\"choices\":[{\"index\":0,\"text\":\"a\"}]}\n\n";
    let out = cut(Endpoint::Completions, event, true).unwrap();
    assert!(out.contains("\"finish_reason\":\"length\"") && out.ends_with("data: [DONE]\n\n"), "{out}");
}

#[test]
fn an_answer_of_just_the_allowed_length_is_left_alone() {
    let limit = StreamLimit { output: Some(1), prompt: 7 };
    let mut editor = StreamEditor::new(Endpoint::ChatCompletions, "1", true).limited(limit);
    let token =
        "data: {\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n";
    // Ollama's last chunk has a delta too.
    let end = "data: {\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    let mut out = Vec::new();
    editor.push(format!("{token}{end}").into(), &mut out).unwrap();
    assert!(!editor.is_cut() && editor.progress().done);
    assert!(String::from_utf8(out).unwrap().contains("\"finish_reason\":\"stop\""));
}

#[test]
fn one_chunk_is_not_one_token_where_a_cap_ends_a_stream() {
    let limit = StreamLimit { output: Some(1000), prompt: 7 };
    let mut editor = StreamEditor::new(Endpoint::ChatCompletions, "1", true).limited(limit);
    let long = "x".repeat(100_000);
    let chunk =
        format!("data: {{\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{long}\"}}}}]}}\n\n");
    let mut out = Vec::new();
    editor.push(chunk.into(), &mut out).unwrap();
    assert!(editor.is_cut() && editor.progress().counted() == 1000 && out.len() < 1000);
}

/// A stream that repeats one word for as long as Ollama lets it, and ends without a terminal frame.
fn repeated(endpoint: Endpoint, event: &str, times: usize, last: &str) -> (bool, String, Result<(), StreamFault>) {
    let mut editor = StreamEditor::new(endpoint, "1", false);
    let mut out = Vec::new();
    let all = format!("{}{last}", event.repeat(times));
    let result = editor.push(all.into(), &mut out);
    let is_whole = editor.end(&mut out);
    (is_whole, String::from_utf8(out).unwrap(), result)
}

#[test]
fn a_stream_that_the_token_repeat_guard_broke_off_is_whole() {
    let chat = "data: {\"id\":\"x\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\" la\"},\"finish_reason\":null}]}\n\n";
    let (is_whole, out, _) = repeated(Endpoint::ChatCompletions, chat, 31, "");
    assert!(is_whole && out.ends_with("data: [DONE]\n\n") && out.contains("\"finish_reason\":\"length\""), "{out}");
    assert!(out.contains("\"completion_tokens\":31"), "{out}");
    let line = "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\" la\"},\"done\":false}\n";
    let (is_whole, out, _) = repeated(Endpoint::Chat, line, 31, "");
    assert!(is_whole && out.lines().last().unwrap().contains("\"done_reason\":\"length\""), "{out}");
    // Newer versions of Ollama report it.
    let error = "{\"error\":\"prediction aborted, token repeat limit reached\"}\n";
    let (is_whole, out, result) = repeated(Endpoint::Chat, line, 31, error);
    assert!(is_whole && result.is_ok() && !out.contains("error"), "{out}");
    let event = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" la\"}}\n\n";
    let (is_whole, out, _) = repeated(Endpoint::Messages, event, 31, "");
    assert!(is_whole && out.ends_with("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"), "{out}");
    // With fewer pieces, or with half a frame, the stream just broke.
    assert!(!repeated(Endpoint::Chat, line, 20, "").0);
    assert!(!repeated(Endpoint::Chat, line, 31, "{\"mod").0);
}
