//! What do the handlers of one node share?

use std::sync::Arc;

use actix_web::web;

use crate::engine::Engine;
use crate::fault::FaultPlan;
use crate::ledger::Ledger;
use crate::listing::Listings;
use crate::prompts::PromptCache;

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
