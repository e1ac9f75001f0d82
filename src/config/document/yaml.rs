//! Which settings does a YAML text contain, and on which line is each of them?

use std::collections::BTreeMap;

use saphyr::{AnnotatedMapping, LoadableYamlNode, MarkedYaml, Scalar, ScanError, YamlData};
use serde_json::{Map, Number, Value};

/// The result of reading a text. If there are `flaws`, the tree only serves to find further mistakes.
#[derive(Default)]
pub(super) struct Tree {
    /// The settings; numbers, booleans and nulls follow the core rules of YAML 1.2.
    pub tree: Map<String, Value>,
    /// The line of every path such as `nodes[1].slots`, starting at 1.
    pub lines: BTreeMap<String, usize>,
    /// Everything that is wrong with the text itself, whatever the settings mean.
    pub flaws: Vec<Flaw>,
}

/// One thing that is wrong with the text.
pub(super) struct Flaw {
    /// Starts at 1.
    pub line: usize,
    /// Empty if the flaw concerns no key.
    pub path: String,
    /// Never contains a value.
    pub message: String,
    /// How to correct it.
    pub hint: Option<&'static str>,
}

/// Reads the only document in `text`; an empty text contains no settings.
pub(super) fn read(text: &str) -> Tree {
    // The parser would take a byte order mark for part of the first key.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader { characters: text.chars().collect(), settings: Tree::default() };
    match MarkedYaml::load_from_str(text) {
        Ok(documents) => reader.documents(&documents),
        Err(error) => reader.syntax(&error),
    }
    reader.settings
}

