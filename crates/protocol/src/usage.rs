//! How many tokens does a node say a request took? This is a claim: what cannot be read counts as not reported, which
//! is not the same as zero, and never makes a good answer fail.
use std::time::Duration;

use serde_json::value::RawValue;

use super::endpoint::Endpoint;
use super::json::Object;

/// Tokens and times as the node reports them; `None` if it does not report them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Including cached tokens.
    pub prompt_tokens: Option<u64>,
    /// Including reasoning.
    pub completion_tokens: Option<u64>,
    /// The node's time for the prompt; reported in Ollama's own dialect and by llama.cpp.
    pub prefill: Option<Duration>,
    /// The node's time for the answer; reported in the same cases.
    pub decode: Option<Duration>,
    /// The time until the node had the model ready, including waits for other loads; only in Ollama's own dialect.
    pub load: Option<Duration>,
}

impl Usage {
    /// The time that the node worked on the request, without waiting for a slot.
    pub fn work(&self) -> Option<Duration> {
        let (prefill, decode) = (self.prefill, self.decode);
        let sum = || prefill.unwrap_or_default().saturating_add(decode.unwrap_or_default());
        prefill.or(decode).map(|_| sum())
    }

    /// From an answer or a chunk in OpenAI's or Anthropic's dialect: its `usage`, and llama.cpp's `timings` if present.
    pub(crate) fn of(endpoint: Endpoint, object: &Object<'_>) -> Self {
        let usage = object.present("usage").map(|usage| Self::parse(endpoint, usage)).unwrap_or_default();
        let timings = object.present("timings").map(|timings| Self::of_timings(endpoint, timings)).unwrap_or_default();
        usage.or(timings)
    }

    /// From a `usage` object, in either spelling. Anthropic's count of the input leaves out cached tokens.
    pub(crate) fn parse(endpoint: Endpoint, usage: &RawValue) -> Self {
        let Ok(object) = Object::parse(usage.get().as_bytes()) else { return Self::default() };
        let mut prompt = count(&object, &["prompt_tokens", "input_tokens"]);
        if endpoint == Endpoint::Messages {
            for cached in ["cache_read_input_tokens", "cache_creation_input_tokens"] {
                if object.present(cached).is_some() {
                    // A part that cannot be read makes the sum unknown; the rest alone would be too little.
                    prompt = prompt.zip(count(&object, &[cached])).map(|(sum, cached)| sum.saturating_add(cached));
                }
            }
        }
        let completion = count(&object, &["completion_tokens", "output_tokens"]);
        Self { prompt_tokens: prompt, completion_tokens: completion, ..Self::default() }.unless_empty(endpoint)
    }

    /// From the last object of Ollama's own dialect.
    pub(crate) fn of_native(endpoint: Endpoint, object: &Object<'_>) -> Self {
        let time = |key| count(object, &[key]).map(Duration::from_nanos);
        // An embedding is all prompt, and reports only the total.
        let embedding = || Some(time("total_duration")?.saturating_sub(time("load_duration").unwrap_or_default()));
        let prefill = time("prompt_eval_duration");
        Self {
            prompt_tokens: count(object, &["prompt_eval_count"]),
            completion_tokens: count(object, &["eval_count"]),
            prefill: prefill.or_else(|| if endpoint.embeds() { embedding() } else { None }),
            decode: time("eval_duration"),
            load: time("load_duration"),
        }
        .unless_empty(endpoint)
    }

    /// From llama.cpp's `timings`, whose prompt count leaves out cached tokens.
    fn of_timings(endpoint: Endpoint, timings: &RawValue) -> Self {
        let Ok(object) = Object::parse(timings.get().as_bytes()) else { return Self::default() };
        let time = |key| {
            let millis: f64 = serde_json::from_str(object.present(key)?.get()).ok()?;
            Duration::try_from_secs_f64(millis / 1000.0).ok()
        };
        let cached = count(&object, &["cache_n"]);
        Self {
            prompt_tokens: count(&object, &["prompt_n"]).zip(cached).map(|(new, cached)| new.saturating_add(cached)),
            completion_tokens: count(&object, &["predicted_n"]),
            prefill: time("prompt_ms"),
            decode: time("predicted_ms"),
            load: None,
        }
        .unless_empty(endpoint)
    }

