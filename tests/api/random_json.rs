//! Random JSON: members of an object in any order, with blanks, escapes and values of every kind.
use proptest::prelude::*;
use proptest::sample::Index;

/// A member of a JSON object as it is written, with the blanks around it.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub name: String,
    pub text: String,
}

impl Member {
    pub fn new(name: &str, value: &str) -> Self {
        Self { name: name.to_owned(), text: format!("\"{name}\":{value}") }
    }
}

pub fn object(members: &[Member]) -> String {
    let texts: Vec<&str> = members.iter().map(|member| member.text.as_str()).collect();
    format!("{{{}}}", texts.join(","))
}

pub fn blank() -> impl Strategy<Value = String> {
    prop_oneof![4 => Just(String::new()), 1 => "[ \\n\\t\\r]{1,3}"]
}

/// Any JSON value as somebody could write it: numbers and escapes that no serialiser would give back as they were.
pub fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,4})?([eE][+-]?[0-9]{1,2})?",
        text(),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let items = proptest::collection::vec((blank(), inner.clone(), blank()), 0..4);
        let members = proptest::collection::vec((blank(), text(), blank(), inner, blank()), 0..4);
        prop_oneof![
            items.prop_map(|items| {
                let items: Vec<String> = items.into_iter().map(|(a, item, b)| format!("{a}{item}{b}")).collect();
                format!("[{}]", items.join(","))
            }),
            members.prop_map(|members| {
                let write = |(a, name, b, value, c)| format!("{a}{name}{b}:{value}{c}");
                format!("{{{}}}", members.into_iter().map(write).collect::<Vec<String>>().join(","))
            }),
        ]
    })
}

/// A JSON string with its quotes: letters, other scripts, what looks like a frame's end, and escapes.
pub fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[a-zA-Z0-9 :{}\\[\\],_-]{0,8}",
        "[\\u{e9}\\u{2603}\\u{1f600}\\u{1f469}\\u{200d}]{1,3}",
        prop_oneof![
            Just("\\n\\n"),
            Just("\\\""),
            Just("\\\\"),
            Just("\\u00e9"),
            Just("\\ud83d\\ude00"),
            Just("data: "),
            Just("[DONE]"),
            Just("usage"),
            Just("chatcmpl-7")
        ]
        .prop_map(str::to_owned),
    ];
    proptest::collection::vec(part, 0..4).prop_map(|parts| format!("\"{}\"", parts.concat()))
}

/// Members that neither the gateway nor Ollama knows.
pub fn unknown() -> impl Strategy<Value = Vec<Member>> {
    let member = (blank(), "x_[a-zA-Z_]{0,6}", blank(), blank(), value(), blank());
    let member = member.prop_map(|(a, name, b, c, value, d)| {
        let text = format!("{a}\"{name}\"{b}:{c}{value}{d}");
        Member { name, text }
    });
    proptest::collection::vec(member, 0..5)
}

/// Mixes two lists, each in its order.
pub fn mixed(mut into: Vec<Member>, from: Vec<Member>, places: &[Index]) -> Vec<Member> {
    for (member, place) in from.into_iter().zip(places.iter().cycle()) {
        let at = place.index(into.len() + 1);
        into.insert(at, member);
    }
    into
}

pub fn places() -> impl Strategy<Value = Vec<Index>> {
    proptest::collection::vec(any::<Index>(), 8)
}