/// The path of a key below `path`.
pub(super) fn child(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The path of an element of the list at `path`.
pub(super) fn element(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// Whether `path` is `ancestor` or below it.
pub(super) fn is_within(path: &str, ancestor: &str) -> bool {
    path.strip_prefix(ancestor)
        .is_some_and(|rest| ancestor.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']))
}

struct Reader {
    /// The parser's marks count characters, not bytes.
    characters: Vec<char>,
    settings: Tree,
}

impl Reader {
    fn documents(&mut self, documents: &[MarkedYaml<'_>]) {
        match documents {
            [] => {}
            [only] => match &only.data {
                YamlData::Mapping(entries) => self.settings.tree = self.mapping(entries, ""),
                YamlData::Value(Scalar::Null) => {}
                _ => self.flaw(only, "", "expected settings, written as `key: value`", None),
            },
            [_, second, ..] => self.flaw(second, "", "expected a single YAML document", Some("remove the `---`")),
        }
    }

    fn syntax(&mut self, error: &ScanError) {
        // The parser quotes the offending character, which may be part of a secret.
        let is_character = error.info().starts_with("unexpected character");
        let info = if is_character { "unexpected character" } else { error.info() };
        let hint = is_character.then_some("a value that starts with a special character needs quotes");
        let message = format!("not valid YAML at column {}: {info}", error.marker().col() + 1);
        self.settings.flaws.push(Flaw { line: error.marker().line(), path: String::new(), message, hint });
    }

    fn value(&mut self, node: &MarkedYaml<'_>, path: &str) -> Option<Value> {
        match &node.data {
            YamlData::Value(scalar) => self.scalar(node, scalar, path),
            YamlData::Mapping(entries) => Some(Value::Object(self.mapping(entries, path))),
            YamlData::Sequence(items) => {
                let mut list = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    let path = element(path, index);
                    self.settings.lines.insert(path.clone(), item.span.start.line());
                    list.push(self.value(item, &path).unwrap_or_default());
                }
                Some(Value::Array(list))
            }
            YamlData::Tagged(..) => {
                self.flaw(node, path, "tags of your own are not supported", Some("remove the `!tag`"));
                None
            }
            YamlData::BadValue | YamlData::Alias(_) | YamlData::Representation(..) => {
                self.flaw(node, path, "the value does not fit its `!!tag` or `*alias`", None);
                None
            }
        }
    }

    fn mapping(&mut self, entries: &AnnotatedMapping<'_, MarkedYaml<'_>>, path: &str) -> Map<String, Value> {
        let mut map = Map::new();
        for (key, node) in entries {
            let Some(name) = self.name(key) else {
                self.flaw(key, path, "expected a plain name as the key", None);
                continue;
            };
            let path = child(path, &name);
            let first_line = key.span.start.line();
            let again = self.line_of_repetition(key, node, &name);
            self.settings.lines.insert(path.clone(), again.unwrap_or(first_line));
            if again.is_some() || map.contains_key(&name) {
                let message = format!("the key is given more than once, first on line {first_line}");
                let line = again.unwrap_or(first_line);
                let hint = Some("keep one of them");
                self.settings.flaws.push(Flaw { line, path: path.clone(), message, hint });
            }
            if let Some(value) = self.value(node, &path) {
                map.insert(name, value);
            }
        }
        map
    }

    fn name(&self, key: &MarkedYaml<'_>) -> Option<String> {
        match &key.data {
            YamlData::Value(Scalar::String(name)) => Some(name.to_string()),
            YamlData::Value(Scalar::Integer(_) | Scalar::FloatingPoint(_) | Scalar::Boolean(_)) => {
                Some(self.between(key.span.start.index(), key.span.end.index()))
            }
            _ => None,
        }
    }

    fn scalar(&mut self, node: &MarkedYaml<'_>, scalar: &Scalar<'_>, path: &str) -> Option<Value> {
        let written = self.between(node.span.start.index(), node.span.end.index());
        match scalar {
            Scalar::Null => Some(Value::Null),
            Scalar::Boolean(value) => Some(Value::Bool(*value)),
            Scalar::Integer(value) => Some(Value::from(*value)),
            Scalar::FloatingPoint(value) => {
                // The parser returns whole numbers above `i64::MAX` as floating point numbers.
                let whole = written.parse::<u64>().ok().map(Value::from);
                let number = whole.or_else(|| Number::from_f64(value.into_inner()).map(Value::Number));
                if number.is_none() {
                    self.flaw(node, path, "expected a finite number", None);
                }
                number
            }
            // The parser misses these spellings of the core rules; quoted strings are written differently.
            Scalar::String(text) if *text == written => Some(match &**text {
                "True" | "TRUE" => Value::Bool(true),
                "False" | "FALSE" => Value::Bool(false),
                "Null" | "" => Value::Null,
                _ => Value::String(written),
            }),
            Scalar::String(text) => Some(Value::String(text.to_string())),
        }
    }

    /// The line on which a key is repeated, if it is.
    ///
    /// Of equal keys the parser keeps the first key and the last value and drops the rest, so a repetition is found in
    /// the text between those two.
    fn line_of_repetition(&self, key: &MarkedYaml<'_>, value: &MarkedYaml<'_>, name: &str) -> Option<usize> {
        let mut between = self.between(key.span.end.index(), value.span.start.index());
        if value.span.start.index() == value.span.end.index() {
            // The mark of a missing value is before the colon.
            between.push(':');
        }
        let lines: Vec<&str> = between.split('\n').map(without_comment).collect();
        let text = lines.join("\n");
        let start = text.rfind(name).filter(|_| !name.is_empty())?;
        let rest = text[start + name.len()..].trim_start_matches(['"', '\'']);
        let is_key = rest.trim_start().starts_with(':');
        is_key.then(|| key.span.end.line() + text[..start].matches('\n').count())
    }

    fn between(&self, start: usize, end: usize) -> String {
        self.characters.get(start..end).unwrap_or_default().iter().collect()
    }

    fn flaw(&mut self, node: &MarkedYaml<'_>, path: &str, message: &str, hint: Option<&'static str>) {
        let line = node.span.start.line();
        self.settings.flaws.push(Flaw { line, path: path.to_owned(), message: message.to_owned(), hint });
    }
}

fn without_comment(line: &str) -> &str {
    let start = line.char_indices().find(|&(at, character)| {
        character == '#' && line[..at].chars().next_back().is_none_or(|before| before.is_whitespace())
    });
    start.map_or(line, |(at, _)| &line[..at])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tree(text: &str) -> Value {
        let settings = read(text);
        let flaws: Vec<_> = settings.flaws.iter().map(|flaw| &flaw.message).collect();
        assert!(flaws.is_empty(), "{text:?}: {flaws:?}");
        Value::Object(settings.tree)
    }

    fn flaws(text: &str) -> Vec<(usize, String, String)> {
        read(text).flaws.into_iter().map(|flaw| (flaw.line, flaw.path, flaw.message)).collect()
    }

    #[test]
    fn scalars_follow_the_core_rules() {
        let text = "a: 12\nb: 0x1F\nc: 0o17\nd: 1.5\ne: yes\nf: True\ng: FALSE\nh: Null\ni:\nj: ~\n";
        let expected = json!({"a": 12, "b": 31, "c": 15, "d": 1.5, "e": "yes", "f": true, "g": false, "h": null, "i": null, "j": null});
        assert_eq!(tree(text), expected);
        assert_eq!(tree("a: 18446744073709551615\nb: -3\nc: 1e3"), json!({"a": u64::MAX, "b": -3, "c": 1000.0}));
    }

    #[test]
    fn quoted_and_block_scalars_stay_strings() {
        let text = "a: \"123\"\nb: 'True'\nc: |-\n  null\nd: ''\ne: >\n  one\n  two\n";
        assert_eq!(tree(text), json!({"a": "123", "b": "True", "c": "null", "d": "", "e": "one two\n"}));
    }

    #[test]
    fn a_text_without_settings_is_empty() {
        for text in ["", "\n\n", "# only a comment\n", "---\n", "--- # nothing\n", "\u{feff}"] {
            assert_eq!(tree(text), json!({}), "{text:?}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_not_a_part_of_the_first_key() {
        assert_eq!(tree("\u{feff}a: 1\n"), json!({"a": 1}));
    }

    #[test]
    fn every_path_has_its_line() {
        let settings = read("# ü\nserver:\n  # c\n  bind: x\nnodes:\n  - name: a\n\n    slots: 2\n  -\n    name: b\n");
        let line = |path: &str| settings.lines.get(path).copied();
        assert_eq!(line("server"), Some(2));
        assert_eq!(line("server.bind"), Some(4));
        assert_eq!(line("nodes[0].slots"), Some(8));
        assert_eq!(line("nodes[1].name"), Some(10));
        assert_eq!(line("nodes[2]"), None);
    }

    #[test]
    fn a_repeated_key_is_found_on_its_second_line() {
        let found = |text| flaws(text).into_iter().map(|(line, path, _)| (line, path)).collect::<Vec<_>>();
        assert_eq!(found("a: 1\nb: 2\na: 3\n"), [(3, "a".to_owned())]);
        assert_eq!(found("a:\n  x: 1\nb: 2\n# c\na: # again\n\n  y: 1\n"), [(5, "a".to_owned())]);
        assert_eq!(found("s:\n  a:\n  a:\n"), [(3, "s.a".to_owned())]);
        assert_eq!(found("l:\n- a: \"# no\"\n  'a': 2\n"), [(3, "l[0].a".to_owned())]);
        assert_eq!(found("{a: 1, \"a\": }"), [(1, "a".to_owned())]);
        assert_eq!(found("a: 1\r\na: 2\r\n"), [(2, "a".to_owned())]);
        assert_eq!(found("1: a\n\"1\": b\n"), [(2, "1".to_owned())]);
    }

    #[test]
    fn a_key_that_only_looks_repeated_is_left_alone() {
        let text = "a: a\nab: \"a: b\"\nb: # a: 1\n  a: 1\nc: |\n  c: 1\n  c: 2\nd:\n- d: 1\n- d: 2\n? e\n: e\nf: &f {f: 1}\ng: *f\nh: >-\n  h: 1\n\ni   :  i\n'j': !!str 'j: j'\n";
        assert_eq!(tree(text)["g"], json!({"f": 1}));
        assert_eq!(tree("é: \"ü\"\nü: {é: é, ü: [ü]}\n"), json!({"é": "ü", "ü": {"é": "é", "ü": ["ü"]}}));
    }

    #[test]
    fn broken_syntax_is_one_flaw_with_line_and_column() {
        let found = flaws("a: 1\nb: \"x\n");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, 2);
        assert!(found[0].2.starts_with("not valid YAML at column 4: "), "{}", found[0].2);
    }

    #[test]
    fn broken_syntax_quotes_nothing() {
        let found = flaws("password: @hunter2\n");
        assert_eq!(found[0].2, "not valid YAML at column 11: unexpected character");
    }

    #[test]
    fn what_is_not_settings_is_refused() {
        assert_eq!(flaws("- a\n")[0].2, "expected settings, written as `key: value`");
        assert_eq!(flaws("just text\n")[0].2, "expected settings, written as `key: value`");
        assert_eq!(flaws("a: 1\n---\nb: 1\n")[0].2, "expected a single YAML document");
        assert_eq!(flaws("a: .nan\n")[0].1, "a");
        assert_eq!(flaws("a: !mine [1]\nb: !!int x\n").len(), 2);
        assert_eq!(flaws("[a]: 1\n")[0].2, "expected a plain name as the key");
    }

    #[test]
    fn a_path_is_within_its_ancestors_only() {
        assert!(is_within("nodes[1].slots", "nodes"));
        assert!(is_within("nodes", "nodes"));
        assert!(is_within("nodes", ""));
        assert!(!is_within("nodes_total", "nodes"));
    }
}
