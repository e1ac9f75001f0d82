//! Which of these nodes are the same engine, as far as one look shows? For `check`, before any gateway runs.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;

use super::endpoint::NodeEndpoint;
use super::inquiry::Inquiry;
use super::settings::{Discover, NodeSettings};
use super::twins::expiries;
use super::upstream::Upstream;

/// The longest wait for one node, and for all of them.
const PATIENCE: Duration = Duration::from_secs(2);
const PATIENCE_WITH_ALL: Duration = Duration::from_secs(5);
/// Nodes that are asked at a time.
const AT_A_TIME: usize = 32;

/// Pairs of nodes that have the same address, or keep a model until the same nanosecond, by name. Nodes that do not answer
/// within seconds are known by their addresses only, and discovered ones not at all.
pub async fn twins_now(nodes: &[NodeSettings]) -> BTreeSet<(String, String)> {
    let endpoints: Vec<Arc<NodeEndpoint>> = nodes
        .iter()
        .filter(|settings| settings.discover != Discover::Dns)
        .filter_map(|settings| NodeEndpoint::new(settings).ok().map(Arc::new))
        .collect();
    let mut marks: BTreeMap<String, Vec<Arc<str>>> = BTreeMap::new();
    for endpoint in &endpoints {
        marks.entry(endpoint.place()).or_default().push(endpoint.name.clone());
    }
    let upstream = Upstream::new(PATIENCE);
    let looking = futures_util::stream::iter(endpoints)
        .map(|endpoint| {
            let name = endpoint.name.clone();
            let inquiry =
                Inquiry { upstream: upstream.clone(), endpoint, probe_timeout: PATIENCE, listing_timeout: PATIENCE };
            async move { (name, inquiry.loaded().await) }
        })
        .buffer_unordered(AT_A_TIME)
        .for_each(|(name, loaded)| {
            for expiry in loaded.iter().flat_map(|listing| expiries(&listing.said)) {
                marks.entry(expiry.to_string()).or_default().push(name.clone());
            }
            std::future::ready(())
        });
    // Whoever has not answered by then is left out.
    drop(tokio::time::timeout(PATIENCE_WITH_ALL, looking).await);
    let pairs = marks.values().flat_map(|names| names.windows(2)).filter(|pair| pair[0] != pair[1]);
    pairs
        .map(|pair| if pair[0] < pair[1] { (&pair[0], &pair[1]) } else { (&pair[1], &pair[0]) })
        .map(|(one, other)| (one.to_string(), other.to_string()))
        .collect()
}
