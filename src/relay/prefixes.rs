//! Which beginnings of a prompt may a node have cached? The scheduler gets digests that mean nothing outside this
//! process, because prompts belong to their users.
use std::sync::{Arc, LazyLock};

use foldhash::quality::RandomState;
use protocol::InferenceRequest;
use scheduler::Prefix;

/// Different in each process.
static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::default);

/// The beginnings of a request's prompt, shortest first.
pub fn prefixes(request: &InferenceRequest, body: &[u8]) -> Arc<[Prefix]> {
    let tokens = request.prompt_estimate() as f64;
    let prefix = |prefix: protocol::PromptPrefix| Prefix {
        digest: prefix.digest,
        // A node that has read less than one token has read nothing.
        tokens: (prefix.share * tokens) as u32,
    };
    request.prefixes(body, &*SEED).into_iter().map(prefix).collect()
}
