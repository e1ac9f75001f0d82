//! How does this gateway's link to the other gateways start? It listens at once, and speaks once the secret is known.
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::StartError;
use super::thread::{self, Task};
use crate::dispatch::Dispatcher;
use crate::link::{self, ClusterSettings, LinkContext};
use crate::store::{SchedulerLease, Stances};

/// The pause before the database is asked for the secret again.
const RETRY: Duration = Duration::from_secs(1);

/// A link that listens, but says nothing yet.
pub(super) struct Link {
    listener: TcpListener,
    own: Arc<str>,
    address: Arc<str>,
    /// As configured; `None` if it is in the database.
    secret: Option<String>,
    lease: SchedulerLease,
}

impl Link {
    /// Binds the address of the link; `None` if none is configured.
    ///
    /// # Errors
    /// The address or the secret cannot be used.
    pub(super) fn open(settings: &ClusterSettings, stances: &Stances) -> Result<Option<Self>, StartError> {
        let Some(bind) = settings.address() else { return Ok(None) };
        let secret = settings.configured_secret().map_err(StartError::Setting)?;
        let failed = |error| StartError::Bind { address: bind.to_string(), error };
        let listener = TcpListener::bind(bind).map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let address = settings.advertise.clone().unwrap_or_else(|| format!("http://{bound}")).into();
        let (own, lease) = (stances.gateway(), stances.scheduler_lease());
        Ok(Some(Self { listener, own, address, secret, lease }))
    }

    /// Where the others reach it.
    pub(super) fn address(&self) -> Arc<str> {
        self.address.clone()
    }

    /// Serves the others and calls them, on a thread of its own.
    ///
    /// # Errors
    /// The operating system has no more threads.
    pub(super) fn start(self, dispatcher: Arc<Dispatcher>, stop: CancellationToken) -> io::Result<Task> {
        thread::run("link", move || self.run(dispatcher, stop))
    }

    async fn run(self, dispatcher: Arc<Dispatcher>, stop: CancellationToken) {
        let secret = tokio::select! {
            () = stop.cancelled() => return,
            secret = find_secret(self.secret, &self.lease) => secret,
        };
        let context = LinkContext::new(dispatcher, self.own, self.address, secret);
        let server = match link::listen(context.clone(), self.listener) {
            Ok(server) => server,
            Err(error) => return tracing::error!(%error, "this gateway has no link to the others"),
        };
        let handle = server.handle();
        let serving = actix_rt::spawn(server);
        link::call(context, stop).await;
        handle.stop(false).await;
        drop(serving.await);
    }
}

async fn find_secret(configured: Option<String>, lease: &SchedulerLease) -> String {
    if let Some(secret) = configured {
        return secret;
    }
    loop {
        match lease.secret().await {
            Ok(secret) => return secret,
            Err(error) => tracing::warn!(%error, "the secret of the links could not be read from the database"),
        }
        tokio::time::sleep(RETRY).await;
    }
}
