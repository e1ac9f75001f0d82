//! How do the defaults, a strict YAML file and `GATEWAY__*` variables become one value, and which of them gave which
//! part?
//!
//! Later sources win: defaults, then the file, then the environment. Every mistake in any of them is found at once,
//! with its place. No message contains a value that may be secret.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use figment::Figment;
use figment::providers::Serialized;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

mod complaint;
mod environment;
mod faults;
mod origin;
mod renamed;
mod yaml;

use environment::Variable;
use faults::{FaultKind, Findings, examine};
use origin::{DEFAULTS, Origin, Origins};
use yaml::{child, is_within};

pub use environment::PREFIX;
pub use origin::Mistake;
pub use renamed::Renamed;

/// A configuration without mistakes, and the source of each part.
pub struct Document<T> {
    /// The merged settings.
    pub value: T,
    origins: Origins,
    overrides: Vec<String>,
    notes: Vec<Mistake>,
}

impl<T> Document<T> {
    /// Hints that are no mistakes: settings that are still given under their old names.
    pub fn notes(&self) -> &[Mistake] {
        &self.notes
    }

    /// The source of the value at `path`, and the line if the source is the file. If nobody gave that path, the source
    /// of the nearest group or list around it.
    pub fn locate(&self, path: &str) -> (String, Option<usize>) {
        let origin = self.origins.of(path);
        (origin.source, origin.line)
    }

    /// A mistake that the caller found in a readable value; `message` and `hint` must not contain secrets.
    pub fn mistake(&self, path: &str, message: impl Into<String>, hint: Option<String>) -> Mistake {
        self.origins.mistake(path, message.into(), hint)
    }

    /// The names of the environment variables that were used, sorted.
    pub fn overrides(&self) -> &[String] {
        &self.overrides
    }
}

// Not derived, because the value may contain secrets.
impl<T> fmt::Debug for Document<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Document").field("overrides", &self.overrides).finish_non_exhaustive()
    }
}

/// Merges the defaults of `T`, the file (its name for messages, and its text) and the variables that start with
/// [`PREFIX`]. `check` then checks the whole for what types cannot express. Settings in `renamed` may be given under
/// their old names.
///
/// # Errors
/// Every mistake of every source: those of the file in the order of its lines, then those of the environment.
pub fn load<T: Serialize + DeserializeOwned + Default>(
    file: Option<(&str, &str)>,
    environment: impl IntoIterator<Item = (String, String)>,
    renamed: &[Renamed],
    check: impl FnOnce(&Document<T>) -> Vec<Mistake>,
) -> Result<Document<T>, Vec<Mistake>> {
    let defaults = layer(&Value::Object(Map::new()), &T::default()).map_err(|mistake| vec![mistake])?;
    let mut loading = Loading::new(defaults, renamed);
    if let Some((name, text)) = file {
        loading.read_file::<T>(name, text);
    }
    loading.read_environment(environment);
    let value = loading.finish::<T>();

    let Loading { mut mistakes, origins, variables, notes, .. } = loading;
    let overrides = variables.into_iter().map(|variable| variable.name).collect::<BTreeSet<_>>();
    let document = value.map(|value| Document { value, origins, overrides: overrides.into_iter().collect(), notes });
    if let Some(document) = &document {
        // Where a mistake was mended, the checks do not see what was written.
        let found = check(document).into_iter().filter(|found| !mistakes.iter().any(|known| hides(known, found)));
        let found: Vec<Mistake> = found.collect();
        mistakes.extend(found);
    }
    match document {
        Some(document) if mistakes.is_empty() => Ok(document),
        _ => {
            let file = file.map(|(name, _)| name);
            mistakes.sort_by_cached_key(|mistake| {
                let other = Some(mistake.source.clone()).filter(|source| Some(source.as_str()) != file);
                (other, mistake.line)
            });
            Err(mistakes)
        }
    }
}

