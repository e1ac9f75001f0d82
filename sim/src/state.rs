//! What the handlers of one node share.

use std::sync::Arc;

use actix_web::web;
use tokio::sync::watch;

use crate::engine::Engine;
use crate::fault::FaultPlan;
use crate::ledger::Ledger;

/// The node, as handlers receive it.
pub(crate) type NodeData = web::Data<Node>;

/// The parts of a node that outlive its listener.
pub(crate) struct Node {
    pub(crate) engine: Arc<Engine>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) faults: FaultPlan,
    /// Whether `/api/version`, `/api/tags` and `/api/ps` withhold their answers.
    pub(crate) probes_frozen: watch::Sender<bool>,
}

impl Node {
    pub(crate) fn new(engine: Engine) -> Self {
        Self {
            engine: Arc::new(engine),
            ledger: Arc::new(Ledger::default()),
            faults: FaultPlan::default(),
            probes_frozen: watch::Sender::new(false),
        }
    }

    /// Waits while the probes are frozen.
    pub(crate) async fn probes_thawed(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.probes_frozen.subscribe().wait_for(|frozen| !frozen).await;
    }
}
