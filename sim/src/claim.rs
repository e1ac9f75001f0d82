//! What does a node report if it lies about its token counts?

use bytes::Bytes;
use serde_json::{Map, Value};

/// The names that routes use for the prompt's tokens.
const PROMPT_NAMES: [&str; 4] = ["prompt_tokens", "input_tokens", "prompt_eval_count", "prompt_n"];
/// The names that routes use for the answer's tokens.
const COMPLETION_NAMES: [&str; 4] = ["completion_tokens", "output_tokens", "eval_count", "predicted_n"];
/// By how much the count under the second name differs.
const DIFFERENCE: u64 = 1000;

/// What an answer says about its token counts instead of the truth.
#[derive(Clone, Debug, PartialEq)]
pub enum UsageClaim {
    /// These values, whether they are numbers or not.
    Counts {
        /// Reported as the prompt's tokens.
        prompt: Value,
        /// Reported as the answer's tokens.
        completion: Value,
    },
    /// Nothing about the prompt.
    WithoutPrompt,
    /// Nothing about the answer.
    WithoutCompletion,
    /// The true counts, and counts that are 1000 higher under the names of another dialect.
    Doubled,
}

impl UsageClaim {
    /// Writes the claim into one chunk of an answer: a JSON body, a line of NDJSON or an event of SSE.
    pub(crate) fn write(&self, chunk: &Bytes) -> Bytes {
        let Ok(text) = std::str::from_utf8(chunk) else { return chunk.clone() };
        let lines = text.split('\n').map(|line| {
            let (mark, data) = line.split_at(if line.starts_with("data: ") { "data: ".len() } else { 0 });
            match serde_json::from_str::<Value>(data) {
                Ok(mut value) => {
                    self.edit(&mut value);
                    format!("{mark}{value}")
                }
                Err(_) => line.to_owned(),
            }
        });
        Bytes::from(lines.collect::<Vec<_>>().join("\n"))
    }

    fn edit(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.values_mut().for_each(|value| self.edit(value));
                self.edit_counts(fields, &PROMPT_NAMES);
                self.edit_counts(fields, &COMPLETION_NAMES);
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.edit(value)),
            _ => {}
        }
    }

    fn edit_counts(&self, fields: &mut Map<String, Value>, names: &[&str; 4]) {
        let is_prompt = names == &PROMPT_NAMES;
        for name in names {
            let Some(count) = fields.get(*name).and_then(Value::as_u64) else { continue };
            match self {
                UsageClaim::Counts { prompt, completion } => {
                    let claimed = if is_prompt { prompt } else { completion };
                    fields.insert((*name).to_owned(), claimed.clone());
                }
                UsageClaim::WithoutPrompt if is_prompt => drop(fields.remove(*name)),
                UsageClaim::WithoutCompletion if !is_prompt => drop(fields.remove(*name)),
                UsageClaim::Doubled => {
                    let other = if *name == names[1] { names[0] } else { names[1] };
                    fields.insert(other.to_owned(), Value::from(count + DIFFERENCE));
                    return;
                }
                UsageClaim::WithoutPrompt | UsageClaim::WithoutCompletion => {}
            }
        }
    }
}
