//! What passes through in a stream, what is hidden, what is a fault, and how does a stream end that is cut at its limit?
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{StreamLimit, Usage};

const STREAM: &str = concat!(
    "data: {\"id\":\"chatcmpl-417\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"Hé\"},\"finish_reason\":null}]}\n\n",
    ": a comment\n\n",
    "data: {\"id\":\"chatcmpl-417\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"llo\"},\"finish_reason\":null}],\"usage\":{\"prompt_tokens\":0}}\n\n",
    "data: {\"id\":\"chatcmpl-417\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    "data: {\"id\":\"chatcmpl-417\",\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":26,\"completion_tokens\":2,\"total_tokens\":28}}\n\n",
    "data: [DONE]\n\n",
);

fn run(hide: bool, chunks: &[&[u8]]) -> (Result<(), StreamFault>, AnswerProgress, String) {
    let mut editor = StreamEditor::new(Endpoint::ChatCompletions, "new", hide);
    let mut out = Vec::new();
    let mut result = Ok(());
    for chunk in chunks {
        result = result.and_then(|()| editor.push(Bytes::copy_from_slice(chunk), &mut out));
    }
    (result, editor.progress(), String::from_utf8_lossy(&out).into_owned())
}

#[test]
fn a_client_that_asked_gets_everything_but_the_old_ids() {
    let (result, progress, text) = run(false, &[STREAM.as_bytes()]);
    assert_eq!(result, Ok(()));
    assert_eq!(text, STREAM.replace("\"chatcmpl-417\"", "\"chatcmpl-new\""));
    let usage = Usage { prompt_tokens: Some(26), completion_tokens: Some(2), ..Usage::default() };
    assert_eq!(progress, AnswerProgress { usage: Some(usage), token_chunks: 2, text_bytes: 6, done: true });
}

#[test]
fn a_client_that_did_not_ask_sees_no_usage_at_all() {
    let (_, progress, text) = run(true, &[STREAM.as_bytes()]);
    assert!(!text.contains("usage") && text.ends_with("\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"), "{text}");
    assert_eq!(progress.usage.unwrap().prompt_tokens, Some(26));
}

#[test]
fn the_silent_error_of_ollama_is_a_fault_and_is_not_passed_on() {
    let (result, progress, text) = run(
        false,
        &[b"data: {\"id\":\"x\",\"model\":\"\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"}}]}\n\n"],
    );
    assert!(matches!(result, Err(StreamFault::Node(_))));
    assert!(!progress.done && text.is_empty());
}

#[test]
fn garbage_and_error_objects_are_faults() {
    for bad in [
        "<html>\n\n",
        "data: nonsense\n\n",
        "data: {\"error\":{\"message\":\"x\"}}\n\n",
        "data: 1\ndata: 2\n\n",
        "data:\n\n",
    ] {
        assert!(run(false, &[bad.as_bytes()]).0.is_err(), "{bad}");
    }
}

#[test]
fn the_terminal_frame_can_be_held_back_alone() {
    let mut editor = StreamEditor::new(Endpoint::ChatCompletions, "417", false);
    let mut out = Vec::new();
    editor.push(Bytes::from(STREAM), &mut out).unwrap();
    assert_eq!(editor.split_terminal(&mut out), b"data: [DONE]\n\n");
    assert_eq!(out, STREAM.strip_suffix("data: [DONE]\n\n").unwrap().as_bytes());
    let mut out = b"kept".to_vec();
    assert_eq!(StreamEditor::new(Endpoint::Chat, "r", false).split_terminal(&mut out), b"");
    assert_eq!(out, b"kept");
}

#[test]
fn nothing_behind_done_is_passed_on() {
    let (_, _, text) = run(false, &[b"data: [DONE]\n\ndata: more\n\n"]);
    assert_eq!(text, "data: [DONE]\n\n");
}

