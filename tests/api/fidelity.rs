//! What passes through is not touched: random requests, answers and streams, cut anywhere, against a model of the
//! documented edits that is written down a second time here. Line 26 of the clients' checklist.
use crate::random_json::{Member, blank, mixed, object, places, text, unknown, value};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::Index;
use protocol::{Endpoint, InferenceRequest, StreamEditor, edit_answer};

const ID: &str = "01990000-0000-7000-8000-000000000000";

fn endpoint() -> impl Strategy<Value = Endpoint> {
    proptest::sample::select(Endpoint::ALL.to_vec())
}

fn speaking() -> impl Strategy<Value = Endpoint> {
    endpoint().prop_filter("it streams", |endpoint| !endpoint.embeds())
}

fn is_native(endpoint: Endpoint) -> bool {
    endpoint.path().starts_with("/api/")
}

/// What a request of the endpoint must have.
fn needed(endpoint: Endpoint, stream: bool, prompt: &str) -> Vec<Member> {
    let mut members = vec![Member::new("model", "\"m\""), Member::new("stream", &stream.to_string())];
    let messages = || Member::new("messages", &format!("[{{\"role\":\"user\",\"content\":{prompt}, \"x\":1.0}}]"));
    match endpoint {
        Endpoint::ChatCompletions | Endpoint::Chat => members.push(messages()),
        Endpoint::Messages => members.extend([messages(), Member::new("max_tokens", " 7")]),
        Endpoint::Completions | Endpoint::Generate | Endpoint::EmbedOne => members.push(Member::new("prompt", prompt)),
        Endpoint::Embeddings | Endpoint::Embed | Endpoint::Responses => members.push(Member::new("input", prompt)),
    }
    members
}

/// Values that Ollama takes of a field that is taken out.
fn well_formed(name: &str) -> &'static [&'static str] {
    match name.replace("\\u0073", "s").to_lowercase().as_str() {
        "keep_alive" => &["0", "-1", "1.5", "\"5m\"", "\"-1h30m\"", "\"\"", "null"],
        "shift" => &["true", "false", "null"],
        _ => &["\"\"", "\"{{ .Prompt }}\"", "\"\\ud83d\"", "null"],
    }
}

fn rewritten(endpoint: Endpoint, body: &str, cap: Option<u64>) -> String {
    let mut request = InferenceRequest::parse(endpoint, body.as_bytes()).unwrap_or_else(|bad| panic!("{bad}: {body}"));
    assert_eq!(request.idle, None, "{body}");
    String::from_utf8(request.rewrite(Bytes::from(body.to_owned()), cap).to_vec()).unwrap()
}

