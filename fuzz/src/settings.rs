//! What must hold for any configuration? The targets that need the gateway itself.
use ollama_gateway::config::{self, Config};
use serde_json::Value;

/// Settings whose values must not appear in any message.
const SECRETS: [&str; 2] = ["admin.key", "keys.pepper"];

/// Every target by its name, which is also that of its corpus.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 2] = [("settings", settings), ("values", values)];

/// Whatever an operator writes, every mistake has a message.
pub fn settings(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // The text after a zero byte is the value of a variable.
    let (file, variable) = text.split_once('\0').map_or((&*text, None), |(file, variable)| (file, Some(variable)));
    let variable = variable.and_then(|variable| variable.split_once('='));
    let environment = variable.map(|(name, value)| (format!("GATEWAY__{name}"), value.to_owned()));
    if let Err(mistakes) = config::parse(Some(("gateway.yaml", file)), environment) {
        assert!(!mistakes.is_empty());
        for mistake in mistakes {
            assert!(!mistake.to_string().is_empty());
        }
    }
}

/// Whatever value one setting is given, it changes no other setting, and no message contains a secret. The first two
/// bytes choose the setting.
pub fn values(data: &[u8]) {
    let Some(([first, second], value)) = data.split_first_chunk() else { return };
    let defaults = serde_json::to_value(Config::default()).expect("settings are plain values");
    let mut names = Vec::new();
    collect("", &defaults, &mut names);
    let name = &names[usize::from(u16::from_be_bytes([*first, *second])) % names.len()];
    let value = String::from_utf8_lossy(value);
    let variable = format!("GATEWAY__{}", name.replace('.', "__").to_uppercase());
    match config::parse(None, [(variable, value.to_string())]) {
        Ok(document) => {
            let mut after = serde_json::to_value(&document.value).expect("settings are plain values");
            let pointer = format!("/{}", name.replace('.', "/"));
            if let (Some(after), Some(before)) = (after.pointer_mut(&pointer), defaults.pointer(&pointer)) {
                *after = before.clone();
            }
            assert_eq!(after, defaults, "`{name}` changed another setting");
        }
        Err(mistakes) => {
            assert!(!mistakes.is_empty());
            for mistake in mistakes.iter().map(ToString::to_string) {
                // A short value may be part of a message by chance.
                let is_secret = SECRETS.contains(&name.as_str()) && value.trim().len() > 12;
                assert!(!mistake.is_empty(), "{value}");
                assert!(!is_secret || !mistake.contains(value.trim()), "{mistake}");
            }
        }
    }
}

/// The names of all settings that have a value, such as `server.bind`.
fn collect(prefix: &str, value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, value) in members {
                collect(&format!("{prefix}{}{name}", if prefix.is_empty() { "" } else { "." }), value, names);
            }
        }
        _ => names.push(prefix.to_owned()),
    }
}
