//! Is every mistake found, with its place, and without a secret?
use super::*;

#[test]
fn every_mistake_is_reported_at_once_in_the_order_of_the_file() {
    let text = "\
server:
  bnd: x
  workers: 70000
  patience: \"2\"
  bind: 8000
  bind: a
nodes:
  - name: a
    slots: 0
  - text
  - url: 3
    slot: 1
    label: far too long
  - {name: d, url: u, slots: [1]}
mode: fiar
limits: {a: 1, b: x}
servers: {}
";
    let environment = [("GATEWAY__SERVER__QUEUE_LIMIT", "many"), ("GATEWAY__SERVER__QUEUE_LIMTI", "1")];
    let expected = [
        "gateway.yaml:2: server.bnd: unknown key (did you mean `bind`?)",
        "gateway.yaml:3: server.workers: expected a whole number from 0 to 65535",
        "gateway.yaml:4: server.patience: expected a number (remove the quotes)",
        "gateway.yaml:6: server.bind: the key is given more than once, first on line 5 (keep one of them)",
        "gateway.yaml:8: nodes[0].url: a value is required",
        "gateway.yaml:9: nodes[0].slots: expected a whole number of at least 1",
        "gateway.yaml:10: nodes[1]: expected a group of settings, written as `key: value`",
        "gateway.yaml:11: nodes[2].url: expected a string (put the value in quotes)",
        "gateway.yaml:11: nodes[2].name: a value is required",
        "gateway.yaml:12: nodes[2].slot: unknown key (did you mean `slots`?)",
        "gateway.yaml:13: nodes[2].label: the pin `far too long` is too long",
        "gateway.yaml:14: nodes[3].slots: expected a whole number of at least 1",
        "gateway.yaml:15: mode: expected `fair` or `first_come` (did you mean `fair`?)",
        "gateway.yaml:16: limits.b: expected a whole number from 0 to 4294967295",
        "gateway.yaml:17: servers: unknown key (did you mean `server`?)",
        "GATEWAY__SERVER__QUEUE_LIMTI: server.queue_limti: unknown key (did you mean `GATEWAY__SERVER__QUEUE_LIMIT`?)",
        "GATEWAY__SERVER__QUEUE_LIMIT: server.queue_limit: expected a whole number from 0 to 4294967295",
    ];
    let mut found = mistakes(text, &environment);
    let mut expected = expected.map(str::to_owned);
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let lines: Vec<_> = load::<Settings>(Some(("gateway.yaml", text)), variables(&environment), &[], |_| Vec::new())
        .expect_err("mistakes")
        .iter()
        .map(|mistake| mistake.line.unwrap_or(usize::MAX))
        .collect();
    assert!(lines.is_sorted(), "{lines:?}");
}

#[test]
fn an_unknown_key_that_resembles_none_lists_the_known_ones() {
    let hint = "(known keys: bind, workers, queue_limit, is_open, patience)";
    assert_eq!(mistakes("server: {colour: 1}", &[]), [format!("gateway.yaml:1: server.colour: unknown key {hint}")]);
}

#[test]
fn a_mistake_in_the_file_is_not_hidden_by_the_environment() {
    let found = mistakes("server:\n  workers: x\n", &[("GATEWAY__SERVER__WORKERS", "2")]);
    assert_eq!(found, ["gateway.yaml:2: server.workers: expected a whole number from 0 to 65535"]);
    let found = mistakes("server: x\n", &[("GATEWAY__SERVER__WORKERS", "2")]);
    assert_eq!(found, ["gateway.yaml:1: server: expected a group of settings, written as `key: value`"]);
}

#[test]
fn a_group_whose_members_are_all_commented_out_is_pointed_out() {
    let found = mistakes("server:\n  # bind: x\nmode: fair\n", &[]);
    assert_eq!(found.len(), 1);
    assert!(found[0].ends_with("(the key has no value: give one or remove the key)"), "{found:?}");
}

