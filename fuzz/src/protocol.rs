//! What must hold for any bytes? One function for each parser and rewriter, which the fuzzer calls with bytes of its own
//! and `crates/protocol/tests/corpus.rs` with those in `corpus`.
//!
//! The first bytes choose a variant, the rest is what is read.
use bytes::Bytes;
use protocol::{
    ClaimBounds, Dialect, Endpoint, ErrorObject, Frames, Framing, InferenceRequest, MAX_LISTED, StreamEditor,
    StreamFault, StreamLimit, count_tokens, edit_answer, is_error_body, listed_models, listed_processes, meant,
    message_of, repaired,
};
use serde_json::Value;
use serde_json::value::RawValue;

const ID: &str = "01990000-0000-7000-8000-000000000000";

/// A target by its name, which is also that of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// Every one.
pub const TARGETS: [Target; 8] = [
    ("frames", frames),
    ("stream", stream),
    ("request", request),
    ("answer", answer),
    ("usage", usage),
    ("listing", listing),
    ("error", error),
    ("path", path),
];

/// However a stream is cut, its frames are the same, and together they are the stream.
pub fn frames(data: &[u8]) {
    let Some(([variant, size], data)) = head(data) else { return };
    let framing = if variant % 2 == 0 { Framing::Events } else { Framing::Lines };
    let split = |size: usize| {
        let (mut frames, mut out) = (Frames::new(framing), Vec::new());
        for chunk in data.chunks(size.max(1)) {
            frames.push(Bytes::copy_from_slice(chunk), |frame| out.push(frame)).expect("it is short");
        }
        (out, frames.rest().to_vec())
    };
    let (whole, rest) = split(data.len());
    assert_eq!((&whole, &rest), (&split(usize::from(size)).0, &split(usize::from(size)).1));
    assert_eq!([whole.concat(), rest].concat(), data);
}

/// However a stream is cut, the client gets the same; nothing follows its end, and its error can be read.
pub fn stream(data: &[u8]) {
    let Some(([variant, size], data)) = head(data) else { return };
    let endpoint = endpoint(variant);
    let hide_usage = variant & 0x80 != 0;
    let edit = |size: usize| {
        let (mut editor, mut out) = (StreamEditor::new(endpoint, ID, hide_usage), Vec::new());
        let mut chunks = data.chunks(size.max(1)).map(Bytes::copy_from_slice);
        let result = chunks.try_for_each(|chunk| editor.push(chunk, &mut out));
        (editor, out, result)
    };
    let (mut editor, mut out, result) = edit(data.len());
    let (in_parts, parts, parts_result) = edit(usize::from(size));
    assert_eq!((&out, &result, editor.progress()), (&parts, &parts_result, in_parts.progress()));

    if std::str::from_utf8(data).is_ok() {
        assert!(std::str::from_utf8(&out).is_ok());
    }
    if endpoint.dialect() == Dialect::Ollama {
        // No client of that dialect stands a blank line, and every other one is an object.
        let lines: Vec<&[u8]> = out.split(|byte| *byte == b'\n').collect();
        assert!(lines[..lines.len() - 1].iter().all(|line| line.trim_ascii().starts_with(b"{")));
    }
    if let Err(StreamFault::Garbled(why)) = &result {
        // The words may reach a log: never what somebody wrote.
        assert!(why.len() < 200, "{why}");
    }
    let error = ErrorObject { message: "it \"broke\"\n", kind: "server_error", param: None, code: None };
    let frame = editor.error_frame(&error);
    let json = frame.rsplit_once("data: ").map_or(frame.as_str(), |(_, json)| json);
    assert!(serde_json::from_str::<Value>(json).is_ok(), "{frame}");
    if editor.progress().done && result.is_ok() {
        let length = out.len();
        editor.push(Bytes::from_static(b"data: {\"x\":1}\n\n{\"done\":false}\n"), &mut out).expect("nothing is read");
        assert_eq!(out.len(), length);
    }
}