/// The members of an object and their raw values, in order.
fn members_of(body: &str) -> Vec<(String, String)> {
    struct Members;
    impl<'de> serde::de::Visitor<'de> for Members {
        type Value = Vec<(String, String)>;
        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("an object")
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some((name, value)) = map.next_entry::<String, Box<serde_json::value::RawValue>>()? {
                members.push((name, value.get().to_owned()));
            }
            Ok(members)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(body);
    serde::de::Deserializer::deserialize_map(&mut deserializer, Members)
        .unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// The pieces between the cuts.
fn cut(text: &str, cuts: &[Index]) -> Vec<Bytes> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    cuts.extend([0, text.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| Bytes::copy_from_slice(&text.as_bytes()[pair[0]..pair[1]])).collect()
}

fn cuts() -> impl Strategy<Value = Vec<Index>> {
    proptest::collection::vec(any::<Index>(), 0..12)
}

fn edited(endpoint: Endpoint, hide_usage: bool, pieces: Vec<Bytes>) -> (String, bool) {
    let mut editor = StreamEditor::new(endpoint, ID, hide_usage);
    let mut out = Vec::new();
    for piece in pieces {
        editor.push(piece, &mut out).unwrap();
    }
    (String::from_utf8(out).unwrap(), editor.progress().done)
}

fn id_of(endpoint: Endpoint) -> String {
    let prefix = match endpoint {
        Endpoint::ChatCompletions => "chatcmpl-",
        Endpoint::Completions => "cmpl-",
        Endpoint::Responses => "resp_",
        Endpoint::Messages => "msg_",
        _ => panic!("its answers have no id"),
    };
    format!("\"{prefix}{ID}\"")
}

fn has_id(endpoint: Endpoint) -> bool {
    !is_native(endpoint) && !endpoint.embeds()
}

/// One frame of a stream, as the node sends it and as the client gets it.
#[derive(Clone, Debug)]
struct Frame {
    sent: String,
    got: String,
}

/// A frame whose text holds the answer's id where `ID?` stands.
fn frame(endpoint: Endpoint, kind: Option<&str>, data: &str, old_id: &str) -> Frame {
    let write = |id: &str| {
        let data = data.replace("ID?", id);
        match kind {
            _ if is_native(endpoint) => format!("{data}\n"),
            Some(kind) => format!("event: {kind}\ndata: {data}\n\n"),
            None => format!("data: {data}\n\n"),
        }
    };
    let new_id = if has_id(endpoint) { id_of(endpoint) } else { old_id.to_owned() };
    Frame { sent: write(old_id), got: write(&new_id) }
}

/// A frame in the middle of a stream of the endpoint, with members that nobody knows.
fn middle(endpoint: Endpoint, unknown: Vec<Member>, content: &str, places: &[Index]) -> Frame {
    let members = match endpoint {
        Endpoint::ChatCompletions => vec![
            Member::new("id", "ID?"),
            Member::new("model", "\"m\""),
            Member::new(
                "choices",
                &format!("[{{\"index\":0,\"delta\":{{\"content\":{content}}},\"finish_reason\":null}}]"),
            ),
        ],
        Endpoint::Completions => {
            vec![Member::new("id", "ID?"), Member::new("choices", &format!("[{{\"text\":{content}, \"index\":0}}]"))]
        }
        Endpoint::Responses => {
            let delta = "\"response.output_text.delta\"";
            vec![Member::new("type", delta), Member::new("delta", content), Member::new("item_id", "\"msg_7\"")]
        }
        Endpoint::Messages => {
            vec![
                Member::new("type", "\"content_block_delta\""),
                Member::new("delta", &format!("{{\"text\":{content}}}")),
            ]
        }
        Endpoint::Chat => {
            vec![Member::new("message", &format!("{{\"content\":{content}}}")), Member::new("done", "false")]
        }
        _ => vec![Member::new("response", content), Member::new("done", "false")],
    };
    let kind = match endpoint {
        Endpoint::Responses => Some("response.output_text.delta"),
        Endpoint::Messages => Some("content_block_delta"),
        _ => None,
    };
    // One-line frames: a line end within one would be another frame's.
    let data = object(&mixed(members, unknown, places)).replace(['\n', '\r'], " ");
    frame(endpoint, kind, &data, "\"chatcmpl-7\"")
}

/// The frames around the middle.
fn ends(endpoint: Endpoint, hide_usage: bool) -> (Vec<Frame>, Vec<Frame>) {
    let frame = |kind: Option<&str>, data: &str| frame(endpoint, kind, data, "\"chatcmpl-7\"");
    match endpoint {
        Endpoint::ChatCompletions | Endpoint::Completions => {
            let usage = r#"{"id":ID?,"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#;
            let mut usage = frame(None, usage);
            if hide_usage {
                usage.got.clear();
            }
            (vec![], vec![usage, frame(None, "[DONE]")])
        }
        Endpoint::Responses => (
            vec![frame(Some("response.created"), r#"{"type":"response.created","response":{"x":1.0, "id":ID?}}"#)],
            vec![frame(
                Some("response.completed"),
                r#"{"type":"response.completed","response":{"id" : ID?,"usage":{"input_tokens":1,"output_tokens":2}}}"#,
            )],
        ),
        Endpoint::Messages => (
            vec![frame(Some("message_start"), r#"{"type":"message_start","message":{"id":ID?, "content":[]}}"#)],
            vec![
                frame(
                    Some("message_delta"),
                    r#"{"type":"message_delta","usage":{"input_tokens":1,"output_tokens":2}}"#,
                ),
                frame(Some("message_stop"), r#"{"type":"message_stop"}"#),
            ],
        ),
        _ => (vec![], vec![frame(None, r#" {"done" : true,"eval_count":2, "id":"kept"}"#)]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_request_without_a_reason_for_an_edit_reaches_the_node_byte_for_byte(
        endpoint in endpoint(), unknown in unknown(), prompt in text(), places in places(), around in blank(),
    ) {
        let prompt = format!("\"x{}", &prompt[1..]);
        let members = mixed(needed(endpoint, is_native(endpoint), &prompt), unknown, &places);
        let body = format!("{around}{}{around}", object(&members));
        prop_assert_eq!(rewritten(endpoint, &body, None), body.clone());
        if endpoint.embeds() && !is_native(endpoint) {
            prop_assert_eq!(rewritten(endpoint, &body, Some(9)), body, "vectors have no length");
        }
    }

    #[test]
    fn a_stream_asks_for_its_usage_and_everything_else_stays(
        completions: bool, unknown in unknown(), prompt in text(), places in places(), asked in proptest::option::of(any::<bool>()),
    ) {
        let endpoint = if completions { Endpoint::Completions } else { Endpoint::ChatCompletions };
        let mut members = needed(endpoint, true, &prompt);
        members.extend(asked.map(|asked| Member::new("stream_options", &format!("{{ \"include_usage\" :{asked}}}"))));
        let body = object(&mixed(members, unknown, &places));
        let sent = rewritten(endpoint, &body, None);
        match asked {
            Some(true) => prop_assert_eq!(sent, body),
            Some(false) => prop_assert_eq!(
                sent, body.replace("\"stream_options\":{ \"include_usage\" :false}", "\"stream_options\":{\"include_usage\":true}")
            ),
            None => prop_assert_eq!(sent, format!("{{\"stream_options\":{{\"include_usage\":true}},{}", &body[1..])),
        }
    }

    #[test]
    fn what_is_taken_out_of_a_native_request_leaves_every_other_member_as_it_was(
        endpoint in endpoint().prop_filter("Ollama's own", |endpoint| is_native(*endpoint)), unknown in unknown(),
        places in places(), gone in proptest::collection::vec((proptest::sample::select(
            vec!["keep_alive", "shift", "template", "Keep_Alive", "\\u0073hift", "TEMPLATE"]), any::<Index>()), 1..4),
    ) {
        // A second `keep_alive` of a kind that is read is another matter: it is refused.
        let mut folded = std::collections::BTreeSet::new();
        let gone: Vec<(&str, Index)> = gone.into_iter()
            .filter(|(name, _)| folded.insert(name.replace("\\u0073", "s").to_lowercase()))
            .filter(|(name, _)| *name != "Keep_Alive")
            .collect();
        let kept = mixed(needed(endpoint, true, "\"hi\""), unknown, &places);
        let member = |(name, which): &(&str, Index)| {
            let values = well_formed(name);
            Member::new(name, values[which.index(values.len())])
        };
        let gone: Vec<Member> = gone.iter().map(member).collect();
        let body = object(&mixed(kept.clone(), gone, &places[3..]));
        prop_assert_eq!(members_of(&rewritten(endpoint, &body, None)), members_of(&object(&kept)));
    }

    #[test]
    fn a_cap_changes_nothing_but_the_limit(
        endpoint in speaking(), unknown in unknown(), places in places(), options in unknown(), given: bool,
    ) {
        let name = match endpoint {
            Endpoint::Responses => "max_output_tokens",
            Endpoint::Messages => return Ok(()),
            _ if is_native(endpoint) => "options",
            _ => "max_tokens",
        };
        let mut members = needed(endpoint, is_native(endpoint), "\"hi\"");
        if is_native(endpoint) && given {
            members.push(Member::new("options", &object(&options)));
        }
        let body = object(&mixed(members, unknown, &places));
        let before = members_of(&body);
        let after = members_of(&rewritten(endpoint, &body, Some(9)));
        let rest = |members: &[(String, String)]| -> Vec<(String, String)> {
            members.iter().filter(|(member, _)| member != name).cloned().collect()
        };
        prop_assert_eq!(rest(&before), rest(&after));
        let limit = &after.iter().find(|(member, _)| member == name).unwrap().1;
        if is_native(endpoint) {
            let mut expected = if given { members_of(&object(&options)) } else { Vec::new() };
            expected.push(("num_predict".to_owned(), "9".to_owned()));
            prop_assert_eq!(members_of(limit), expected);
        } else {
            prop_assert_eq!(limit, "9");
        }
    }

    #[test]
    fn another_name_changes_nothing_but_the_model(
        endpoint in endpoint(), unknown in unknown(), prompt in text(), places in places(),
    ) {
        let prompt = format!("\"x{}", &prompt[1..]);
        let body = object(&mixed(needed(endpoint, is_native(endpoint), &prompt), unknown, &places));
        let mut request = InferenceRequest::parse(endpoint, body.as_bytes()).unwrap();
        request.ask_for("hf.co/a/b:c");
        let sent = request.rewrite(Bytes::from(body.clone()), None);
        prop_assert_eq!(sent, body.replacen("\"model\":\"m\"", "\"model\":\"hf.co/a/b:c\"", 1));
    }

    #[test]
    fn a_plain_answer_reaches_the_client_byte_for_byte_but_for_its_id(
        endpoint in endpoint(), unknown in unknown(), content in value(), places in places(), id in text(), around in blank(),
    ) {
        let content = match endpoint {
            Endpoint::ChatCompletions | Endpoint::Completions => {
                Member::new("choices", &format!("[{{\"message\":{content}, \"finish_reason\":\"stop\"}}]"))
            }
            Endpoint::Embeddings => Member::new("data", &format!("[{content}]")),
            Endpoint::Responses => Member::new("output", &format!("[{content}]")),
            Endpoint::Messages => Member::new("content", &format!("[{content}]")),
            Endpoint::Chat => Member::new("message", &format!("[{content}]")),
            Endpoint::Generate => Member::new("response", &format!("[{content}]")),
            Endpoint::Embed => Member::new("embeddings", &format!("[{content}]")),
            Endpoint::EmbedOne => Member::new("embedding", &format!("[{content}]")),
        };
        let members = [content, Member::new("done", " true"), Member::new("id", "ID?")];
        let answer = format!("{around}{}{around}", object(&mixed(members.to_vec(), unknown, &places)));
        let (got, _) = edit_answer(endpoint, Bytes::from(answer.replace("ID?", &id)), ID).unwrap();
        let expected = if has_id(endpoint) { id_of(endpoint) } else { id };
        prop_assert_eq!(got, answer.replace("ID?", &expected));
    }

    #[test]
    fn a_stream_reaches_the_client_byte_for_byte_but_for_the_documented_edits_wherever_it_is_cut(
        endpoint in speaking(), hide_usage: bool, cuts in cuts(), comment in proptest::option::of("[a-z \u{2603}]{0,9}"),
        frames in proptest::collection::vec((unknown(), text(), places()), 1..6),
    ) {
        let (first, last) = ends(endpoint, hide_usage);
        let mut stream = first;
        stream.extend(frames.into_iter().map(|(unknown, content, places)| middle(endpoint, unknown, &content, &places)));
        if let Some(comment) = comment.filter(|_| !is_native(endpoint)) {
            let comment = format!(":{comment}\n\n");
            stream.push(Frame { sent: comment.clone(), got: comment });
        }
        stream.extend(last);
        let sent: String = stream.iter().map(|frame| frame.sent.as_str()).collect();
        let expected: String = stream.iter().map(|frame| frame.got.as_str()).collect();
        let (got, done) = edited(endpoint, hide_usage, cut(&sent, &cuts));
        prop_assert_eq!(got, expected);
        prop_assert!(done);
    }

    #[test]
    fn usage_that_nobody_asked_for_leaves_a_chunk_as_it_was_otherwise(
        unknown in unknown(), content in text(), places in places(), cuts in cuts(), usage in value(),
    ) {
        let chunk = |usage: Option<&str>| {
            let mut members = vec![Member::new("id", "\"cmpl-7\""), Member::new("choices", &format!("[{{\"text\":{content}}}]"))];
            members = mixed(members, unknown.clone(), &places);
            // Behind a member that stays, whose comma goes with it.
            if let Some(usage) = usage {
                let at = 1 + places[0].index(members.len());
                members.insert(at, Member::new("usage", usage));
            }
            format!("data: {}\n\n", object(&members).replace(['\n', '\r'], " "))
        };
        let sent = chunk(Some(&usage.replace(['\n', '\r'], " ")));
        let (hidden, _) = edited(Endpoint::Completions, true, cut(&sent, &cuts));
        let (shown, _) = edited(Endpoint::Completions, false, cut(&sent, &cuts));
        let renamed = |text: String| text.replace("\"id\":\"cmpl-7\"", &format!("\"id\":{}", id_of(Endpoint::Completions)));
        prop_assert_eq!(shown, renamed(sent));
        prop_assert_eq!(members_of(&hidden[6..]), members_of(&renamed(chunk(None))[6..]));
    }
}
