//! How is everything put together, started, and stopped in order?
//!
//! Stop order: readiness fails → a balancer may take its time to notice → refuse new requests (503) → give running requests their grace period → end the
//! remaining streams with an error frame → stop the server → stop background tasks → flush usage → give back shares of
//! limits → send the last traces → close the database.
mod cluster;
mod descriptors;
mod drain;
mod error;
mod memory;
mod nodes;
mod reload;
mod server;
mod thread;
mod upkeep;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use error::StartError;
pub use reload::Reloader;

use crate::clock::Clock;
use crate::config::Config;
use crate::dispatch::Dispatcher;
use crate::flaw::Flaw;
use crate::fleet::{Resolver, Roster};
use crate::http::{AdminKey, BodyMemory, DemoTraffic, EventFeed, Guesses, Intake, Live};
use crate::metrics::Metrics;
use crate::relay::{Meters, Relay};
use crate::store::{Accounts, Changes, KeyDigest, Retention, Upkeep};
use crate::tls::ServedCertificate;
use crate::trace::{Exporter, Tracer};
use drain::Drain;
use memory::Memory;
use nodes::Nodes;
use protocol::Endpoint;
use server::Parts;
use thread::Task;

/// How many large bodies are parsed at the same time.
const PARSED_AT_ONCE: usize = 2;

/// A gateway that is listening and ready to run.
pub struct App {
    config: Config,
    clock: Clock,
    memory: Memory,
    nodes: Nodes,
    events: Arc<EventFeed>,
    reloader: Reloader,
    exporter: Option<Exporter>,
    stops: Stops,
    server: Server,
    addresses: Vec<SocketAddr>,
}

/// The tokens that end the parts of the gateway, in this order.
#[derive(Clone, Default)]
struct Stops {
    /// Ends the acceptance of new requests, in steps.
    intake: Intake,
    /// Ends requests that are still running after the grace period.
    streams: CancellationToken,
    /// Ends the background tasks.
    tasks: CancellationToken,
}

impl App {
    /// As [`App::build_with`], with the demo's traffic to turn on and off.
    ///
    /// # Errors
    /// [`StartError`]
    pub async fn build_demo(config: Config, admin_key: KeyDigest, traffic: DemoTraffic) -> Result<Self, StartError> {
        let read = || Err("there is no file to read again".to_owned());
        Self::build_all(config, admin_key, Resolver::system(), read, Some(traffic)).await
    }

    /// Opens the database, binds the address and builds every part once, with `resolver` to resolve the names of nodes, and `read`
    /// to read the configuration again. Nodes may be down.
    ///
    /// # Errors
    /// [`StartError`]
    pub async fn build_with(
        config: Config,
        admin_key: KeyDigest,
        resolver: Resolver,
        read: impl Fn() -> Result<Config, String> + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        Self::build_all(config, admin_key, resolver, read, None).await
    }

    async fn build_all(
        config: Config,
        admin_key: KeyDigest,
        resolver: Resolver,
        read: impl Fn() -> Result<Config, String> + Send + Sync + 'static,
        demo: Option<DemoTraffic>,
    ) -> Result<Self, StartError> {
        nodes::check(&config.nodes)?;
        let (clock, stops) = (Clock::start(), Stops::default());
        let metrics = Arc::new(Metrics::new(&config.metrics, &Endpoint::ALL.map(Endpoint::path))?);
        let mut memory = Box::pin(Memory::open(&config, clock)).await?;
        for user in memory.accounts.names_after(None, config.metrics.user_cap) {
            metrics.meet_user(&user);
        }
        let database = (&memory.store, memory.stances.take());
        let nodes = Nodes::open(&config, database, (clock, metrics), resolver, stops.tasks.clone()).await?;
        let certificate = certificate(&config, &nodes.fleet.metrics, clock)?;
        let (tracer, exporter) = Tracer::new(&config.tracing, clock).map_err(StartError::Setting)?;
        let live = live_parts(&config, &memory, &nodes, certificate.clone());
        let (names, limits) = (live.names.clone(), live.limits.clone());
        let reloader = Reloader::new(&config, live, read);
        let meters = Meters { clock, metrics: nodes.fleet.metrics.clone(), requests: Arc::default() };
        let events = Arc::new(EventFeed::new(nodes.fleet.clone(), meters.clone(), stops.intake.draining.clone()));
        let parts = Parts {
            config: config.clone(),
            admin_key: AdminKey(admin_key),
            guesses: Arc::new(Guesses::new(config.server.guesses_per_minute)),
            pace: Arc::default(),
            reads: Arc::default(),
            sessions: Arc::default(),
            memory: Arc::new(BodyMemory::new(config.server.body_memory_bytes, config.server.max_body_bytes)),
            parsing: Arc::new(Semaphore::new(PARSED_AT_ONCE)),
            meters,
            events: events.clone(),
            accounts: memory.accounts.clone(),
            broker: memory.broker.clone(),
            store: memory.store.clone(),
            recorder: memory.recorder.clone(),
            relay: Relay::new(config.relay.clone(), &nodes.fleet, stops.streams.clone()),
            fleet: nodes.fleet.clone(),
            roster: nodes.roster.clone(),
            reloader: reloader.clone(),
            names,
            limits,
            tracer,
            certificate,
            intake: stops.intake.clone(),
            demo,
        };
        let (server, addresses) = parts.listen()?;
        Ok(Self { config, clock, memory, nodes, events, reloader, exporter, stops, server, addresses })
    }

