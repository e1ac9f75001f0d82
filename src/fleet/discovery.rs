//! How do names become addresses?
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

/// The longest wait for one name.
const PATIENCE: Duration = Duration::from_secs(3);

type Resolving = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Looks up the addresses of a host and port.
#[derive(Clone)]
pub struct Resolver(Arc<dyn Fn(String, u16) -> Resolving + Send + Sync>);

impl fmt::Debug for Resolver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Resolver")
    }
}

impl Resolver {
    /// Uses the system's resolver, as other programs on the machine do.
    pub fn system() -> Self {
        Self::new(|host, port| async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }

    /// Uses `resolve`.
    pub fn new<F>(resolve: impl Fn(String, u16) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        Self(Arc::new(move |host, port| Box::pin(resolve(host, port))))
    }

    /// The addresses of every name that could be resolved, in order and without duplicates.
    pub(crate) async fn resolve_all(&self, names: Vec<(String, String, u16)>) -> Vec<(String, Vec<SocketAddr>)> {
        let resolving = names.into_iter().map(|(entry, host, port)| async move {
            let said = tokio::time::timeout(PATIENCE, (self.0)(host.clone(), port)).await;
            match said.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(mut addresses) => {
                    addresses.sort_unstable();
                    addresses.dedup();
                    Some((entry, addresses))
                }
                Err(error) => {
                    tracing::warn!(node = entry, host, %error, "the name could not be resolved; its nodes stay as they are");
                    None
                }
            }
        });
        join_all(resolving).await.into_iter().flatten().collect()
    }
}
