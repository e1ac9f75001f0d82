//! What passes through in a stream, what is hidden, and what is a fault?
use proptest::prelude::*;

use super::*;
use crate::Usage;

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
