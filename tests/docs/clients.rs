//! Which real clients are run against the gateway, in which versions? From the files that install them.
use serde_json::Value;

use crate::markdown::table;
use crate::text;

/// A folder of tests/clients, its packages, and what of them is run.
const CLIENTS: [(&str, &[&str], &str); 17] = [
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
    ("claude-code", &["@anthropic-ai/claude-code"], "one prompt, streams, both credentials, counted tokens, errors"),
    ("codex", &["@openai/codex"], "one task over a provider and with `--oss`, errors"),
    ("qwen-code", &["@qwen-code/qwen-code"], "one prompt, streams, errors"),
    ("opencode", &["opencode-ai"], "one prompt, errors"),
    ("continue", &["@continuedev/cli"], "one prompt over OpenAI's API and Ollama's, key in the path, errors"),
    (
        "aider",
        &["aider-chat"],
        "one message over OpenAI's API and Ollama's, streams, key in the path, errors; run by name",
    ),
    (
        "go",
        &["github.com/openai/openai-go/v3", "github.com/ollama/ollama"],
        "chat, streams, lists, show, key in the path, errors; run by name",
    ),
];

/// Folders whose versions docs/applications.md names, too.
const APPLICATIONS: [&str; 8] =
    ["claude-code", "codex", "qwen-code", "opencode", "continue", "aider", "langchain-openai", "langchain-ollama"];

/// A row for each client.
pub fn clients() -> String {
    let row = |&(folder, packages, what): &(&str, &[&str], &str)| {
        let versions: Vec<_> =
            packages.iter().map(|package| format!("{package} {}", version(folder, package))).collect();
        vec![versions.join(", "), language(folder).to_owned(), what.to_owned()]
    };
    table(&["client", "language", "what is run"], CLIENTS.iter().map(row))
}

/// What a client's packages are for, by the file that pins them.
fn language(folder: &str) -> &'static str {
    let has = |file: &str| crate::root().join(format!("tests/clients/{folder}/{file}")).exists();
    match (has("package.json"), has("go.mod")) {
        (true, _) => "JavaScript",
        (_, true) => "Go",
        _ => "Python",
    }
}

fn version(folder: &str, package: &str) -> String {
    let read = |file: &str| text(&format!("tests/clients/{folder}/{file}"));
    let behind = |pins: String, separator: &str| {
        let pin = pins.lines().find_map(|line| line.trim().strip_prefix(package)?.strip_prefix(separator));
        pin.map(str::to_owned)
    };
    let found = match language(folder) {
        "JavaScript" => {
            let manifest: Value = serde_json::from_str(&read("package.json")).unwrap();
            manifest["dependencies"][package].as_str().map(str::to_owned)
        }
        "Go" => behind(read("go.mod"), " v"),
        _ => behind(read("requirements.txt"), "=="),
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

#[test]
fn applications_are_described_in_the_versions_that_are_run() {
    let page = text("docs/applications.md");
    for (folder, packages, _) in CLIENTS.iter().filter(|(folder, ..)| APPLICATIONS.contains(folder)) {
        let version = version(folder, packages[0]);
        assert!(page.contains(&version), "docs/applications.md does not name {folder} {version}");
    }
}