#[test]
fn a_list_in_the_place_of_a_group_is_refused() {
    let group = "expected a group of settings, written as `key: value`";
    let found = mistakes("server: [x, 1]\nnodes:\n- [a, b]\n- {name: a, url: b}\n", &[]);
    assert_eq!(found, [format!("gateway.yaml:1: server: {group}"), format!("gateway.yaml:3: nodes[0]: {group}")]);
}

#[test]
fn text_that_is_not_yaml_is_one_mistake_next_to_those_of_the_environment() {
    let found = mistakes("server:\n  bind: \"x\n", &[("GATEWAY__SEVER__BIND", "x"), ("GATEWAY__SEVER__WORKERS", "2")]);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with("gateway.yaml:2: not valid YAML at column 9: "), "{found:?}");
    assert_eq!(found[1], "GATEWAY__SEVER__BIND: sever: unknown key (did you mean `GATEWAY__SERVER__BIND`?)");
    assert_eq!(mistakes("- a\n", &[]), ["gateway.yaml:1: expected settings, written as `key: value`"]);
}

#[test]
fn a_single_underscore_between_levels_is_recognised() {
    let found = mistakes("", &[("GATEWAY__SERVER_BIND", "x")]);
    assert_eq!(found, ["GATEWAY__SERVER_BIND: server_bind: unknown key (did you mean `GATEWAY__SERVER__BIND`?)"]);
}

#[test]
fn variables_that_cannot_be_placed_are_mistakes() {
    let found = mistakes(
        "nodes: [{name: a, url: b}]\n",
        &[
            ("GATEWAY__NODES__0__URL", "http://hunter2"),
            ("GATEWAY__SERVER__BIND__PORT", "1"),
            ("GATEWAY__server__bind", "x"),
            ("GATEWAY____BIND", "x"),
        ],
    );
    let expected = [
        "GATEWAY__NODES__0__URL: nodes.0.url: `nodes` is a list, whose elements cannot be set one by one (give the whole list as JSON: GATEWAY__NODES='[…]')",
        "GATEWAY__SERVER__BIND__PORT: server.bind.port: `server.bind` is a single setting, not a group of settings",
        "GATEWAY____BIND: the name has an empty level (such as `GATEWAY__SERVER__BIND`)",
        "GATEWAY__server__bind: the name must be in upper case (write `GATEWAY__SERVER__BIND`)",
    ];
    assert_eq!(found, expected);
}

