//! With which options is a model loaded, and does a request need others? Ollama's `needsReload`.

use serde::Deserialize;

/// Tokens of context of a model that is loaded without a wish.
pub(crate) const CONTEXT_LENGTH: u64 = 4096;
const LEAST_CONTEXT_LENGTH: i64 = 4;
const BATCH: i64 = 512;

/// The options that a model runs with from its load to its end.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct LoadOptions {
    num_ctx: Option<i64>,
    num_batch: Option<i64>,
    num_gpu: Option<i64>,
    main_gpu: Option<i64>,
    use_mmap: Option<bool>,
    num_thread: Option<i64>,
    draft_num_predict: Option<i64>,
    /// A field of the request, not of its options.
    #[serde(skip)]
    shift: Option<bool>,
}

impl LoadOptions {
    pub(crate) fn with_shift(self, shift: Option<bool>) -> Self {
        Self { shift, ..self }
    }

    /// Tokens of context, as `/api/ps` tells them.
    pub(crate) fn context_length(&self) -> u64 {
        self.num_ctx.map_or(CONTEXT_LENGTH, |tokens| tokens.max(LEAST_CONTEXT_LENGTH).unsigned_abs())
    }

    /// Whether a model that runs with these has to be loaded anew for a request with those.
    pub(crate) fn differ_for(&self, asked: &Self) -> bool {
        // A negative number of layers is the node's own choice, and content with any.
        let layers = asked.num_gpu.filter(|layers| *layers >= 0);
        let number = |number: Option<i64>| number.unwrap_or_default();
        self.context_length() != asked.context_length()
            || self.num_batch.unwrap_or(BATCH) != asked.num_batch.unwrap_or(BATCH)
            || (layers.is_some() && layers != self.num_gpu)
            || number(self.main_gpu) != number(asked.main_gpu)
            || self.use_mmap != asked.use_mmap
            || number(self.num_thread) != number(asked.num_thread)
            || number(self.draft_num_predict) != number(asked.draft_num_predict)
            || self.shift.unwrap_or(true) != asked.shift.unwrap_or(true)
    }
}