/// Frames that are alike but for a text, and some that are not.
fn some_frame() -> impl Strategy<Value = String> {
    let text = prop_oneof![r#"[a-z é"\\\\/n]{0,4}"#, r#"(\\\\[nt"u]|[a-z0-9 ]){0,5}"#, Just("\u{1}".to_owned())];
    (0..6, 0..3, text).prop_map(|(kind, created, text)| match kind {
        0 => format!("data: {{\"id\":\"x\",\"model\":\"m\",\"created\":{created},\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}],\"usage\":null}}\n\n"),
        1 => format!("data: {{\"choices\":[{{\"text\":\"{text}\",\"finish_reason\":null}}],\"id\":\"longer\"}}\n\n"),
        2 => format!("data: {{\"type\":\"content_block_delta\",\"delta\":{{\"text\":\"{text}\"}}}}\n\n"),
        3 => format!("data: {{\"type\":\"response.output_text.delta\",\"sequence_number\":{created},\"delta\":\"{text}\"}}\n\n"),
        4 => format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\",\"reasoning\":\"b\"}}}}],\"usage\":{{\"total_tokens\":{created}}}}}\n\n"),
        _ => format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":\"stop\"}}],\"usage\":{{\"prompt_tokens\":{created}}}}}\n\n"),
    })
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_stream(cuts in proptest::collection::vec(0usize..STREAM.len(), 0..12), hide: bool) {
        let whole = run(hide, &[STREAM.as_bytes()]);
        let mut cuts = cuts;
        cuts.sort_unstable();
        let mut chunks = Vec::new();
        let mut from = 0;
        for cut in cuts {
            chunks.push(&STREAM.as_bytes()[from..cut]);
            from = cut;
        }
        chunks.push(&STREAM.as_bytes()[from..]);
        prop_assert_eq!(whole, run(hide, &chunks));
    }

    /// A frame that is like one before is not parsed, and nobody can tell.
    #[test]
    fn a_template_changes_nothing(frames in proptest::collection::vec(some_frame(), 1..30), one: bool, dialect in 0..4usize, hide: bool) {
        let endpoint = [Endpoint::ChatCompletions, Endpoint::Completions, Endpoint::Messages, Endpoint::Responses][dialect];
        // Often the same kind in a row, as in real streams.
        let frames: Vec<&String> = if one { frames.iter().cycle().take(60).collect() } else { frames.iter().collect() };
        let mut quick = StreamEditor::new(endpoint, "new", hide);
        let mut careful = StreamEditor::new(endpoint, "new", hide);
        for frame in frames {
            let (mut passed, mut expected) = (Vec::new(), Vec::new());
            let result = quick.push(Bytes::from(frame.clone()), &mut passed);
            careful.scan.template = Default::default();
            let careful_result = careful.push(Bytes::from(frame.clone()), &mut expected);
            prop_assert_eq!(String::from_utf8_lossy(&passed), String::from_utf8_lossy(&expected));
            prop_assert_eq!(quick.progress(), careful.progress());
            prop_assert_eq!(&result, &careful_result);
            prop_assert_eq!(quick.scan.events, careful.scan.events);
            if result.is_err() {
                break;
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..STREAM.len()) {
        let _ = run(true, &[&STREAM.as_bytes()[..at], &bytes, &STREAM.as_bytes()[at..]]);
    }
}

fn native(chunks: &[&str]) -> (Result<(), StreamFault>, AnswerProgress, String) {
    let mut editor = StreamEditor::new(Endpoint::Chat, "r", false);
    let mut out = Vec::new();
    let mut result = Ok(());
    for chunk in chunks {
        result = result.and_then(|()| editor.push(Bytes::copy_from_slice(chunk.as_bytes()), &mut out));
    }
    (result, editor.progress(), String::from_utf8(out).unwrap())
}

#[test]
fn lines_pass_as_they_are_and_the_last_one_reports() {
    let lines = "{\"message\":{\"content\":\"Hi\"},\"done\":false}\n{\"message\":{},\"done\":true,\"prompt_eval_count\":26,\"eval_count\":1}\n";
    let (result, progress, text) = native(&[&lines[..30], &lines[30..]]);
    assert_eq!((result, text.as_str()), (Ok(()), lines));
    let usage = Usage { prompt_tokens: Some(26), completion_tokens: Some(1), ..Usage::default() };
    assert_eq!(progress, AnswerProgress { usage: Some(usage), token_chunks: 1, text_bytes: 2, done: true });
}

#[test]
fn an_error_line_is_a_fault_and_blank_lines_go() {
    let (result, progress, text) = native(&["\n{\"done\":false}\n", "{\"error\":\"unexpected EOF\"}\n"]);
    assert!(matches!(result, Err(StreamFault::Node(_))) && !progress.done);
    assert_eq!(text, "{\"done\":false}\n");
}

#[test]
fn anthropic_streams_report_in_message_delta_and_end_with_message_stop() {
    let stream = concat!(
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"usage\":{\"input_tokens\":9,\"output_tokens\":0}}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\n",
        "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{},\"usage\":{\"input_tokens\":26,\"output_tokens\":1}}\n\n",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    );
    let mut editor = StreamEditor::new(Endpoint::Messages, "r", false);
    let mut out = Vec::new();
    editor.push(Bytes::from(stream), &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), stream.replace("msg_1", "msg_r"));
    let usage = Usage { prompt_tokens: Some(26), completion_tokens: Some(1), ..Usage::default() };
    assert_eq!(editor.progress(), AnswerProgress { usage: Some(usage), token_chunks: 1, text_bytes: 2, done: true });
}