/// Whether `found` may only be a consequence of `known`: at or around the same place, or in a list from which an
/// incomplete entry was removed.
fn hides(known: &Mistake, found: &Mistake) -> bool {
    let list = found.path.split_once('[').map(|(list, _)| list);
    let incomplete = known.path.contains('[') && known.message == faults::REQUIRED;
    is_within(&found.path, &known.path)
        || is_within(&known.path, &found.path)
        || (incomplete && list.is_some_and(|list| is_within(&known.path, list)))
}

/// The state between two sources.
struct Loading<'a> {
    renamed: &'a [Renamed],
    defaults: Value,
    /// Everything merged so far. Mistakes of the file are mended here, so that they do not hide mistakes of the
    /// environment.
    tree: Value,
    origins: Origins,
    variables: Vec<Variable>,
    mistakes: Vec<Mistake>,
    notes: Vec<Mistake>,
}

impl<'a> Loading<'a> {
    fn new(defaults: Value, renamed: &'a [Renamed]) -> Self {
        let origins = Origins::of_defaults(&defaults);
        let (variables, mistakes, notes) = (Vec::new(), Vec::new(), Vec::new());
        Self { renamed, tree: defaults.clone(), defaults, origins, variables, mistakes, notes }
    }

    fn read_file<T: Serialize + DeserializeOwned>(&mut self, name: &str, text: &str) {
        let yaml::Tree { mut tree, mut lines, flaws } = yaml::read(text);
        let (notes, conflicts) = renamed::of_file(self.renamed, name, &mut tree, &mut lines);
        self.notes.extend(notes);
        self.mistakes.extend(conflicts);
        let tree = Value::Object(tree);
        self.origins.overlay("", &tree, &|path| Origin { source: name.to_owned(), line: lines.get(path).copied() });
        let merged = self.merged(&tree);
        let Findings { value, tree, faults } = examine::<T>(merged, &self.defaults, BTreeMap::new());
        for fault in faults {
            // The environment may still supply a missing value, but never a part of a list.
            let may_follow = fault.kind == FaultKind::Missing && !fault.path.contains('[');
            let is_consequence = flaws.iter().any(|flaw| !flaw.path.is_empty() && is_within(&fault.path, &flaw.path));
            if !may_follow && !is_consequence {
                self.mistakes.push(self.origins.mistake(&fault.path, fault.message, fault.hint));
            }
        }
        for flaw in flaws {
            let (source, line, hint) = (name.to_owned(), Some(flaw.line), flaw.hint.map(str::to_owned));
            self.mistakes.push(Mistake { source, line, path: flaw.path, message: flaw.message, hint });
        }
        self.tree = if value.is_some() { tree } else { self.defaults.clone() };
    }

    fn read_environment(&mut self, environment: impl IntoIterator<Item = (String, String)>) {
        let mut variables = Vec::new();
        for (name, raw) in environment.into_iter().filter(|(name, _)| name.starts_with(PREFIX)) {
            match Variable::read(name, raw) {
                Ok(variable) => variables.push(variable),
                Err(mistake) => self.mistakes.push(mistake),
            }
        }
        let (notes, conflicts) = renamed::of_variables(self.renamed, &mut variables);
        self.notes.extend(notes);
        self.mistakes.extend(conflicts);
        // Groups come before their members, so that the more specific variable wins.
        variables.sort_by(|left, right| (left.keys.len(), &left.name).cmp(&(right.keys.len(), &right.name)));
        for variable in variables {
            match variable.obstacle(&self.tree) {
                Some(mistake) => self.mistakes.push(mistake),
                None => self.apply(variable),
            }
        }
    }

    fn apply(&mut self, variable: Variable) {
        let origin = Origin { source: variable.name.clone(), line: None };
        let mut path = String::new();
        let mut group = Some(&self.tree);
        for key in &variable.keys[..variable.keys.len() - 1] {
            path = child(&path, key);
            group = group.and_then(|group| group.get(key));
            if !group.is_some_and(Value::is_object) {
                self.origins.open(&path, origin.clone());
            }
        }
        self.origins.overlay(&variable.path, &variable.value, &|_| origin.clone());
        let nested = variable.keys.iter().rev().fold(variable.value.clone(), |value, key| {
            let entry = (key.clone(), value);
            Value::Object(Map::from_iter([entry]))
        });
        self.tree = self.merged(&nested);
        self.variables.push(variable);
    }

