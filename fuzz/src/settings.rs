//! The target that needs the gateway itself: its configuration.
use ollama_gateway::config;

/// Whatever an operator writes, every mistake has a place in it.
pub fn settings(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // Behind a zero, what a variable says.
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