    /// The address it listens on, with the real port even if 0 was configured.
    pub fn address(&self) -> SocketAddr {
        self.addresses.first().copied().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// The address that it serves without TLS beside [`Self::address`]; `None` if there is none.
    pub fn plain_address(&self) -> Option<SocketAddr> {
        self.addresses.get(1).copied()
    }

    /// Users and keys.
    pub fn accounts(&self) -> Arc<Accounts> {
        self.memory.accounts.clone()
    }

    /// The queue and the nodes.
    pub fn dispatcher(&self) -> Arc<Dispatcher> {
        self.nodes.fleet.dispatcher.clone()
    }

    /// The present nodes.
    pub fn roster(&self) -> Arc<Roster> {
        self.nodes.roster.clone()
    }

    /// Applies a changed configuration.
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// The clock that every part uses.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Serves until `stop`, then stops in order.
    ///
    /// # Errors
    /// The server failed.
    pub async fn run(self, stop: CancellationToken) -> io::Result<()> {
        let mut background = self.spawn_upkeep();
        let draining = self.stops.intake.draining.clone();
        let drain = Drain {
            intake: self.stops.intake,
            streams: self.stops.streams,
            recorder: self.memory.recorder.clone(),
            handle: self.server.handle(),
            lame_duck: Duration::from_secs(self.config.server.lame_duck_seconds),
            grace: Duration::from_secs(self.config.server.drain_seconds),
        };
        background.extend(self.nodes.start(&self.config, &draining, &self.stops.tasks)?);
        let traces = CancellationToken::new();
        let traced = traces.clone().cancelled_owned();
        let tracing = self.exporter.map(|exporter| actix_rt::spawn(exporter.run(traced)));
        let remembering = self.memory.start()?;
        let serving = actix_rt::spawn(self.server);
        let stopping = actix_rt::spawn(async move {
            stop.cancelled().await;
            drain.run().await;
        });
        // Ends when the drain has stopped the server, or when the server fails by itself.
        let served = serving.await;
        stopping.abort();
        // Only now: requests that were draining needed probes, the loader and the deadlines.
        self.stops.tasks.cancel();
        for task in background {
            task.await;
        }
        // The last tasks may have handed in rows, so the writer stops after them, and the database closes last.
        let store = remembering.stop().await;
        // Spans of the last requests are sent before this returns.
        traces.cancel();
        if let Some(tracing) = tracing {
            let _ = tracing.await;
        }
        store.close().await;
        served.map_err(io::Error::other)?
    }

    /// Starts the tasks that keep users, learned values, the clock and the database up to date.
    fn spawn_upkeep(&self) -> Vec<Task> {
        let (store, stop) = (&self.memory.store, &self.stops.tasks);
        let settings = &self.config.database;
        let retention =
            Retention { usage_days: settings.usage_retention_days, audit_days: settings.audit_retention_days };
        let stored = Upkeep::new(store.clone(), retention, self.clock, self.nodes.fleet.metrics.clone());
        let (accounts, changes) = (self.accounts(), Changes::of(store.clone()));
        vec![
            thread::spawn(upkeep::refresh(accounts, changes, self.clock, stop.clone())),
            thread::spawn(upkeep::copy(self.accounts(), stop.clone())),
            thread::spawn(upkeep::remember(store.clone(), self.dispatcher(), self.clock, stop.clone())),
            thread::spawn(upkeep::follow_clock(self.clock, self.accounts(), stop.clone())),
            thread::spawn(upkeep::follow_password(store.clone(), stop.clone())),
            thread::spawn(stored.run(stop.clone())),
            thread::spawn(self.events.clone().run(stop.clone())),
            thread::spawn(self.stops.intake.newcomers.clone().watch(stop.clone())),
        ]
    }
}

/// What a changed configuration is applied to.
fn live_parts(
    config: &Config,
    memory: &Memory,
    nodes: &Nodes,
    certificate: Option<Arc<ServedCertificate>>,
) -> reload::Parts {
    reload::Parts {
        roster: nodes.roster.clone(),
        names: Live::new(config.models.clone()),
        limits: Live::new(config.limits.clone()),
        certificate,
        metrics: nodes.fleet.metrics.clone(),
        store: memory.store.clone(),
        changes: nodes.fleet.changes.clone(),
        clock: nodes.fleet.clock,
    }
}

/// The certificate that clients are served; `None` without TLS.
fn certificate(config: &Config, metrics: &Metrics, clock: Clock) -> Result<Option<Arc<ServedCertificate>>, StartError> {
    let flawed = |flaw: Flaw| StartError::Setting(format!("server.tls.{}: {}", flaw.key, flaw.message));
    let Some(certificate) = config.server.tls.certificate().map_err(flawed)? else { return Ok(None) };
    metrics.certificate_expires(certificate.expires());
    if let Some(warning) = certificate.warning(clock.now().unix_ms / 1_000) {
        tracing::warn!("{warning}");
    }
    Ok(Some(Arc::new(ServedCertificate::new(&certificate))))
}
