//! Which source wins, and what does its text become? The settings that the tests read are here.
mod mistakes;

use std::num::NonZeroU32;

use serde::Deserialize;

use super::*;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    server: Server,
    admin: Admin,
    nodes: Vec<Node>,
    limits: BTreeMap<String, u32>,
    tls: Option<Tls>,
    mode: Mode,
    database_url: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            server: Server::default(),
            admin: Admin::default(),
            nodes: Vec::new(),
            limits: BTreeMap::from([("per_user".to_owned(), 4)]),
            tls: None,
            mode: Mode::Fair,
            database_url: "sqlite://gateway.db".to_owned(),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Server {
    bind: String,
    workers: u16,
    queue_limit: u32,
    is_open: bool,
    patience: f64,
}

impl Default for Server {
    fn default() -> Self {
        let bind = "127.0.0.1:8000".to_owned();
        Self { bind, workers: 2, queue_limit: 100, is_open: false, patience: 1.5 }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Admin {
    key: Option<String>,
    pin_token: Pin,
    allowed: Vec<String>,
}

/// A type with its own parser, whose error message contains the value.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String")]
struct Pin(String);

impl TryFrom<String> for Pin {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if text.len() > 4 { Err(format!("the pin `{text}` is too long")) } else { Ok(Self(text)) }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    name: String,
    url: String,
    #[serde(default = "one")]
    slots: NonZeroU32,
    #[serde(default)]
    label: Pin,
}

fn one() -> NonZeroU32 {
    NonZeroU32::MIN
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tls {
    certificate: String,
    private_key: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Fair,
    FirstCome,
}

fn variables(environment: &[(&str, &str)]) -> Vec<(String, String)> {
    environment.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn read(text: &str, environment: &[(&str, &str)]) -> Document<Settings> {
    let shown = |mistakes: Vec<Mistake>| panic!("{:#?}", mistakes.iter().map(Mistake::to_string).collect::<Vec<_>>());
    load(Some(("gateway.yaml", text)), variables(environment), &[], |_| Vec::new()).unwrap_or_else(shown)
}

fn mistakes(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let result = load::<Settings>(Some(("gateway.yaml", text)), variables(environment), &[], |_| Vec::new());
    result.expect_err("a mistake").iter().map(Mistake::to_string).collect()
}

#[test]
fn without_any_source_the_defaults_hold() {
    let document = load::<Settings>(None, [], &[], |_| Vec::new()).unwrap();
    assert_eq!(document.value.server.bind, "127.0.0.1:8000");
    assert_eq!(document.locate("server.bind"), ("defaults".to_owned(), None));
    assert!(document.overrides().is_empty());
    assert_eq!(read("# nothing\n", &[]).value.server.workers, 2);
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
    let text = "server:\n  bind: file\n  workers: 3\nlimits:\n  per_key: 1\n";
    let document = read(text, &[("GATEWAY__SERVER__BIND", "environment"), ("HOME", "/root")]);
    let server = &document.value.server;
    assert_eq!((server.bind.as_str(), server.workers, server.queue_limit), ("environment", 3, 100));
    assert_eq!(document.value.limits, BTreeMap::from([("per_user".to_owned(), 4), ("per_key".to_owned(), 1)]));
    assert_eq!(document.locate("server.bind"), ("GATEWAY__SERVER__BIND".to_owned(), None));
    assert_eq!(document.locate("server.workers"), ("gateway.yaml".to_owned(), Some(3)));
    assert_eq!(document.locate("server.queue_limit"), ("defaults".to_owned(), None));
    assert_eq!(document.locate("server"), ("gateway.yaml".to_owned(), Some(1)));
    assert_eq!(document.overrides(), ["GATEWAY__SERVER__BIND"]);
}

#[test]
fn variables_are_read_as_the_type_needs_it() {
    let environment = [
        ("GATEWAY__ADMIN__KEY", "123456789012345678901234567890"),
        ("GATEWAY__SERVER__WORKERS", "4"),
        ("GATEWAY__SERVER__IS_OPEN", "true"),
        ("GATEWAY__SERVER__PATIENCE", "2"),
        ("GATEWAY__SERVER__BIND", "[::1]:8000"),
        ("GATEWAY__DATABASE_URL", ""),
        ("GATEWAY__MODE", "first_come"),
        ("GATEWAY__ADMIN__PIN_TOKEN", "0012"),
        ("GATEWAY__ADMIN__ALLOWED", r#"["a", "b"]"#),
    ];
    let Settings { server, admin, mode, database_url, .. } = read("", &environment).value;
    assert_eq!(admin.key.as_deref(), Some("123456789012345678901234567890"));
    assert_eq!((server.workers, server.is_open, server.patience), (4, true, 2.0));
    assert_eq!((server.bind.as_str(), database_url.as_str()), ("[::1]:8000", ""));
    assert_eq!((mode, admin.pin_token.0.as_str()), (Mode::FirstCome, "0012"));
    assert_eq!(admin.allowed, ["a", "b"]);
}

#[test]
fn null_in_the_environment_takes_an_optional_value_away() {
    let document = read("admin: {key: abc}\n", &[("GATEWAY__ADMIN__KEY", "null")]);
    assert_eq!(document.value.admin.key, None);
    assert_eq!(read("", &[("GATEWAY__SERVER__BIND", "null")]).value.server.bind, "null");
}

#[test]
fn a_list_from_the_environment_replaces_that_of_the_file() {
    let text = "nodes:\n- {name: x, url: y}\n- {name: z, url: y, slots: 3}\n";
    let nodes = ("GATEWAY__NODES", r#"[{"name":"a","url":"http://127.0.0.1:11434","slots":2}]"#);
    let document = read(text, &[nodes]);
    assert_eq!((document.value.nodes.len(), document.value.nodes[0].slots.get()), (1, 2));
    assert_eq!(document.locate("nodes[0].slots").0, "GATEWAY__NODES");
    assert_eq!(document.locate("nodes[1].slots").0, "GATEWAY__NODES");
    let document = read(text, &[]);
    assert_eq!(document.locate("nodes[1].slots"), ("gateway.yaml".to_owned(), Some(3)));
    let mistake = document.mistake("nodes[1].slots", "too many", Some("use 2".to_owned()));
    assert_eq!(mistake.to_string(), "gateway.yaml:3: nodes[1].slots: too many (use 2)");
}

#[test]
fn a_group_may_be_given_partly_by_each_source() {
    let text = "tls:\n  certificate: a.pem\n";
    let document = read(text, &[("GATEWAY__TLS__PRIVATE_KEY", "b.pem"), ("GATEWAY__SERVER", r#"{"workers": 9}"#)]);
    assert_eq!(document.value.tls.unwrap().private_key, "b.pem");
    assert_eq!((document.value.server.workers, document.value.server.queue_limit), (9, 100));
    let both = [("GATEWAY__TLS__PRIVATE_KEY", "b"), ("GATEWAY__TLS__CERTIFICATE", "a")];
    assert_eq!(read("", &both).value.tls.unwrap().certificate, "a");
    assert_eq!(mistakes(text, &[]), ["gateway.yaml:1: tls.private_key: a value is required"]);
    assert_eq!(mistakes("", &both[..1]), ["GATEWAY__TLS__PRIVATE_KEY: tls.certificate: a value is required"]);
}
