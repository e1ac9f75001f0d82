//! What do the handlers of one node share?

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use actix_web::web;

use crate::engine::Engine;
use crate::fault::FaultPlan;
use crate::ledger::Ledger;
use crate::listing::Listings;
use crate::text::count_tokens;

/// The node, as handlers receive it.
pub(crate) type NodeData = web::Data<Node>;

/// The parts of a node that outlive its listener.
pub(crate) struct Node {
    pub(crate) engine: Arc<Engine>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) faults: FaultPlan,
    pub(crate) listings: Listings,
    pub(crate) prompts: PromptCache,
}

impl Node {
    pub(crate) fn new(engine: Engine) -> Self {
        Self {
            engine: Arc::new(engine),
            ledger: Arc::new(Ledger::default()),
            faults: FaultPlan::default(),
            listings: Listings::default(),
            prompts: PromptCache::default(),
        }
    }
}

/// How many prompts are kept.
const MOST_PROMPTS: usize = 16;
/// How many characters of a prompt are kept.
const MOST_CHARACTERS: usize = 64 * 1024;

/// The latest prompts of a node.
#[derive(Debug, Default)]
pub(crate) struct PromptCache(Mutex<VecDeque<String>>);

impl PromptCache {
    /// Tokens that a prompt shares with the beginning of an earlier one. Remembers the prompt.
    pub(crate) fn reuse(&self, prompt: &str) -> u64 {
        let prompt: String = prompt.chars().take(MOST_CHARACTERS).collect();
        let mut kept = self.0.lock().expect("no code panics while it holds the prompts");
        let common =
            |earlier: &String| earlier.chars().zip(prompt.chars()).take_while(|(earlier, new)| earlier == new).count();
        let longest = kept.iter().map(common).max().unwrap_or(0);
        let whole: String = prompt.chars().take(longest).collect();
        kept.truncate(MOST_PROMPTS - 1);
        kept.push_front(prompt);
        // The last token is always read again, because the answer starts from it.
        count_tokens(&whole).saturating_sub(1)
    }
}