/// What reaches a node is an object that means the same, but for what was to be changed.
pub fn request(data: &[u8]) {
    let Some(([variant, choice], body)) = head(data) else { return };
    let Ok(body) = repaired(Bytes::copy_from_slice(body)) else { return };
    assert!(std::str::from_utf8(&body).is_ok());
    assert_eq!(repaired(body.clone()), Ok(body.clone()));
    let body = &body[..];
    let endpoint = endpoint(variant);
    if endpoint == Endpoint::Messages {
        // Counting refuses more than asking: there a node judges the messages.
        if let (Ok(request), Ok(count)) = (InferenceRequest::parse(endpoint, body), count_tokens(body)) {
            assert_eq!((count.model, count.input_tokens), (request.model.clone(), request.prompt_estimate()));
        }
    }
    // Only paths of OpenAI's API name one.
    let deployment = (choice & 1 != 0 && endpoint.dialect() == Dialect::OpenAi).then_some("deployed");
    let cap = (choice & 2 != 0).then_some(7);
    let Ok(mut request) = InferenceRequest::parse_for(endpoint, body, deployment) else { return };
    let name = if choice & 4 != 0 { "hf.co/a/b:c" } else { request.model.as_str() }.to_owned();
    request.ask_for(&name);
    let sent = request.rewrite(Bytes::copy_from_slice(body), cap);

    let again = InferenceRequest::parse(endpoint, &sent).unwrap_or_else(|error| panic!("{error}: {sent:?}"));
    assert_eq!((&again.model, again.stream), (&name, request.stream));
    assert_eq!(again.idle.is_some(), request.idle.is_some());
    let has_limit = !matches!(endpoint, Endpoint::Embeddings);
    assert_eq!(again.max_output, request.max_output.or(cap.filter(|_| has_limit)));
    if request.stream && matches!(endpoint, Endpoint::ChatCompletions | Endpoint::Completions) {
        assert!(again.include_usage);
    }
    // Nothing is left to be done.
    let mut again = again;
    assert_eq!(again.rewrite(sent.clone(), None), sent);
    // What serde's own values cannot hold (deep nesting, numbers beyond a float) passes all the same.
    let (Ok(before), Ok(after)) = (serde_json::from_slice::<Value>(body), serde_json::from_slice::<Value>(&sent))
    else {
        return;
    };
    let same = |name: &str| before.get(name) == after.get(name);
    let members = before.as_object().into_iter().flatten().chain(after.as_object().into_iter().flatten());
    for (name, _) in members {
        assert!(same(name) || may_change(endpoint, name), "{name}: {before} became {after}");
    }
}

/// The documented edits.
fn may_change(endpoint: Endpoint, name: &str) -> bool {
    let native = ["keep_alive", "shift", "template", "options"];
    match endpoint.dialect() {
        _ if name == "model" => true,
        Dialect::Ollama => {
            let folded = name.to_lowercase().replace('\u{17f}', "s").replace('\u{212a}', "k");
            native.contains(&folded.as_str())
        }
        _ => ["stream_options", "max_tokens", "max_output_tokens"].contains(&name),
    }
}

/// A plain answer keeps everything but its id.
pub fn answer(data: &[u8]) {
    let Some(([variant], body)) = head(data) else { return };
    let endpoint = endpoint(variant);
    let Ok((edited, usage)) = edit_answer(endpoint, Bytes::copy_from_slice(body), ID) else { return };
    let again = edit_answer(endpoint, edited.clone(), ID).expect("it is still an answer");
    assert_eq!(again, (edited.clone(), usage));
    let (Ok(mut before), Ok(mut after)) =
        (serde_json::from_slice::<Value>(body), serde_json::from_slice::<Value>(&edited))
    else {
        return;
    };
    if endpoint.dialect() != Dialect::Ollama && !endpoint.embeds() && before.get("id").is_some() {
        assert!(after["id"].as_str().is_some_and(|id| id.ends_with(ID)) || has_twins(body));
        (before["id"], after["id"]) = (Value::Null, Value::Null);
    }
    assert_eq!(before, after);
}

