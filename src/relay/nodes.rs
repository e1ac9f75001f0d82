//! Which nodes are there, and how are they addressed?
use std::fmt;
use std::sync::Arc;

use awc::http::Uri;
use serde::{Deserialize, Serialize};

use crate::protocol::Endpoint;
use crate::scheduler::{NodeId, NodeSpec};

/// One Ollama machine, as configured.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSettings {
    /// `[A-Za-z0-9._-]{1,64}`, unique.
    pub name: String,
    /// `http://HOST:PORT` or `https://HOST:PORT`, without a path.
    pub url: String,
    /// That node's `OLLAMA_NUM_PARALLEL`: requests that one loaded model takes at a time. Default 1.
    #[serde(default = "one")]
    pub slots: u32,
    /// Memory for models, GB (10^9 bytes); a model that is not loaded goes where it fits. `null` = everything is taken
    /// to fit. Default `null`.
    #[serde(default)]
    pub vram_gb: Option<f64>,
    /// Sent to the node as `Authorization: Bearer`. Default `null`.
    #[serde(default)]
    pub api_key: Option<String>,
}

fn one() -> u32 {
    1
}

/// The key stays out of logs.
impl fmt::Debug for NodeSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("NodeSettings").field("name", &self.name).field("url", &self.url).finish_non_exhaustive()
    }
}

impl NodeSettings {
    /// What the scheduler needs to know.
    pub fn spec(&self) -> NodeSpec {
        let vram_bytes = self.vram_gb.map(|gigabytes| (gigabytes * 1e9) as u64);
        NodeSpec { name: self.name.clone(), slots: self.slots, vram_bytes }
    }
}

/// A node's addresses, made once.
pub struct NodeEndpoint {
    /// The configured name.
    pub name: Arc<str>,
    /// In the order of [`Endpoint::ALL`].
    routes: Vec<Uri>,
    version: Uri,
    tags: Uri,
    ps: Uri,
    show: Uri,
    authorization: Option<String>,
}

impl fmt::Debug for NodeEndpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("NodeEndpoint").field("name", &self.name).finish_non_exhaustive()
    }
}

impl NodeEndpoint {
    fn new(settings: &NodeSettings) -> Result<Self, String> {
        let base = settings.url.trim_end_matches('/');
        let uri = |path: &str| -> Result<Uri, String> {
            let uri: Uri = format!("{base}{path}").parse().map_err(|error| format!("{error}"))?;
            let plain = uri.path() == path && uri.query().is_none() && uri.host().is_some_and(|host| !host.is_empty());
            let user_info = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
            match uri.scheme_str() {
                Some("http" | "https") if plain && !user_info => Ok(uri),
                _ => Err("expected http://HOST:PORT or https://HOST:PORT".to_owned()),
            }
        };
        Ok(Self {
            name: settings.name.as_str().into(),
            routes: Endpoint::ALL.into_iter().map(|endpoint| uri(endpoint.path())).collect::<Result<_, _>>()?,
            version: uri("/api/version")?,
            tags: uri("/api/tags")?,
            ps: uri("/api/ps")?,
            show: uri("/api/show")?,
            authorization: settings.api_key.as_ref().map(|key| format!("Bearer {key}")),
        })
    }

    /// Where a route is on this node.
    pub fn uri(&self, endpoint: Endpoint) -> &Uri {
        // The discriminants count from zero in the order of `ALL`.
        &self.routes[endpoint as usize]
    }

    pub(super) fn version_uri(&self) -> &Uri {
        &self.version
    }

    pub(super) fn tags_uri(&self) -> &Uri {
        &self.tags
    }

    pub(super) fn ps_uri(&self) -> &Uri {
        &self.ps
    }

    pub(super) fn show_uri(&self) -> &Uri {
        &self.show
    }

    /// The `Authorization` header for this node, and for no other.
    pub(super) fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }
}

/// All nodes; a [`NodeId`] is the index of one.
#[derive(Clone, Debug)]
pub struct Fleet(Arc<[NodeEndpoint]>);

impl Fleet {
    /// Checks the addresses.
    ///
    /// # Errors
    /// The index of the first node whose URL is wrong, and why.
    pub fn new(nodes: &[NodeSettings]) -> Result<Self, (usize, String)> {
        let endpoints =
            nodes.iter().enumerate().map(|(index, node)| NodeEndpoint::new(node).map_err(|why| (index, why)));
        Ok(Self(endpoints.collect::<Result<Vec<_>, _>>()?.into()))
    }

    /// The node with this id, which the scheduler gave.
    pub fn get(&self, node: NodeId) -> &NodeEndpoint {
        &self.0[node.0]
    }

    /// Every node's id.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.0.len()).map(NodeId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_addresses_are_taken() {
        let fleet = |url: &str| {
            let node = NodeSettings { name: "a".into(), url: url.into(), slots: 1, vram_gb: None, api_key: None };
            Fleet::new(&[node])
        };
        for good in ["http://127.0.0.1:11434", "https://gpu.example.org", "http://[::1]:1/"] {
            assert!(fleet(good).is_ok(), "{good}");
        }
        for bad in
            ["", "127.0.0.1:11434", "ftp://a", "http://", "http://a/b", "http://u:p@a", "http://a?b", "http://a b"]
        {
            assert!(fleet(bad).is_err(), "{bad}");
        }
    }
}
