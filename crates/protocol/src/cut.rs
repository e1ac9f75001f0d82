//! How does a stream end if the gateway ends it? With the frames that a node sends for `length`, in each dialect.
use serde_json::{Value, json};

use super::endpoint::Endpoint;
use super::json::Object;

/// How many tokens a stream may have, and the prompt's tokens for the usage at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimit {
    /// Of the answer; `None` = no limit.
    pub output: Option<u64>,
    /// Estimated tokens of the prompt.
    pub prompt: u64,
}

/// What the terminal frames are made from.
pub(crate) struct Terminal<'a> {
    pub(crate) endpoint: Endpoint,
    /// The answer's id, including its quotes.
    pub(crate) id: &'a str,
    /// The frame that they follow or replace.
    pub(crate) after: Option<Object<'a>>,
    /// Estimated tokens of the prompt.
    pub(crate) prompt: u64,
    /// Tokens of the answer.
    pub(crate) output: u64,
    pub(crate) hide_usage: bool,
    /// The event's sequence number.
    pub(crate) sequence: u64,
}

/// The terminal frames.
pub(crate) fn terminal(terminal: &Terminal<'_>) -> String {
    let Terminal { endpoint, prompt, output, hide_usage, sequence, .. } = *terminal;
    let after = terminal.after.as_ref();
    // The last frames carry what all frames of the stream carry, such as its model and its time.
    let field = |name: &str| after?.get(name).and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok());
    let id: Value = serde_json::from_str(terminal.id).unwrap_or_default();
    let total = prompt.saturating_add(output);
    match endpoint {
        Endpoint::ChatCompletions | Endpoint::Completions => {
            let usage = json!({"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": total});
            let chunk = |choices: Value| {
                json!({"id": id, "object": field("object"), "created": field("created"), "model": field("model"),
                    "choices": choices})
            };
            let choice = if endpoint == Endpoint::Completions {
                json!({"index": 0, "text": "", "finish_reason": "length"})
            } else {
                json!({"index": 0, "delta": {}, "finish_reason": "length"})
            };
            let mut frames = format!("data: {}\n\n", chunk(json!([choice])));
            if !hide_usage {
                let mut last = chunk(json!([]));
                last["usage"] = usage;
                frames.push_str(&format!("data: {last}\n\n"));
            }
            frames + "data: [DONE]\n\n"
        }
        Endpoint::Messages => {
            // The block that is open is that of the last delta.
            let stop = json!({"type": "content_block_stop", "index": field("index").unwrap_or(json!(0))});
            let delta = json!({"type": "message_delta", "delta": {"stop_reason": "max_tokens", "stop_sequence": null},
                "usage": {"input_tokens": prompt, "output_tokens": output}});
            format!(
                "event: content_block_stop\ndata: {stop}\n\nevent: message_delta\ndata: {delta}\n\n\
                 event: message_stop\ndata: {{\"type\":\"message_stop\"}}\n\n"
            )
        }
        Endpoint::Responses => {
            let usage = json!({"input_tokens": prompt, "output_tokens": output, "total_tokens": total});
            // What was written has gone out event by event, and is not repeated here.
            let event = json!({"type": "response.incomplete", "sequence_number": sequence, "response": {"id": id,
                "object": "response", "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"},
                "output": [], "usage": usage}});
            format!("event: response.incomplete\ndata: {event}\n\n")
        }
        Endpoint::Chat | Endpoint::Generate => {
            let mut line = json!({"model": field("model"), "created_at": field("created_at"), "done": true,
                "done_reason": "length", "prompt_eval_count": prompt, "eval_count": output});
            match endpoint {
                Endpoint::Chat => line["message"] = json!({"role": "assistant", "content": ""}),
                _ => line["response"] = json!(""),
            }
            format!("{line}\n")
        }
        // Vectors are never streamed.
        Endpoint::Embeddings | Endpoint::Embed | Endpoint::EmbedOne => String::new(),
    }
}