#[test]
fn responses_report_in_their_last_event() {
    let stream = concat!(
        "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_4\"},\"sequence_number\":0}\n\n",
        "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"Hi\",\"sequence_number\":1}\n\n",
        "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_4\",\"usage\":{\"input_tokens\":26,\"output_tokens\":1}},\"sequence_number\":2}\n\n",
    );
    let mut editor = StreamEditor::new(Endpoint::Responses, "r", false);
    let mut out = Vec::new();
    editor.push(Bytes::from(stream), &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), stream.replace("resp_4", "resp_r"));
    assert!(editor.progress().done && editor.progress().token_chunks == 1);
    assert_eq!(editor.progress().usage.unwrap().completion_tokens, Some(1));
}

#[test]
fn usage_travels_in_pieces() {
    let run = |events: &[&str]| {
        let mut editor = StreamEditor::new(Endpoint::Messages, "r", false);
        for event in events {
            let kind = event.split('"').nth(3).unwrap();
            editor.push(format!("event: {kind}\ndata: {event}\n\n").into(), &mut Vec::new()).unwrap();
        }
        editor.progress().usage.map(|usage| (usage.prompt_tokens, usage.completion_tokens))
    };
    let start = r#"{"type":"message_start","message":{"id":"m","usage":{"input_tokens":9,"cache_read_input_tokens":1,"output_tokens":1}}}"#;
    // If the client leaves here, the answer has not begun.
    assert_eq!(run(&[start]), Some((Some(10), None)));
    assert_eq!(
        run(&[start, r#"{"type":"message_delta","delta":{},"usage":{"output_tokens":5}}"#]),
        Some((Some(10), Some(5)))
    );
    let both = r#"{"type":"message_delta","delta":{},"usage":{"input_tokens":26,"output_tokens":5}}"#;
    assert_eq!(run(&[start, both]), Some((Some(26), Some(5))));
    assert_eq!(run(&[r#"{"type":"message_start","message":{}}"#, both]), Some((Some(26), Some(5))));
    let bad = r#"{"type":"message_delta","delta":{},"usage":{"input_tokens":"26","output_tokens":-5}}"#;
    assert_eq!(run(&[bad]), None);
}

#[test]
fn usage_may_stand_in_the_last_chunk_of_text() {
    let stream = |chunk: &str| {
        let mut editor = StreamEditor::new(Endpoint::Completions, "r", true);
        let mut out = Vec::new();
        editor.push(format!("data: {chunk}\n\n").into(), &mut out).unwrap();
        let usage = editor.progress().usage.map(|usage| (usage.prompt_tokens, usage.completion_tokens));
        (usage, String::from_utf8(out).unwrap())
    };
    let (usage, out) = stream(
        r#"{"choices":[{"text":"","finish_reason":"stop"}],"usage":{"prompt_tokens":26,"completion_tokens":7}}"#,
    );
    assert_eq!(usage, Some((Some(26), Some(7))));
    assert!(!out.contains("usage") && out.contains("stop"), "{out}");
    // llama.cpp's completion streams put it differently.
    let (usage, out) = stream(
        r#"{"choices":[{"text":"","finish_reason":"stop"}],"timings":{"prompt_n":5,"cache_n":21,"predicted_n":7}}"#,
    );
    assert_eq!(usage, Some((Some(26), Some(7))));
    assert!(out.contains("timings"), "{out}");
    let (usage, _) =
        stream(r#"{"choices":[{"text":"a","finish_reason":null}],"usage":{"prompt_tokens":26,"completion_tokens":1}}"#);
    assert_eq!(usage, None);
}

#[test]
fn a_usage_that_cannot_be_read_breaks_no_stream() {
    for usage in ["7", "[]", r#"{"prompt_tokens":-1,"completion_tokens":"x"}"#] {
        let chunk = format!("data: {{\"choices\":[],\"usage\":{usage}}}\n\n");
        let (result, progress, _) = run(false, &[chunk.as_bytes()]);
        assert_eq!((result, progress.usage), (Ok(()), None), "{usage}");
    }
}

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

#[test]
fn frames_that_are_alike_are_not_parsed_again() {
    let mut editor = StreamEditor::new(Endpoint::ChatCompletions, "new", true);
    let frame = |text: &str| {
        format!(
            "data: {{\"id\":\"c-1\",\"model\":\"m\",\"choices\":[{{\"delta\":{{\"content\":{text}}}}}],\"usage\":null}}\n\n"
        )
    };
    let mut out = Vec::new();
    editor.push(frame("\"one\"").into(), &mut out).unwrap();
    let next = frame("\" two \\u00e9\\n\"");
    assert_eq!(editor.scan.template.text_of(next.as_bytes()), Some("\" two \\u00e9\\n\""));
    assert_eq!(editor.scan.template.text_of(frame("7").as_bytes()), None);
    out.clear();
    editor.push(next.into(), &mut out).unwrap();
    let expected = "data: {\"id\":\"chatcmpl-new\",\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\" two \\u00e9\\n\"}}]}\n\n";
    assert_eq!(String::from_utf8_lossy(&out), expected);
    assert_eq!(editor.progress().token_chunks, 2);
    assert_eq!(editor.progress().text_bytes, 3 + 8);
}