    /// Takes from `other` what is not reported here.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            prompt_tokens: self.prompt_tokens.or(other.prompt_tokens),
            completion_tokens: self.completion_tokens.or(other.completion_tokens),
            prefill: self.prefill.or(other.prefill),
            decode: self.decode.or(other.decode),
            load: self.load.or(other.load),
        }
    }

    /// A prompt that was answered with text has tokens, so a node that says zero has not counted it. If it says zero
    /// twice, it has counted neither.
    fn unless_empty(self, endpoint: Endpoint) -> Self {
        match self.prompt_tokens {
            Some(0) if !endpoint.embeds() => {
                let completion_tokens = self.completion_tokens.filter(|count| *count > 0);
                Self { prompt_tokens: None, completion_tokens, ..self }
            }
            _ => self,
        }
    }
}

/// A count under one of `names`, or under several that agree. Only whole numbers of at least zero are counts.
fn count(object: &Object<'_>, names: &[&str]) -> Option<u64> {
    let mut agreed = None;
    for (name, value) in object.members() {
        if !names.contains(&name) || value.get() == "null" {
            continue;
        }
        let count: u64 = value.get().parse().ok()?;
        if agreed.is_some_and(|agreed| agreed != count) {
            return None;
        }
        agreed = Some(count);
    }
    agreed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(endpoint: Endpoint, body: &str) -> (Option<u64>, Option<u64>) {
        let object = Object::parse(body.as_bytes()).unwrap();
        let usage = match endpoint {
            Endpoint::Chat | Endpoint::Generate | Endpoint::Embed => Usage::of_native(endpoint, &object),
            _ => Usage::of(endpoint, &object),
        };
        (usage.prompt_tokens, usage.completion_tokens)
    }

    fn chat(usage: &str) -> (Option<u64>, Option<u64>) {
        of(Endpoint::ChatCompletions, &format!(r#"{{"usage":{usage}}}"#))
    }

    #[test]
    fn what_is_lacking_or_is_no_count_is_not_reported() {
        for usage in [
            "null",
            "5",
            "[]",
            r#""many""#,
            "{}",
            r#"{"prompt_tokens":null,"completion_tokens":null}"#,
            r#"{"prompt_tokens":"26","completion_tokens":"2"}"#,
            r#"{"prompt_tokens":26.0,"completion_tokens":2.5}"#,
            r#"{"prompt_tokens":-26,"completion_tokens":-2}"#,
            r#"{"prompt_tokens":1e9,"completion_tokens":18446744073709551616}"#,
            r#"{"prompt_tokens":[26],"completion_tokens":{"n":2}}"#,
        ] {
            assert_eq!(chat(usage), (None, None), "{usage}");
        }
        assert_eq!(chat(r#"{"completion_tokens":2}"#), (None, Some(2)));
        assert_eq!(chat(r#"{"prompt_tokens":26,"completion_tokens":"x"}"#), (Some(26), None));
        assert_eq!(chat(r#"{"prompt_tokens":9223372036854775807}"#), (Some(i64::MAX as u64), None));
        assert_eq!(of(Endpoint::Chat, r#"{"done":true,"eval_count":2}"#), (None, Some(2)));
        assert_eq!(of(Endpoint::Chat, r#"{"done":true,"prompt_eval_count":-1,"eval_count":2.5}"#), (None, None));
    }

    #[test]
    fn two_names_count_only_where_they_agree() {
        let both = |input, output| {
            chat(&format!(
                r#"{{"prompt_tokens":26,"input_tokens":{input},"output_tokens":2,"completion_tokens":{output}}}"#
            ))
        };
        assert_eq!(both("26", "2"), (Some(26), Some(2)));
        assert_eq!(both("null", "null"), (Some(26), Some(2)));
        assert_eq!(both("27", "2"), (None, Some(2)));
        assert_eq!(both("26", "\"2\""), (Some(26), None));
        assert_eq!(chat(r#"{"prompt_tokens":26,"prompt_tokens":27,"completion_tokens":2}"#), (None, Some(2)));
    }

    #[test]
    fn a_prompt_of_zero_tokens_was_not_counted() {
        assert_eq!(chat(r#"{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}"#), (None, None));
        assert_eq!(chat(r#"{"prompt_tokens":0,"completion_tokens":5}"#), (None, Some(5)));
        let embedding = r#"{"usage":{"prompt_tokens":0,"total_tokens":0}}"#;
        assert_eq!(of(Endpoint::Embeddings, embedding), (Some(0), None));
    }

    #[test]
    fn what_came_from_a_cache_is_a_part_of_the_prompt() {
        let messages = |usage: &str| of(Endpoint::Messages, &format!(r#"{{"usage":{usage}}}"#));
        let usage =
            r#"{"input_tokens":4,"cache_read_input_tokens":100,"cache_creation_input_tokens":null,"output_tokens":5}"#;
        assert_eq!(messages(usage), (Some(104), Some(5)));
        let usage = r#"{"input_tokens":0,"cache_read_input_tokens":100,"output_tokens":5}"#;
        assert_eq!(messages(usage), (Some(100), Some(5)));
        let usage = r#"{"input_tokens":4,"cache_read_input_tokens":"all","output_tokens":5}"#;
        assert_eq!(messages(usage), (None, Some(5)));
        let huge = r#"{"input_tokens":18446744073709551615,"cache_read_input_tokens":9,"output_tokens":5}"#;
        assert_eq!(messages(huge), (Some(u64::MAX), Some(5)));
    }

    #[test]
    fn llama_cpp_reports_in_its_timings() {
        let timings =
            r#"{"timings":{"prompt_n":5,"cache_n":21,"predicted_n":7,"prompt_ms":12.5,"predicted_ms":250.0}}"#;
        let usage = Usage::of(Endpoint::Completions, &Object::parse(timings.as_bytes()).unwrap());
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (Some(26), Some(7)));
        assert_eq!(usage.prefill, Some(Duration::from_micros(12_500)));
        assert_eq!(usage.decode, Some(Duration::from_millis(250)));
        let both = r#"{"usage":{"prompt_tokens":26,"completion_tokens":8},"timings":{"predicted_n":7,"prompt_ms":-1,"predicted_ms":1e300}}"#;
        let usage = Usage::of(Endpoint::Completions, &Object::parse(both.as_bytes()).unwrap());
        assert_eq!(
            (usage.prompt_tokens, usage.completion_tokens, usage.prefill, usage.decode),
            (Some(26), Some(8), None, None)
        );
    }

    #[test]
    fn ollamas_own_dialect_tells_what_the_node_worked() {
        let usage = |endpoint, body: &str| Usage::of_native(endpoint, &Object::parse(body.as_bytes()).unwrap());
        let millis = |millis| Some(Duration::from_millis(millis));
        let chat = r#"{"load_duration":9000000,"prompt_eval_duration":2000000,"eval_duration":3000000}"#;
        let chat = usage(Endpoint::Chat, chat);
        assert_eq!((chat.prefill, chat.decode, chat.load), (millis(2), millis(3), millis(9)));
        assert_eq!(chat.work(), millis(5));
        let embed = usage(Endpoint::Embed, r#"{"total_duration":9000000,"load_duration":4000000}"#);
        assert_eq!((embed.prefill, embed.decode), (millis(5), None));
        let silent = usage(Endpoint::Chat, r#"{"eval_duration":-1,"total_duration":9000000}"#);
        assert_eq!((silent.prefill, silent.decode, silent.work()), (None, None, None));
    }
}
