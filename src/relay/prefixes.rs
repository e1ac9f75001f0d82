//! What of a prompt may a node have read before? Told to the scheduler as digests that mean nothing outside of this
//! process: prompts are their users'.
use std::collections::hash_map::RandomState;
use std::sync::{Arc, LazyLock};

use protocol::InferenceRequest;
use scheduler::Prefix;

/// Another one in each process.
static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The beginnings of a request's prompt, the shortest first.
pub fn prefixes(request: &InferenceRequest, body: &[u8]) -> Arc<[Prefix]> {
    let tokens = request.prompt_estimate() as f64;
    let prefix = |prefix: protocol::PromptPrefix| Prefix {
        digest: prefix.digest,
        // A node that has read less than a token has read nothing.
        tokens: (prefix.share * tokens) as u32,
    };
    request.prefixes(body, &*SEED).into_iter().map(prefix).collect()
}