#[test]
fn json_that_is_broken_or_of_the_wrong_shape_names_the_variable() {
    let found = mistakes("", &[("GATEWAY__NODES", r#"[{"name": hunter2}]"#)]);
    assert_eq!(
        found,
        ["GATEWAY__NODES: nodes: expected a list, and the value is not valid JSON: expected value at line 1 column 11"]
    );
    let found = mistakes("", &[("GATEWAY__NODES", "hunter2")]);
    assert_eq!(found, ["GATEWAY__NODES: nodes: expected a list (give it as JSON: GATEWAY__NODES='[…]')"]);
    let found = mistakes("", &[("GATEWAY__NODES", r#"[{"name":"a","url":"b","slots":0,"lable":""}]"#)]);
    assert_eq!(
        found,
        [
            "GATEWAY__NODES: nodes[0].lable: unknown key (did you mean `label`?)",
            "GATEWAY__NODES: nodes[0].slots: expected a whole number of at least 1",
        ]
    );
}

#[test]
fn a_group_set_to_a_scalar_is_not_hidden_by_its_members() {
    let found = mistakes("", &[("GATEWAY__SERVER", "x"), ("GATEWAY__SERVER__BIND", "y")]);
    assert_eq!(
        found,
        [
            "GATEWAY__SERVER: server: expected a group of settings, written as `key: value`",
            "GATEWAY__SERVER__BIND: server.bind: `server` is a single setting, not a group of settings",
        ]
    );
}

#[test]
fn a_number_in_the_place_of_a_name_lists_the_names() {
    assert_eq!(mistakes("mode: 3\n", &[]), ["gateway.yaml:1: mode: expected `fair` or `first_come`"]);
    assert_eq!(mistakes("", &[("GATEWAY__MODE", "3")]), ["GATEWAY__MODE: mode: expected `fair` or `first_come`"]);
}

#[test]
fn defaults_that_cannot_be_read_back_are_a_mistake() {
    #[derive(Debug, Serialize, Deserialize)]
    #[serde(default)]
    struct Long {
        label: Pin,
    }
    impl Default for Long {
        fn default() -> Self {
            Self { label: Pin("hunter2".to_owned()) }
        }
    }
    let found = load::<Long>(None, [], &[], |_| Vec::new()).expect_err("a mistake");
    assert_eq!(found[0].to_string(), "defaults: label: the pin `hunter2` is too long");
    assert_eq!(load::<Vec<u8>>(None, [], &[], |_| Vec::new()).expect_err("a mistake")[0].source, "defaults");
}

#[test]
fn an_element_that_cannot_be_mended_leaves_the_paths_of_the_others_alone() {
    #[derive(Debug, Default, Serialize, Deserialize)]
    #[serde(default)]
    struct Pins {
        pins: Vec<Required>,
    }
    #[derive(Debug, Serialize, Deserialize)]
    struct Required {
        pin: Pin,
    }
    let text = "pins:\n- pin: too long\n- pin: 1234\n- pin: {}\n- pin: too long too\n";
    let found = load::<Pins>(Some(("f", text)), [], &[], |_| Vec::new()).expect_err("mistakes");
    let found: Vec<_> = found.iter().map(Mistake::to_string).collect();
    assert_eq!(
        found,
        [
            "f:2: pins[0].pin: the pin `too long` is too long",
            "f:3: pins[1].pin: expected a string (put the value in quotes)",
            "f:4: pins[2].pin: expected a string",
            "f:5: pins[3].pin: the pin `too long too` is too long",
        ]
    );
}

#[test]
fn secrets_never_appear_in_a_mistake() {
    let files = [
        "admin: {key: [hunter2], pin_token: hunter2}\ndatabase_url: {a: hunter2}\n",
        "admin: {key: {a: hunter2}, pin_token: {b: hunter2}}\ndatabase_url: [hunter2]\n",
        "nodes:\n- {name: a, url: [hunter2], token: hunter2}\n- {url: hunter2, slots: hunter2}\n",
        "admin: hunter2\nserver: hunter2\nnodes: hunter2\nmode: hunter2\n",
        "admin:\n  key: @hunter2\n",
        "admin:\n  key: \"hunter2\n",
        "admin:\n  key: hunter2: hunter2\n",
        "admin:\n  key: hunter2\n  key: hunter2\n",
        "admin:\n  key: !!int hunter2\n  pin_token: *hunter2\n",
        "hunter2\n",
        "- hunter2\n",
    ];
    for text in files {
        for mistake in mistakes(text, &[]) {
            assert!(!mistake.contains("hunter2"), "{text:?}: {mistake}");
        }
    }
    for name in ["ADMIN__PIN_TOKEN", "ADMIN", "NODES", "SERVER__WORKERS", "MODE", "NODES__0__URL", "LIMITS", "TLS"] {
        for value in ["hunter2", "[hunter2]", r#"["hunter2"]"#, r#"{"url": "hunter2"}"#, r#"{"url": hunter2"#] {
            for mistake in mistakes("", &[(&format!("GATEWAY__{name}"), value)]) {
                assert!(!mistake.contains("hunter2"), "{name} {value:?}: {mistake}");
            }
        }
    }
    assert!(!format!("{:?}", read("admin: {key: hunter2}", &[])).contains("hunter2"));
}
