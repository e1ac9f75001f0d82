//! What of a request is read, refused and rewritten?
use proptest::prelude::*;

use super::*;

fn chat(body: &str) -> Result<InferenceRequest, BadRequest> {
    InferenceRequest::parse(Endpoint::ChatCompletions, body.as_bytes())
}

fn rewritten(body: &str, cap: Option<u64>) -> String {
    let mut request = chat(body).unwrap();
    String::from_utf8(request.rewrite(Bytes::from(body.to_owned()), cap).to_vec()).unwrap()
}

const ONE: &str = r#""messages":[{"role":"user","content":"hi"}]"#;

#[test]
fn a_plain_request_passes_unchanged() {
    let body = format!(r#" {{"model":"m", {ONE}, "x": 1.0e2 }}"#);
    assert_eq!(rewritten(&body, None), body);
}

#[test]
fn a_stream_asks_for_its_usage() {
    let body = format!(r#" {{"model":"m","stream":true,{ONE}}}"#);
    let expected = format!(r#" {{"stream_options":{{"include_usage":true}},"model":"m","stream":true,{ONE}}}"#);
    assert_eq!(rewritten(&body, None), expected);
    let body = format!(r#"{{"model":"m","stream":true,"stream_options":{{"include_usage": false}},{ONE}}}"#);
    assert_eq!(rewritten(&body, None), body.replace(r#"{"include_usage": false}"#, r#"{"include_usage":true}"#));
    let body = format!(r#"{{"model":"m","stream":true,"stream_options":{{"include_usage":true}},{ONE}}}"#);
    assert_eq!(rewritten(&body, None), body);
}

#[test]
fn the_newer_name_of_max_tokens_reaches_the_node_and_a_cap_only_where_there_is_none() {
    let body = format!(r#"{{"model":"m","max_completion_tokens":7,{ONE}}}"#);
    assert!(rewritten(&body, Some(5)).starts_with(r#"{"max_tokens":7,"#));
    let body = format!(r#"{{"model":"m","max_tokens":9,{ONE}}}"#);
    assert_eq!(rewritten(&body, Some(5)), body);
    let body = format!(r#"{{"model":"m","max_tokens":null,{ONE}}}"#);
    assert!(rewritten(&body, Some(5)).contains(r#""max_tokens":5"#));
    let body = format!(r#"{{"model":"m","max_tokens":9,"max_completion_tokens":7,{ONE}}}"#);
    assert!(rewritten(&body, None).contains(r#""max_tokens":7"#));
}

#[test]
fn a_limit_may_be_written_in_any_way_that_is_a_whole_number() {
    for (written, sent) in [("7.0", "7"), ("1e2", "100"), ("99999999999", "2147483647"), ("7", "7")] {
        let body = format!(r#"{{"model":"m","max_tokens": {written},{ONE}}}"#);
        assert_eq!(rewritten(&body, Some(5)), body.replace(written, sent));
        let body = format!(r#"{{"model":"m","max_completion_tokens": {written},{ONE}}}"#);
        assert!(rewritten(&body, None).starts_with(&format!(r#"{{"max_tokens":{sent},"#)), "{written}");
        let body = format!(r#"{{"model":"m","max_output_tokens": {written},"input":"hi"}}"#);
        assert_eq!(native(Endpoint::Responses, &body, None).1["max_output_tokens"].to_string(), sent);
    }
    for wrong in ["0.5", "7.5", "0.0", "-2", "-1.5", "1e999"] {
        assert!(chat(&format!(r#"{{"model":"m","max_tokens":{wrong},{ONE}}}"#)).is_err(), "{wrong}");
    }
}

#[test]
fn bad_bodies_name_the_field() {
    for (body, param) in [
        (format!(r#"{{{ONE}}}"#), "model"),
        (format!(r#"{{"model":7,{ONE}}}"#), "model"),
        (format!(r#"{{"model":"",{ONE}}}"#), "model"),
        (format!(r#"{{"model":"a\nb",{ONE}}}"#), "model"),
        (r#"{"model":"m"}"#.to_owned(), "messages"),
        (r#"{"model":"m","messages":null}"#.to_owned(), "messages"),
        (r#"{"model":"m","messages":"string"}"#.to_owned(), "messages"),
        (r#"{"model":"m","messages":[]}"#.to_owned(), "messages"),
        (r#"{"model":"m","messages":[123]}"#.to_owned(), "messages"),
        (r#"{"model":"m","messages":[{}]}"#.to_owned(), "messages"),
        (r#"{"model":"m","messages":[{"role":"user","content":5}]}"#.to_owned(), "messages"),
        (format!(r#"{{"model":"m","stream":"yes",{ONE}}}"#), "stream"),
        (format!(r#"{{"model":"m","stream_options":true,{ONE}}}"#), "stream_options"),
        (format!(r#"{{"model":"m","max_tokens":0,{ONE}}}"#), "max_tokens"),
        (format!(r#"{{"model":"m","max_tokens":-2,{ONE}}}"#), "max_tokens"),
        (format!(r#"{{"model":"m","max_tokens":"9",{ONE}}}"#), "max_tokens"),
        (format!(r#"{{"model":"m","_Debug_Render_Only":true,{ONE}}}"#), "_debug_render_only"),
    ] {
        assert_eq!(chat(&body).unwrap_err().param, Some(param), "{body}");
    }
    for body in ["", "{", "[]", "\"x\"", "null", "{\"model\":\"m\"} x"] {
        assert_eq!(chat(body).unwrap_err().param, None, "{body}");
    }
}

#[test]
fn another_spelling_of_a_field_that_is_read_is_refused() {
    for twin in
        [r#""Stream":true"#, r#""\u017ftream":true"#, r#""MODEL":"n""#, r#""max_to\u212aens":9"#, r#""model":"n""#]
    {
        let body = format!(r#"{{"model":"m",{twin},{ONE}}}"#);
        assert!(chat(&body).is_err(), "{body}");
    }
}

#[test]
fn another_spelling_within_a_field_is_refused_too() {
    for options in [
        r#"{"include_usage":true,"Include_Usage":false}"#,
        r#"{"include_usage":true,"include_usage":false}"#,
        r#"{"INCLUDE_USAGE":true}"#,
        r#"{"include_usage":1}"#,
    ] {
        let body = format!(r#"{{"model":"m","stream":true,"stream_options":{options},{ONE}}}"#);
        assert_eq!(chat(&body).unwrap_err().param, Some("stream_options"), "{body}");
    }
    let body = r#"{"model":"m","prompt":"x","options":{"num_predict":1,"num_predict":9}}"#;
    assert_eq!(InferenceRequest::parse(Endpoint::Generate, body.as_bytes()).unwrap_err().param, Some("options"));
}

#[test]
fn images_are_bounded_by_number_and_only_data_urls_pass() {
    let image = |url: &str| {
        format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"{url}"}}}}]}}]}}"#
        )
    };
    let small = chat(&image("data:image/png;base64,AA")).unwrap().prompt_bound;
    let large = chat(&image(&format!("data:image/png;base64,{}", "A".repeat(100_000)))).unwrap().prompt_bound;
    assert_eq!(small, large);
    assert!(small > 4096);
    assert!(chat(&image("https://example.org/x.png")).is_err());
}

#[test]
fn embeddings_take_a_string_or_a_list() {
    let parse = |body: &str| InferenceRequest::parse(Endpoint::Embeddings, body.as_bytes());
    assert!(parse(r#"{"model":"m","input":"a"}"#).is_ok());
    assert!(parse(r#"{"model":"m","input":["a","b"]}"#).is_ok());
    assert!(parse(r#"{"model":"m","input":7}"#).is_err());
    assert!(parse(r#"{"model":"m"}"#).is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = InferenceRequest::parse(Endpoint::ChatCompletions, &bytes);
    }

    #[test]
    fn edits_leave_valid_json_with_every_other_member_as_it_was(
        stream: bool, usage: Option<bool>, max in proptest::option::of(1u64..9), newer in proptest::option::of(1u64..9),
        cap in proptest::option::of(1u64..9), blank in "[ \n\t]{0,3}", text in "\\PC{0,20}",
    ) {
        let mut members = vec![format!("\"model\":{blank}\"m\""), format!("\"stream\":{stream}")];
        members.extend(usage.map(|usage| format!("\"stream_options\":{blank}{{\"include_usage\":{usage}}}")));
        members.extend(max.map(|max| format!("\"max_tokens\":{max}{blank}")));
        members.extend(newer.map(|newer| format!("{blank}\"max_completion_tokens\":{newer}")));
        let text = serde_json::to_string(&text).unwrap();
        members.push(format!("\"messages\":[{{\"role\":\"user\",\"content\":{text}}}]"));
        let body = format!("{blank}{{{blank}{}{blank}}}", members.join(","));
        let before: serde_json::Value = serde_json::from_str(&body).unwrap();
        let mut after: serde_json::Value = serde_json::from_str(&rewritten(&body, cap)).unwrap();
        prop_assert_eq!(after["max_tokens"].as_u64(), newer.or(max).or(cap));
        if stream { prop_assert_eq!(&after["stream_options"]["include_usage"], true); }
        for key in ["max_tokens", "stream_options"] {
            match before.get(key) {
                Some(value) => after[key] = value.clone(),
                None => { after.as_object_mut().unwrap().remove(key); }
            }
        }
        prop_assert_eq!(before, after);
    }
}

fn native(endpoint: Endpoint, body: &str, cap: Option<u64>) -> (InferenceRequest, serde_json::Value) {
    let mut request = InferenceRequest::parse(endpoint, body.as_bytes()).unwrap();
    let body = request.rewrite(Bytes::from(body.to_owned()), cap);
    (request, serde_json::from_slice(&body).unwrap())
}

#[test]
fn what_would_reload_a_model_for_everybody_is_taken_out() {
    let body = r#"{"model":"m","keep_alive":0,"Template":"5m","shift":false,"template":"x","options":{"num_ctx":8192,"temperature": 0.5,"num_gpu":1},"messages":[{"role":"user","content":"hi"}]}"#;
    let (request, sent) = native(Endpoint::Chat, body, None);
    assert_eq!(
        sent,
        serde_json::json!({"model":"m","options":{"temperature":0.5},"messages":[{"role":"user","content":"hi"}]})
    );
    assert!(request.stream && request.idle.is_none());
    let (_, sent) = native(Endpoint::Chat, body, Some(7));
    assert_eq!(sent["options"], serde_json::json!({"temperature":0.5,"num_predict":7}));
}

#[test]
fn the_cap_of_the_native_dialect_stands_among_the_options() {
    let one = r#""messages":[{"role":"user","content":"hi"}]"#;
    for (options, cap) in [
        ("", 7),
        (r#""options":{},"#, 7),
        (r#""options":{"num_ctx":1},"#, 7),
        (r#""options":null,"#, 7),
        (r#""options":{"num_predict":-1},"#, 7),
        (r#""options":{"num_predict":-2,"num_ctx":1},"#, 7),
        (r#""options":{"num_predict":0.5},"#, 7),
        (r#""options":{"num_predict":5,"num_ctx":1},"#, 5),
    ] {
        let (_, sent) = native(Endpoint::Chat, &format!("{{\"model\":\"m\",{options}{one}}}"), Some(7));
        assert_eq!(sent["options"], serde_json::json!({"num_predict": cap}), "{options}");
    }
}

#[test]
fn a_limit_of_the_native_dialect_is_any_number_and_stays_as_it_came() {
    let one = r#""messages":[{"role":"user","content":"hi"}]"#;
    for (limit, means) in [
        ("5.0", Some(5)),
        ("5.7", Some(5)),
        ("1e2", Some(100)),
        ("-2", None),
        ("0", None),
        ("1e30", Some(i32::MAX as u64)),
    ] {
        for other in ["", r#","num_ctx":1"#] {
            let body = format!("{{\"model\":\"m\",\"options\":{{\"num_predict\":{limit}{other}}},{one}}}");
            let mut request = InferenceRequest::parse(Endpoint::Chat, body.as_bytes()).unwrap();
            assert_eq!(request.max_output, means, "{limit}");
            let sent = request.rewrite(Bytes::from(body), None);
            assert!(String::from_utf8_lossy(&sent).contains(&format!("{{\"num_predict\":{limit}}}")), "{limit}");
        }
    }
    let body = format!("{{\"model\":\"m\",\"options\":{{\"num_predict\":\"5\"}},{one}}}");
    assert_eq!(InferenceRequest::parse(Endpoint::Chat, body.as_bytes()).unwrap_err().param, Some("options"));
}

#[test]
fn a_model_that_the_path_names_counts_for_more_than_that_of_the_body() {
    let sent = |model: &str, ask_for: &str| {
        let body = format!("{{{model}{ONE}}}");
        let mut request = InferenceRequest::parse_for(Endpoint::ChatCompletions, body.as_bytes(), Some("d")).unwrap();
        assert_eq!(request.model, "d");
        request.ask_for(ask_for);
        String::from_utf8(request.rewrite(Bytes::from(body), None).to_vec()).unwrap()
    };
    assert_eq!(sent("", "d"), format!(r#"{{"model":"d",{ONE}}}"#));
    assert_eq!(sent("", "e"), format!(r#"{{"model":"e",{ONE}}}"#));
    assert_eq!(sent(r#""model": "m","#, "d"), format!(r#"{{"model": "d",{ONE}}}"#));
    assert_eq!(sent(r#""model":null,"#, "d"), format!(r#"{{"model":"d",{ONE}}}"#));
    assert_eq!(sent(r#""model": "d","#, "d"), format!(r#"{{"model": "d",{ONE}}}"#));
}

#[test]
fn a_request_without_a_prompt_needs_no_node() {
    let idle = |endpoint, body| native(endpoint, body, None).0.idle;
    assert_eq!(idle(Endpoint::Generate, r#"{"model":"m"}"#), Some(Idle::Load));
    assert_eq!(idle(Endpoint::Generate, r#"{"model":"m","prompt":"","keep_alive":"0s"}"#), Some(Idle::Unload));
    assert_eq!(idle(Endpoint::Chat, r#"{"model":"m","messages":[],"keep_alive":0}"#), Some(Idle::Unload));
    assert_eq!(idle(Endpoint::Chat, r#"{"model":"m","keep_alive":-1}"#), Some(Idle::Load));
    assert_eq!(idle(Endpoint::Generate, r#"{"model":"m","prompt":"hi"}"#), None);
}

#[test]
fn the_other_dialects_name_their_limit_in_their_own_way() {
    let responses = r#"{"model":"m","input":"hi"}"#;
    assert_eq!(native(Endpoint::Responses, responses, Some(7)).1["max_output_tokens"], 7);
    let messages = r#"{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"hi"}]}"#;
    let (request, sent) = native(Endpoint::Messages, messages, Some(7));
    assert_eq!((request.max_output, &sent["max_tokens"]), (Some(5), &serde_json::json!(5)));
    let without = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
    assert_eq!(InferenceRequest::parse(Endpoint::Messages, without.as_bytes()).unwrap_err().param, Some("max_tokens"));
}

#[test]
fn a_limit_of_minus_one_is_no_limit_of_the_clients_own() {
    for (written, plain) in [("-1", "-1"), ("-1.0", "-1")] {
        let body = format!(r#"{{"model":"m","max_tokens": {written},{ONE}}}"#);
        assert_eq!(chat(&body).unwrap().max_output, None, "{written}");
        assert_eq!(rewritten(&body, None), body.replace(&format!(" {written},"), &format!(" {plain},")));
        assert_eq!(rewritten(&body, Some(5)), body.replace(&format!(" {written},"), " 5,"));
        let newer = format!(r#"{{"model":"m","max_completion_tokens":{written},{ONE}}}"#);
        assert_eq!((rewritten(&newer, None), chat(&newer).unwrap().max_output), (newer, None));
        let both = format!(r#"{{"model":"m","max_tokens":9,"max_completion_tokens":{written},{ONE}}}"#);
        assert_eq!((rewritten(&both, Some(5)), chat(&both).unwrap().max_output), (both, Some(9)));
        let other = format!(r#"{{"model":"m","max_tokens":{written},"max_completion_tokens":7,{ONE}}}"#);
        assert_eq!(chat(&other).unwrap().max_output, Some(7));
        let responses = format!(r#"{{"model":"m","max_output_tokens":{written},"input":"hi"}}"#);
        assert_eq!(native(Endpoint::Responses, &responses, Some(5)).1["max_output_tokens"], 5);
        let messages = format!(r#"{{"model":"m","max_tokens":{written},{ONE}}}"#);
        assert!(InferenceRequest::parse(Endpoint::Messages, messages.as_bytes()).is_err(), "{written}");
    }
}

#[test]
fn half_surrogates_pass() {
    let body = r#"{"model":"m","prompt":"\ud83d","\ud83d":1}"#;
    for endpoint in [Endpoint::Completions, Endpoint::Generate, Endpoint::EmbedOne] {
        let request = InferenceRequest::parse(endpoint, body.as_bytes()).unwrap();
        assert_eq!(request.idle, None);
    }
}

#[test]
fn a_field_that_is_of_another_kind_says_so() {
    let message = |body: &str| chat(body).unwrap_err().message;
    assert_eq!(
        message(&format!(r#"{{"model":"m","stream":"yes",{ONE}}}"#)),
        "`stream` must be true or false; this is a string"
    );
    assert_eq!(message(r#"{"model":["m"],"messages":[]}"#), "`model` must be a string; this is a list");
    assert_eq!(message(r#"{"model":"m","messages":[7]}"#), "`messages` must be a list of messages, each an object");
    assert_eq!(message(""), "the body is not a JSON object: it is empty");
}

#[test]
fn options_without_end_are_refused() {
    let options = (0..300).map(|at| format!("\"x{at}\":1")).collect::<Vec<_>>().join(",");
    let body = format!(r#"{{"model":"m","prompt":"hi","options":{{{options}}}}}"#);
    assert_eq!(InferenceRequest::parse(Endpoint::Generate, body.as_bytes()).unwrap_err().param, Some("options"));
}
