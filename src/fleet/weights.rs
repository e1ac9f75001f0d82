//! Which of a node's models have the same weights? Ollama keeps one runner for all of them. A copy has the digest of its
//! original. What a Modelfile derives from a model has another digest, but `/api/show` names the blob of the weights.
use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use scheduler::Model;

/// Models whose sizes differ by more than this many bytes have different weights: besides these, a model has only texts.
const MOST_TEXT: u64 = 1 << 20;
const DIGEST_LENGTH: usize = 64;
/// The most bytes that are kept of what decides on a model's runner. A base, some adapters and parameters take a few
/// hundred; a node that sends more is not believed.
const MOST_KEPT: usize = 2048;
/// Parameters that Ollama starts another runner for.
const OF_THE_RUNNER: [&str; 6] = ["num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread"];

/// What a node's models have told of their weights.
#[derive(Debug, Default)]
pub(crate) struct Weights {
    /// By digest; `None` where nothing is told.
    known: BTreeMap<String, Option<String>>,
}

impl Weights {
    /// The models to ask about: those that may have the weights of another one and have not been asked about.
    pub(crate) fn to_ask(&self, listed: &[Model], most: usize) -> Vec<Model> {
        let mut models: Vec<&Model> = listed.iter().filter(|model| !model.digest.is_empty()).collect();
        // Models of the same weights differ by their Modelfile only, so they are about as large: neighbours by size are
        // enough.
        models.sort_by(|a, b| (&a.family, a.size_bytes).cmp(&(&b.family, b.size_bytes)));
        models.dedup_by(|a, b| a.digest == b.digest);
        let mut asked = BTreeSet::new();
        let mut add = |model: &Model| {
            if !self.known.contains_key(&model.digest) && asked.len() < most {
                asked.insert((model.digest.clone(), model.name.clone()));
            }
        };
        for pair in models.windows(2) {
            let is_near = pair[1].size_bytes.abs_diff(pair[0].size_bytes) <= MOST_TEXT;
            if is_near && pair[0].family == pair[1].family {
                pair.iter().copied().for_each(&mut add);
            }
        }
        let is_asked = |model: &&Model| asked.contains(&(model.digest.clone(), model.name.clone()));
        models.into_iter().filter(is_asked).cloned().collect()
    }

    /// Takes over what `/api/show` says of a model; `None` if it says nothing.
    pub(crate) fn learn(&mut self, digest: &str, shown: Option<&[u8]>) {
        self.known.insert(digest.to_owned(), shown.and_then(weights_of));
    }

    /// Adds what is known to a listing, and forgets what it does not contain.
    pub(crate) fn fill_in(&mut self, models: &mut [Model]) {
        let listed: BTreeSet<&str> = models.iter().map(|model| model.digest.as_str()).collect();
        self.known.retain(|digest, _| listed.contains(digest.as_str()));
        for model in models {
            if let Some(Some(weights)) = self.known.get(&model.digest) {
                model.weights.clone_from(weights);
            }
        }
    }
}

#[derive(Deserialize)]
struct Shown {
    modelfile: String,
}

/// What decides on the runner of a model, by the Modelfile that `/api/show` answers.
fn weights_of(shown: &[u8]) -> Option<String> {
    let Shown { modelfile } = serde_json::from_slice(shown).ok()?;
    let mut parts = BTreeSet::new();
    let mut has_weights = false;
    let mut is_text = false;
    for line in modelfile.lines() {
        let was_text = is_text;
        // Between three quotes stands a text, whose lines may look like commands.
        is_text ^= line.matches("\"\"\"").count() % 2 == 1;
        let Some((command, rest)) = line.trim().split_once(char::is_whitespace).filter(|_| !was_text) else { continue };
        let rest = rest.trim();
        match command.to_ascii_uppercase().as_str() {
            "FROM" => {
                parts.insert(format!("from {}", blob_of(rest)?));
                has_weights = true;
            }
            "ADAPTER" => _ = parts.insert(format!("adapter {}", blob_of(rest).unwrap_or(rest))),
            "PARAMETER" => {
                let name = rest.split_whitespace().next().unwrap_or_default();
                if OF_THE_RUNNER.contains(&name) {
                    parts.insert(rest.to_owned());
                }
            }
            _ => {}
        }
    }
    let weights = has_weights.then(|| parts.into_iter().collect::<Vec<_>>().join("\n"));
    weights.filter(|weights| weights.len() <= MOST_KEPT)
}