    /// Reads the merged tree. Anything wrong with it now comes from the environment, or is missing altogether.
    fn finish<T: Serialize + DeserializeOwned>(&mut self) -> Option<T> {
        let as_written = |variable: &Variable| (variable.path.clone(), Value::String(variable.raw.clone()));
        let is_ambiguous = |variable: &&Variable| !variable.value.is_string();
        let readings = self.variables.iter().filter(is_ambiguous).map(as_written).collect();
        let findings = examine::<T>(std::mem::take(&mut self.tree), &self.defaults, readings);
        let known = environment::names(&self.defaults);
        for fault in findings.faults {
            let culprits = self.variables.iter().filter(|variable| variable.is_to_blame_for(&fault));
            let found: Vec<_> = culprits.map(|variable| variable.mistake(&fault, &known)).collect();
            if found.is_empty() {
                self.mistakes.push(self.origins.mistake(&fault.path, fault.message, fault.hint));
            }
            self.mistakes.extend(found);
        }
        if findings.value.is_none() && self.mistakes.is_empty() {
            let message = "the settings cannot be read".to_owned();
            self.mistakes.push(self.origins.mistake("", message, None));
        }
        findings.value
    }

    fn merged(&mut self, above: &Value) -> Value {
        layer(&self.tree, above).unwrap_or_else(|mistake| {
            self.mistakes.push(mistake);
            self.tree.clone()
        })
    }
}

/// Merges by figment's rules: groups key by key, everything else as a whole.
fn layer(below: &Value, above: &impl Serialize) -> Result<Value, Mistake> {
    let figment = Figment::from(Serialized::defaults(below)).merge(Serialized::defaults(above));
    // figment's own message is dropped, because it contains the value.
    figment.extract().map_err(|_| Mistake {
        source: DEFAULTS.to_owned(),
        line: None,
        path: String::new(),
        message: "the settings are not a group of keys and values".to_owned(),
        hint: None,
    })
}

#[cfg(test)]
mod tests {
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
        let shown =
            |mistakes: Vec<Mistake>| panic!("{:#?}", mistakes.iter().map(Mistake::to_string).collect::<Vec<_>>());
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
        let lines: Vec<_> =
            load::<Settings>(Some(("gateway.yaml", text)), variables(&environment), &[], |_| Vec::new())
                .expect_err("mistakes")
                .iter()
                .map(|mistake| mistake.line.unwrap_or(usize::MAX))
                .collect();
        assert!(lines.is_sorted(), "{lines:?}");
    }

    #[test]
    fn an_unknown_key_that_resembles_none_lists_the_known_ones() {
        let hint = "(known keys: bind, workers, queue_limit, is_open, patience)";
        assert_eq!(
            mistakes("server: {colour: 1}", &[]),
            [format!("gateway.yaml:1: server.colour: unknown key {hint}")]
        );
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
        let found =
            mistakes("server:\n  bind: \"x\n", &[("GATEWAY__SEVER__BIND", "x"), ("GATEWAY__SEVER__WORKERS", "2")]);
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
            [
                "GATEWAY__NODES: nodes: expected a list, and the value is not valid JSON: expected value at line 1 column 11"
            ]
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
        for name in ["ADMIN__PIN_TOKEN", "ADMIN", "NODES", "SERVER__WORKERS", "MODE", "NODES__0__URL", "LIMITS", "TLS"]
        {
            for value in ["hunter2", "[hunter2]", r#"["hunter2"]"#, r#"{"url": "hunter2"}"#, r#"{"url": hunter2"#] {
                for mistake in mistakes("", &[(&format!("GATEWAY__{name}"), value)]) {
                    assert!(!mistake.contains("hunter2"), "{name} {value:?}: {mistake}");
                }
            }
        }
        assert!(!format!("{:?}", read("admin: {key: hunter2}", &[])).contains("hunter2"));
    }
}
