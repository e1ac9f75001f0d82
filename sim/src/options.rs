//! What do the `options` of a request say, and when do they make Ollama reload a model? Its `FromMap` and `needsReload`.

use serde_json::{Map, Value};

use crate::error::ApiError;

/// A model's context length in tokens, if the request that loads it does not give one.
pub(crate) const CONTEXT_LENGTH: u64 = 4096;
const LEAST_CONTEXT_LENGTH: i64 = 4;
const BATCH: i64 = 512;

const INTEGERS: [&str; 11] = [
    "num_keep",
    "seed",
    "num_predict",
    "top_k",
    "repeat_last_n",
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "num_thread",
    "draft_num_predict",
];
const FLOATS: [&str; 7] =
    ["top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty"];

/// The options of a request that the simulator acts on.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RequestOptions {
    pub(crate) num_predict: Option<i64>,
    pub(crate) load: LoadOptions,
}

impl RequestOptions {
    /// Reads them as Ollama does: unknown names are ignored.
    ///
    /// # Errors
    /// 500 for a value of the wrong type, although the mistake is the client's.
    pub(crate) fn read(options: &Map<String, Value>) -> Result<Self, ApiError> {
        let mut read = Self::default();
        for (name, value) in options.iter().filter(|(_, value)| !value.is_null()) {
            let wrong = |kind: &str| Err(ApiError::internal(format!("option \"{name}\" must be of type {kind}")));
            if INTEGERS.contains(&name.as_str()) {
                let Some(number) = value.as_f64() else { return wrong("integer") };
                read.set(name, number as i64);
            } else if FLOATS.contains(&name.as_str()) && !value.is_number() {
                return wrong("float32");
            } else if name == "use_mmap" {
                let Some(wanted) = value.as_bool() else { return wrong("boolean") };
                read.load.use_mmap = Some(wanted);
            } else if name == "stop" {
                let Some(words) = value.as_array() else { return wrong("array") };
                if !words.iter().all(Value::is_string) {
                    return Err(ApiError::internal("option \"stop\" must be of an array of strings"));
                }
            }
        }
        Ok(read)
    }

    fn set(&mut self, name: &str, number: i64) {
        let field = match name {
            "num_predict" => &mut self.num_predict,
            "num_ctx" => &mut self.load.num_ctx,
            "num_batch" => &mut self.load.num_batch,
            "num_gpu" => &mut self.load.num_gpu,
            "main_gpu" => &mut self.load.main_gpu,
            "num_thread" => &mut self.load.num_thread,
            "draft_num_predict" => &mut self.load.draft_num_predict,
            _ => return,
        };
        *field = Some(number);
    }
}

/// The options that a model is loaded with and keeps until it is unloaded.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LoadOptions {
    num_ctx: Option<i64>,
    num_batch: Option<i64>,
    num_gpu: Option<i64>,
    main_gpu: Option<i64>,
    use_mmap: Option<bool>,
    num_thread: Option<i64>,
    draft_num_predict: Option<i64>,
    /// A field of the request, not one of its options.
    shift: Option<bool>,
}

impl LoadOptions {
    pub(crate) fn with_shift(self, shift: Option<bool>) -> Self {
        Self { shift, ..self }
    }

    /// Whether a prompt that is too long is shortened.
    pub(crate) fn shifts_context(&self) -> bool {
        self.shift.unwrap_or(true)
    }

    /// The context length in tokens, as `/api/ps` reports it.
    pub(crate) fn context_length(&self) -> u64 {
        self.num_ctx.map_or(CONTEXT_LENGTH, |tokens| tokens.max(LEAST_CONTEXT_LENGTH).unsigned_abs())
    }

    /// Whether a model that was loaded with these options must be reloaded for `asked`.
    pub(crate) fn differ_for(&self, asked: &Self) -> bool {
        // A negative number of layers leaves the choice to the node, so any number suits it.
        let layers = asked.num_gpu.filter(|layers| *layers >= 0);
        let number = |number: Option<i64>| number.unwrap_or_default();
        self.context_length() != asked.context_length()
            || self.num_batch.unwrap_or(BATCH) != asked.num_batch.unwrap_or(BATCH)
            || (layers.is_some() && layers != self.num_gpu)
            || number(self.main_gpu) != number(asked.main_gpu)
            || self.use_mmap != asked.use_mmap
            || number(self.num_thread) != number(asked.num_thread)
            || number(self.draft_num_predict) != number(asked.draft_num_predict)
            || self.shifts_context() != asked.shifts_context()
    }
}