/// The digest at the end of a blob's path.
fn blob_of(path: &str) -> Option<&str> {
    let (_, digest) = path.trim_matches('"').rsplit_once("sha256-")?;
    let is_digest = digest.len() == DIGEST_LENGTH && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_digest.then_some(digest)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn model(name: &str, size_bytes: u64, digest: &str, family: &str) -> Model {
        Model {
            name: name.into(),
            size_bytes,
            digest: digest.into(),
            modified_unix: 0,
            family: family.into(),
            weights: String::new(),
        }
    }

    fn shown(lines: &str) -> Vec<u8> {
        json!({"modelfile": lines, "license": "x"}).to_string().into_bytes()
    }

    fn blob(digit: char) -> String {
        format!("/root/.ollama/models/blobs/sha256-{}", digit.to_string().repeat(DIGEST_LENGTH))
    }

    #[test]
    fn two_modelfiles_over_one_blob_have_the_same_weights_unless_they_need_another_runner() {
        let base =
            weights_of(&shown(&format!("# FROM llama3.2:latest\n\nFROM {}\nTEMPLATE {{{{ .Prompt }}}}\n", blob('a'))));
        assert!(base.is_some());
        let text = format!(
            "from C:\\blobs\\sha256-{}\nSYSTEM \"\"\"You are\nFROM nowhere\nPARAMETER num_ctx 9\n\"\"\"\nPARAMETER temperature 0\n",
            "a".repeat(DIGEST_LENGTH)
        );
        assert_eq!(weights_of(&shown(&text)), base);
        for different in ["PARAMETER num_ctx 8192", &format!("ADAPTER {}", blob('c')), &format!("FROM {}", blob('d'))] {
            let other = weights_of(&shown(&format!("FROM {}\n{different}\n", blob('a'))));
            assert!(other.is_some() && other != base, "{different}");
        }
        assert_ne!(weights_of(&shown(&format!("FROM {}", blob('b')))), base);
    }

    #[test]
    fn an_answer_that_names_no_blob_tells_nothing() {
        for odd in ["", "FROM llama3.2", "FROM", "FROM /blobs/sha256-abc", "PARAMETER num_ctx 1"] {
            assert_eq!(weights_of(&shown(odd)), None, "{odd}");
        }
        let long = format!("FROM {}\nADAPTER {}", blob('a'), "x".repeat(MOST_KEPT));
        assert_eq!(weights_of(&shown(&long)), None);
        for odd in [&b"{}"[..], b"[]", b"\xff", br#"{"modelfile":5}"#] {
            assert_eq!(weights_of(odd), None);
        }
    }

    #[test]
    fn only_models_of_about_the_same_size_are_asked_about_and_each_content_once() {
        let listed = [
            model("base", 5_000_000_000, "b", "llama"),
            model("copy", 5_000_000_000, "b", "llama"),
            model("derived", 5_000_000_900, "d", "llama"),
            model("other", 5_000_000_000, "o", "qwen3"),
            model("larger", 5_100_000_000, "l", "llama"),
            model("unknown", 5_000_000_000, "", "llama"),
        ];
        let mut weights = Weights::default();
        let names = |weights: &Weights, most| {
            weights.to_ask(&listed, most).into_iter().map(|model| model.digest).collect::<Vec<_>>()
        };
        assert_eq!(names(&weights, 9), ["b", "d"]);
        assert_eq!(names(&weights, 1), ["b"]);
        let same = shown(&format!("FROM {}", blob('a')));
        weights.learn("b", Some(&same));
        assert_eq!(names(&weights, 9), ["d"]);
        weights.learn("d", Some(&same));
        assert!(names(&weights, 9).is_empty());

        let mut filled = listed.clone();
        weights.fill_in(&mut filled);
        assert!(!filled[0].weights.is_empty() && filled[0].weights == filled[1].weights);
        assert_eq!((&filled[2].weights, &filled[3].weights), (&filled[0].weights, &String::new()));
        weights.fill_in(&mut filled[3..]);
        assert_eq!(names(&weights, 9), ["b", "d"], "what is not listed is forgotten");
    }

    #[test]
    fn what_tells_nothing_is_not_asked_about_again() {
        let listed = [model("a", 1, "x", ""), model("b", 1, "y", "")];
        let mut weights = Weights::default();
        weights.learn("x", None);
        weights.learn("y", Some(b"no"));
        assert!(weights.to_ask(&listed, 9).is_empty());
    }
}
