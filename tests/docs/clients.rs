//! Which real clients are run against the gateway, in which versions? From the files that install them.
use serde_json::Value;

use crate::markdown::table;
use crate::text;

/// A folder of tests/clients, its packages, and what of them is run.
const CLIENTS: [(&str, &[&str], &str); 10] = [
    (
        "openai-python",
        &["openai"],
        "chat, streams, tools, structured output, completions, responses, embeddings, models, base URLs, errors, retries",
    ),
    ("openai-node", &["openai"], "chat, streams, tools, responses, embeddings, models, base URLs, errors, retries"),
    ("anthropic-python", &["anthropic"], "messages, streams, tools, keys, errors, retries"),
    (
        "ollama-python",
        &["ollama"],
        "chat, generate, streams, lists, show, embeddings, load and unload, errors, key in the path",
    ),
    (
        "ollama-js",
        &["ollama"],
        "chat, generate, streams, lists, show, embeddings, load and unload, errors, key in the path",
    ),
    (
        "langchain-openai",
        &["langchain-openai"],
        "chat, streams, tools, structured output, responses, embeddings, errors, retries",
    ),
    ("langchain-ollama", &["langchain-ollama"], "chat, streams, tools, structured output, embeddings, errors"),
    ("litellm", &["litellm"], "chat, streams, tools, embeddings, errors, retries"),
    ("llama-index", &["llama-index-llms-openai-like"], "chat, streams, tools, errors, retries"),
    ("vercel-ai", &["ai", "@ai-sdk/openai-compatible"], "text, streams, tools, objects, embeddings, errors, retries"),
];

/// A row for each client.
pub fn clients() -> String {
    let row = |&(folder, packages, what): &(&str, &[&str], &str)| {
        let versions: Vec<_> =
            packages.iter().map(|package| format!("{package} {}", version(folder, package))).collect();
        let language = if is_javascript(folder) { "JavaScript" } else { "Python" };
        vec![versions.join(", "), language.to_owned(), what.to_owned()]
    };
    table(&["client", "language", "what is run"], CLIENTS.iter().map(row))
}

fn is_javascript(folder: &str) -> bool {
    crate::root().join(format!("tests/clients/{folder}/package.json")).exists()
}

fn version(folder: &str, package: &str) -> String {
    let found = if is_javascript(folder) {
        let manifest: Value = serde_json::from_str(&text(&format!("tests/clients/{folder}/package.json"))).unwrap();
        manifest["dependencies"][package].as_str().map(str::to_owned)
    } else {
        let pins = text(&format!("tests/clients/{folder}/requirements.txt"));
        let pin = pins.lines().find_map(|line| line.strip_prefix(package)?.strip_prefix("=="));
        pin.map(str::to_owned)
    };
    found.unwrap_or_else(|| panic!("tests/clients/{folder} pins no {package}"))
}

#[test]
fn every_client_is_described() {
    let mut folders: Vec<_> = std::fs::read_dir(crate::root().join("tests/clients"))
        .unwrap()
        .filter_map(|entry| Some(entry.unwrap()).filter(|entry| entry.path().is_dir())?.file_name().into_string().ok())
        .filter(|name| !name.starts_with(['_', '.']))
        .collect();
    let mut described: Vec<_> = CLIENTS.iter().map(|(folder, ..)| (*folder).to_owned()).collect();
    folders.sort();
    described.sort();
    assert_eq!(described, folders);
}
