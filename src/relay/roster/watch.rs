//! Who starts a prober for each node that joins? A task on the main thread, where the clients to nodes can live.
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::relay::{HealthSettings, Prober, Relay, Upstream};
use scheduler::NodeId;

/// A node to be watched from now on.
#[derive(Debug)]
pub struct Watch {
    pub(super) node: NodeId,
    /// Ends the watching.
    pub(super) stop: CancellationToken,
}

/// Starts probers.
#[derive(Debug)]
pub struct Watchers {
    /// What they share.
    pub relay: Relay,
    /// How they ask.
    pub health: HealthSettings,
    /// Whom to watch.
    pub wanted: mpsc::Receiver<Watch>,
}

impl Watchers {
    /// Watches until `stop` and until every prober has ended, which that `stop` ends, too.
    pub async fn run(mut self, stop: CancellationToken) {
        let upstream = Upstream::new(&self.relay.settings);
        let mut probers = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(Watch { node, stop }) = self.wanted.recv() => {
                    if let Some(prober) = Prober::new(node, &self.relay, self.health.clone(), upstream.clone()) {
                        probers.push(actix_rt::spawn(prober.run(self.relay.dispatcher.clone(), stop)));
                    }
                }
                Some(_) = probers.next() => {}
            }
        }
        while probers.next().await.is_some() {}
    }
}