/// Whatever a node says that a request took, the answer is good and the charge within its bounds, plain and streamed.
pub fn usage(data: &[u8]) {
    let Some(([variant, chunks], claim)) = head(data) else { return };
    let Ok(claim) = serde_json::from_slice::<&RawValue>(claim) else { return };
    let claim = claim.get();
    let endpoint = endpoint(variant);
    let max_output = (variant & 0x80 != 0).then_some(500);
    let bounds = ClaimBounds { prompt_bound: 1000, prompt_estimate: 250, max_output, embeds: endpoint.embeds() };
    let within = |progress| {
        let tally = bounds.tally(&progress);
        assert!(tally.prompt <= 1256 && tally.completion <= max_output.unwrap_or(150_000), "{claim}: {tally:?}");
        assert!(!(endpoint.embeds() && tally.completion > 0));
    };
    let content = match endpoint {
        Endpoint::ChatCompletions | Endpoint::Completions => r#""choices":[{"text":"a","finish_reason":"stop"}]"#,
        Endpoint::Embeddings => r#""data":[]"#,
        Endpoint::Responses => r#""output":[]"#,
        Endpoint::Messages => r#""content":null"#,
        Endpoint::Chat => r#""message":{},"done":true"#,
        Endpoint::Generate => r#""response":"","done":true"#,
        Endpoint::Embed => r#""embeddings":[]"#,
        Endpoint::EmbedOne => r#""embedding":[]"#,
    };
    let body = format!(
        r#"{{{content},"prompt_eval_count":{claim},"eval_duration":{claim},"usage":{claim},"timings":{claim}}}"#
    );
    let (_, progress) = edit_answer(endpoint, body.into(), ID).expect("no usage makes an answer fail");
    within(progress);

    if endpoint.embeds() || claim.contains(['\n', '\r']) {
        return;
    }
    let limit = StreamLimit { output: max_output, prompt: 250 };
    let mut editor = StreamEditor::new(endpoint, ID, true).limited(limit);
    let frames = match endpoint {
        Endpoint::Chat | Endpoint::Generate => {
            format!("{{\"done\":true,\"prompt_eval_count\":{claim},\"eval_count\":{claim}}}\n")
        }
        Endpoint::Messages => format!(
            "data: {{\"type\":\"message_start\",\"message\":{{\"usage\":{claim}}}}}\n\n\
             data: {{\"type\":\"message_delta\",\"usage\":{claim}}}\n\n"
        ),
        Endpoint::Responses => {
            format!("data: {{\"type\":\"response.completed\",\"response\":{{\"usage\":{claim}}}}}\n\n")
        }
        _ => format!("data: {{\"choices\":[],\"usage\":{claim},\"timings\":{claim}}}\n\n"),
    };
    for chunk in frames.as_bytes().chunks(usize::from(chunks).max(1)) {
        editor.push(Bytes::copy_from_slice(chunk), &mut Vec::new()).expect("no usage breaks a stream");
    }
    within(editor.progress());
}

/// Whatever a node lists, names can be shown, and there are not too many.
pub fn listing(data: &[u8]) {
    let names = |names: Vec<&String>, skipped: usize| {
        let all = serde_json::from_slice::<Value>(data).ok();
        let listed = all.as_ref().and_then(|all| all["models"].as_array()).map(Vec::len);
        assert!(listed.is_none_or(|listed| listed == names.len() + skipped) || has_twins(data));
        assert!(names.len() <= MAX_LISTED);
        assert!(names.iter().all(|name| (1..=256).contains(&name.chars().count()) && !name.contains(char::is_control)));
    };
    if let Ok(listing) = listed_models(data) {
        names(listing.entries.iter().map(|model| &model.name).collect(), listing.skipped);
    }
    if let Ok(listing) = listed_processes(data) {
        names(listing.entries.iter().map(|process| &process.name).collect(), listing.skipped);
    }
}

/// A node's own error is handed on only where it is one, and can be read.
pub fn error(data: &[u8]) {
    for dialect in [Dialect::OpenAi, Dialect::Ollama, Dialect::Anthropic] {
        if is_error_body(dialect, data) {
            assert!(message_of(data).is_some());
        }
    }
    let Some(message) = message_of(data) else { return };
    let error = ErrorObject { message: &message, kind: "invalid_request_error", param: None, code: None };
    for dialect in [Dialect::OpenAi, Dialect::Ollama, Dialect::Anthropic] {
        assert_eq!(message_of(error.body(dialect).as_bytes()).as_ref(), Some(&message));
    }
}

/// A path that is mended has the form of routes, and holds nothing that was not in the one before.
pub fn path(data: &[u8]) {
    let path = format!("/{}", String::from_utf8_lossy(data));
    let Some(meant) = meant(&path) else { return };
    assert!(meant.path.starts_with('/') && !meant.path.contains("//"), "{path} became {}", meant.path);
    assert_ne!(meant.path, path);
    assert!(
        path.contains(meant.path.strip_prefix("/v1").unwrap_or(&meant.path).rsplit('/').next().unwrap_or_default())
    );
    if let Some(key) = meant.key {
        assert!(path.contains(&key) && !key.contains('/'));
    }
}

fn head<const SIZE: usize>(data: &[u8]) -> Option<([u8; SIZE], &[u8])> {
    data.split_first_chunk().map(|(head, rest)| (*head, rest))
}

fn endpoint(variant: u8) -> Endpoint {
    Endpoint::ALL[usize::from(variant & 0x7f) % Endpoint::ALL.len()]
}

/// Whether an object may have a second `id` or `models`, of which serde's values keep the last.
fn has_twins(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    text.matches("\"id\"").count() > 1 || text.matches("\"models\"").count() > 1 || text.contains("\\u")
}
