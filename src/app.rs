//! How is everything put together, started, and stopped in order?
//!
//! Stop order: no new requests (they get 503, readiness says so) → running ones have their time → streams that still run
//! end with an error frame → the server stops → background tasks stop → usage is flushed → shares of limits are
//! given back → the last traces are sent → the database closes.
mod descriptors;
mod reload;
mod thread;

use std::any::Any;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use actix_web::middleware::from_fn;
use actix_web::web::{Data, ServiceConfig};
use actix_web::{App as ActixApp, HttpServer};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use reload::Reloader;

use crate::clock::{Clock, Correction, Steps};
use crate::config::Config;
use crate::dispatch::{Dispatcher, Errand};
use crate::fleet::{Fleet, FleetContext, Loader, Resolver, Roster, Upstream, Watch, Watchers};
use crate::http::{self, AdminKey, BodyMemory, Guesses, Inference, Lifecycle, Live, ModelNames, Pace, Reads};
use crate::metrics::Metrics;
use crate::relay::{Meters, Relay};
use crate::store::{
    Accounts, Broker, Changes, Copier, KeyDigest, Leaser, Peppers, Recorder, Store, StoreError, Upkeep, Writer,
};
use crate::trace::{Exporter, Tracer};
use protocol::Endpoint;
use scheduler::Scheduler;

/// How often what the scheduler learned is kept.
const REMEMBER: Duration = Duration::from_secs(60);
/// How often changes that other gateways made to users and keys are looked for, in case they went unheard.
const REFRESH: Duration = Duration::from_secs(2);
/// How often it is written down when keys were last used, milliseconds.
const LAST_USED_MS: i64 = 60_000;
/// Between two looks at the system's clock.
const CLOCK_LOOK: Duration = Duration::from_secs(10);
/// How long a local file that cannot be written, or a slow database, is waited for at the end.
const FLUSH_PATIENCE: Duration = Duration::from_secs(20);
/// How long usage of an earlier run is copied to the database before requests are taken.
const CATCH_UP: Duration = Duration::from_secs(5);
/// What streams get, after the grace period, to send their last frame.
const LAST_FRAME: Duration = Duration::from_secs(2);

/// Large bodies that are parsed at a time.
const PARSED_AT_ONCE: usize = 2;

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The address.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// Where.
        address: String,
        /// Why not.
        error: io::Error,
    },
    /// A setting that [`crate::config::load`] would have refused.
    #[error("{0}")]
    Setting(String),
    /// Metrics that contradict each other.
    #[error("{0}")]
    Metrics(#[from] prometheus::Error),
}

/// A gateway that listens and is ready to run.
pub struct App {
    config: Config,
    clock: Clock,
    store: Store,
    accounts: Arc<Accounts>,
    recorder: Recorder,
    writer: Writer,
    copier: Option<Copier>,
    leaser: Option<Leaser>,
    fleet: FleetContext,
    /// Ends what still runs when its time is over.
    ending: CancellationToken,
    roster: Arc<Roster>,
    watches: mpsc::Receiver<Watch>,
    reloader: Reloader,
    /// Ends what goes on in the background.
    tasks: CancellationToken,
    exporter: Option<Exporter>,
    /// What the scheduler wants done to the nodes' memory.
    errands: mpsc::Receiver<Errand>,
    draining: CancellationToken,
    server: Server,
    address: SocketAddr,
}

impl App {
    /// Opens the database, binds the address and builds every part once. Nodes may be down.
    ///
    /// # Errors
    /// [`StartError`]
    pub async fn build(config: Config, admin_key: KeyDigest) -> Result<Self, StartError> {
        Self::build_with(config, admin_key, Resolver::system(), || Err("there is no file to read again".to_owned()))
            .await
    }

    /// The same with the names of nodes resolved by `resolver`, and the configuration read again by `read`.
    ///
    /// # Errors
    /// [`StartError`]
    pub async fn build_with(
        config: Config,
        admin_key: KeyDigest,
        resolver: Resolver,
        read: impl Fn() -> Result<Config, String> + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        let clock = Clock::start();
        let routes = Endpoint::ALL.map(Endpoint::path);
        let metrics = Arc::new(Metrics::new(&config.metrics, &routes)?);
        let flaws = config
            .nodes
            .iter()
            .enumerate()
            .flat_map(|(index, node)| node.flaws().into_iter().map(move |flaw| (index, flaw)));
        if let Some((index, flaw)) = flaws.into_iter().next() {
            return Err(StartError::Setting(format!("nodes[{index}].{flaw}")));
        }
        let store = Store::open(&config.database).await?.with_peppers(Peppers::load(&config.keys)?);
        if let Err(error) = store.seal_nodes().await {
            tracing::warn!(%error, "settings of nodes that were added could not be sealed with the pepper");
        }
        let (recorder, writer, mut copier) = Recorder::new(store.clone(), clock);
        if let Some(copier) = &copier {
            copier.catch_up(CATCH_UP).await;
        }
        let accounts = Arc::new(Accounts::load(store.clone(), &config.keys, clock.now()).await?);
        if let Some(copier) = &mut copier {
            copier.tell(accounts.clone());
        }
        let leases = Leaser::open(store.clone(), accounts.clone(), clock, &config.database).await?;
        let (broker, mut leaser) = leases.unzip();
        if let Some(leaser) = &mut leaser {
            leaser.join().await;
        }
        for user in accounts.names_after(None, config.metrics.user_cap) {
            metrics.meet_user(&user);
        }
        let (dispatcher, errands) = Dispatcher::new(config.queue, Vec::new(), clock);
        let fleet = FleetContext { nodes: Fleet::default(), catalog: Arc::default(), dispatcher, clock, metrics };
        let ending = CancellationToken::new();
        let tasks = CancellationToken::new();
        let (roster, watches) =
            Roster::open(config.nodes.clone(), fleet.clone(), store.clone(), resolver, tasks.clone()).await;
        recall(&store, &fleet.dispatcher, clock).await;
        let (tracer, exporter) = Tracer::new(&config.tracing, clock).map_err(StartError::Setting)?;
        let draining = CancellationToken::new();
        let names = Live::new(config.models.clone());
        let limits = Live::new(config.limits.clone());
        let reloader = {
            let (roster, names, limits) = (roster.clone(), names.clone(), limits.clone());
            let parts = reload::Parts { roster, names, limits, metrics: fleet.metrics.clone(), clock };
            Reloader::new(&config, parts, read)
        };
        let parts = Parts {
            config: config.clone(),
            admin_key: AdminKey(admin_key),
            guesses: Arc::new(Guesses::new(config.server.guesses_per_minute)),
            pace: Arc::default(),
            reads: Arc::default(),
            memory: Arc::new(BodyMemory::new(config.server.body_memory_bytes, config.server.max_body_bytes)),
            parsing: Arc::new(Semaphore::new(PARSED_AT_ONCE)),
            accounts: accounts.clone(),
            broker,
            store: store.clone(),
            recorder: recorder.clone(),
            relay: Relay::new(config.relay.clone(), &fleet, ending.clone()),
            fleet: fleet.clone(),
            roster: roster.clone(),
            reloader: reloader.clone(),
            names,
            limits,
            tracer,
            draining: draining.clone(),
        };
        let (server, address) = parts.listen()?;
        Ok(Self {
            config,
            clock,
            store,
            accounts,
            recorder,
            writer,
            copier,
            leaser,
            fleet,
            ending,
            roster,
            watches,
            reloader,
            tasks,
            exporter,
            errands,
            draining,
            server,
            address,
        })
    }

    /// Where it listens; the port is real also where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Users and keys.
    pub fn accounts(&self) -> Arc<Accounts> {
        self.accounts.clone()
    }

    /// The queue and the nodes.
    pub fn dispatcher(&self) -> Arc<Dispatcher> {
        self.fleet.dispatcher.clone()
    }

    /// The nodes that there are.
    pub fn roster(&self) -> Arc<Roster> {
        self.roster.clone()
    }

    /// Takes over a changed configuration.
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// The clock of every part.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Serves until `stop`, then stops in order.
    ///
    /// # Errors
    /// When the server breaks.
    pub async fn run(self, stop: CancellationToken) -> io::Result<()> {
        let tasks = self.tasks.clone();
        let mut background = self.spawn_background();
        let (context, connect) = (self.fleet.clone(), self.config.relay.connect());
        let (health, wanted, stopped) = (self.config.health.clone(), self.watches, tasks.clone());
        let probing = thread::run("probes", move || {
            let upstream = Upstream::new(connect);
            Watchers { context, upstream, health, wanted }.run(stopped)
        })?;
        let (dispatcher, stopped) = (self.fleet.dispatcher.clone(), tasks.clone());
        let expiring = thread::run("deadlines", move || dispatcher.run_deadlines(stopped))?;
        let upstream = Upstream::new(self.config.relay.connect());
        let loader = Loader::new(self.fleet.clone(), self.config.relay.load_terms(), upstream, self.errands);
        background.push(actix_rt::spawn(loader.run(tasks.clone())));
        let [flush, copy, share, traces] = [(); 4].map(|()| CancellationToken::new());
        let stopped = traces.clone().cancelled_owned();
        let tracing = self.exporter.map(|exporter| actix_rt::spawn(exporter.run(stopped)));
        let (writer, flushed) = (self.writer, flush.clone());
        let writing = thread::run("writer", move || writer.run(flushed, FLUSH_PATIENCE))?;
        let copying = self.copier.map(|copier| actix_rt::spawn(copier.run(copy.clone(), FLUSH_PATIENCE)));
        let sharing = self.leaser.map(|leaser| actix_rt::spawn(leaser.run(share.clone())));
        let handle = self.server.handle();
        let serving = actix_rt::spawn(self.server);
        let drain = Drain {
            draining: self.draining,
            streams: self.ending,
            recorder: self.recorder,
            handle,
            grace: Duration::from_secs(self.config.server.drain_seconds),
        };
        let stopping = actix_rt::spawn(async move {
            stop.cancelled().await;
            drain.run().await;
        });
        let served = serving.await;
        stopping.abort();
        tasks.cancel();
        for task in background {
            let _ = task.await;
        }
        probing.await;
        expiring.await;
        flush.cancel();
        writing.await;
        copy.cancel();
        if let Some(copying) = copying {
            let _ = copying.await;
        }
        share.cancel();
        if let Some(sharing) = sharing {
            let _ = sharing.await;
        }
        traces.cancel();
        if let Some(tracing) = tracing {
            let _ = tracing.await;
        }
        self.store.close().await;
        served.map_err(io::Error::other)?
    }

    fn upkeep(&self) -> Upkeep {
        let kept_days = self.config.database.usage_retention_days;
        Upkeep::new(self.store.clone(), kept_days, self.clock, self.fleet.metrics.clone())
    }

    fn spawn_background(&self) -> Vec<JoinHandle<()>> {
        let stop = &self.tasks;
        let interval = Duration::from_secs(self.config.health.fleet_interval_seconds);
        vec![
            actix_rt::spawn(refresh(self.accounts.clone(), Changes::of(self.store.clone()), self.clock, stop.clone())),
            actix_rt::spawn(remember(self.store.clone(), self.fleet.dispatcher.clone(), self.clock, stop.clone())),
            actix_rt::spawn(self.roster.clone().run(interval)),
            actix_rt::spawn(follow_clock(self.clock, self.accounts.clone(), stop.clone())),
            actix_rt::spawn(self.upkeep().run(stop.clone())),
        ]
    }
}

/// Takes up what other gateways on the same database change, and writes down when keys were last used.
async fn refresh(accounts: Arc<Accounts>, mut changes: Changes, clock: Clock, stop: CancellationToken) {
    let mut written_ms = clock.now().unix_ms;
    loop {
        let is_last = tokio::select! {
            () = stop.cancelled() => true,
            () = changes.wait(REFRESH) => false,
        };
        let now_ms = clock.now().unix_ms;
        if is_last || now_ms - written_ms >= LAST_USED_MS {
            // Times are to the minute, so that the minute before counts too.
            match accounts.write_last_used(written_ms - LAST_USED_MS).await {
                Ok(()) => {
                    written_ms = now_ms;
                    accounts.rest(clock.now());
                }
                Err(error) => tracing::warn!(%error, "when keys were last used could not be written down"),
            }
        }
        if is_last {
            return;
        }
        let refreshed = tokio::select! {
            () = stop.cancelled() => continue,
            refreshed = accounts.refresh(clock.now()) => refreshed,
        };
        if let Err(error) = refreshed {
            tracing::warn!(%error, "users could not be read; the last ones known stay in force");
        }
    }
}

/// Follows the system's clock; before that sets another day, what was used of it is learned.
async fn follow_clock(clock: Clock, accounts: Arc<Accounts>, stop: CancellationToken) {
    let mut steps = Steps::default();
    while tokio::time::timeout(CLOCK_LOOK, stop.cancelled()).await.is_err() {
        let now = clock.now();
        match steps.look(clock.behind_ms(), now.uptime) {
            Correction::None => {}
            Correction::Small(by_ms) => clock.correct(by_ms),
            Correction::Noticed(by_ms) => {
                tracing::warn!(
                    by_ms,
                    "the system's clock was set; it is followed once it has stayed so for five minutes"
                );
            }
            Correction::Lasting(by_ms) => {
                let after = limits::Moment { unix_ms: now.unix_ms.saturating_add(by_ms), ..now };
                if after.day() != now.day()
                    && let Err(error) = accounts.prepare_day(after).await
                {
                    tracing::warn!(%error, "the clock is not followed yet: what was used of the day could not be read");
                    continue;
                }
                clock.correct(by_ms);
                let (from, to) = (now.day(), after.day());
                tracing::warn!(
                    by_ms,
                    from,
                    to,
                    "the system's clock is followed; limits count this day (since 1970-01-01)"
                );
            }
        }
    }
}

/// Takes up what the scheduler had learned when it was last kept. Without it everything is learned anew.
async fn recall(store: &Store, dispatcher: &Dispatcher, clock: Clock) {
    let kept = match store.learned().await {
        Ok(kept) => kept,
        Err(error) => return tracing::warn!(%error, "what was learned of the nodes could not be read"),
    };
    let Some((learned, saved_at_ms)) = kept else { return };
    let age = u64::try_from(clock.now().unix_ms - saved_at_ms).unwrap_or_default();
    match serde_json::from_str(&learned) {
        Ok(learned) => dispatcher.recall(learned, Duration::from_millis(age)),
        // Of another version.
        Err(error) => tracing::info!(%error, "what was learned of the nodes is not understood any more"),
    }
}

/// Keeps what the scheduler learns, now and then and at the end.
async fn remember(store: Store, dispatcher: Arc<Dispatcher>, clock: Clock, stop: CancellationToken) {
    let mut stopped = false;
    while !stopped {
        stopped = tokio::time::timeout(REMEMBER, stop.cancelled()).await.is_ok();
        let learned = dispatcher.read(Scheduler::learned);
        let kept = match serde_json::to_string(&learned) {
            Ok(learned) => store.keep_learned(learned, clock.now().unix_ms).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = kept {
            tracing::warn!(error, "what was learned of the nodes could not be kept");
        }
    }
}

/// What the server hands to its workers.
#[derive(Clone)]
struct Parts {
    config: Config,
    admin_key: AdminKey,
    guesses: Arc<Guesses>,
    pace: Arc<Pace>,
    reads: Arc<Reads>,
    memory: Arc<BodyMemory>,
    parsing: Arc<Semaphore>,
    accounts: Arc<Accounts>,
    broker: Option<Broker>,
    store: Store,
    recorder: Recorder,
    relay: Relay,
    fleet: FleetContext,
    roster: Arc<Roster>,
    reloader: Reloader,
    names: Live<ModelNames>,
    limits: Live<limits::DefaultLimits>,
    tracer: Tracer,
    draining: CancellationToken,
}

impl Parts {
    fn listen(self) -> Result<(Server, SocketAddr), StartError> {
        let settings = self.config.server.clone();
        let bind =
            self.config.bind().ok_or_else(|| StartError::Setting("server.bind: expected ADDRESS:PORT".to_owned()))?;
        let stall = Duration::from_secs(settings.client_stall_seconds);
        let workers = match settings.workers {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            workers => workers,
        };
        let connections = self.connections_of_each(workers);
        let failed = |error| StartError::Bind { address: bind.to_string(), error };
        let application = move || {
            ActixApp::new()
                .wrap(from_fn(http::observe))
                .configure(|config| self.provide(config))
                .configure(http::routes)
        };
        let server = HttpServer::new(application)
            .workers(workers)
            .max_connections(connections)
            .keep_alive(Duration::from_secs(settings.idle_connection_seconds))
            // Otherwise a client that leaves while we wait for a node is never noticed.
            .h1_allow_half_closed(false)
            // Otherwise small events wait for the client's delayed acknowledgement.
            .tcp_nodelay(true)
            .shutdown_timeout(LAST_FRAME.as_secs())
            .disable_signals()
            .on_connect(move |connection, _| watch_client(connection, stall))
            // HTTP/1.1 alone. With HTTP/2 no handler hears that its client left, and its request would hold its slot to
            // the end; and a connection that says nothing would have no deadline.
            .bind(bind)
            .map_err(failed)?;
        let address = server.addrs().first().copied().unwrap_or(bind);
        Ok((server.run(), address))
    }

    /// Clients that a worker accepts at a time.
    fn connections_of_each(&self, workers: usize) -> usize {
        let nodes = self.config.nodes.len();
        let Some(descriptors) = descriptors::raise() else { return usize::MAX };
        if let Some(shortage) = descriptors::shortage(descriptors, nodes, self.config.queue.max_queued) {
            tracing::warn!("{shortage}");
        }
        let clients = usize::try_from(descriptors::most_clients(descriptors, nodes)).unwrap_or(usize::MAX);
        (clients / workers).max(1)
    }

    /// What the handlers of one worker need. The client to the nodes is the worker's own: it cannot leave its thread.
    fn provide(&self, config: &mut ServiceConfig) {
        let meters = Meters { clock: self.fleet.clock, metrics: self.fleet.metrics.clone() };
        let upstream = Upstream::new(self.config.relay.connect());
        let inference = Inference {
            relay: self.relay.clone(),
            upstream: upstream.clone(),
            dispatcher: self.fleet.dispatcher.clone(),
            tracer: self.tracer.clone(),
            meters: meters.clone(),
            recorder: self.recorder.clone(),
            broker: self.broker.clone(),
            names: self.names.clone(),
            limits: self.limits.clone(),
            draining: self.draining.clone(),
            memory: self.memory.clone(),
            parsing: self.parsing.clone(),
        };
        let lifecycle = Lifecycle {
            draining: self.draining.clone(),
            dispatcher: self.fleet.dispatcher.clone(),
            recorder: self.recorder.clone(),
            metrics: self.fleet.metrics.clone(),
            names: self.names.clone(),
        };
        config
            .app_data(Data::from(self.guesses.clone()))
            .app_data(Data::from(self.pace.clone()))
            .app_data(Data::from(self.reads.clone()))
            .app_data(Data::from(self.accounts.clone()))
            .app_data(Data::new(self.admin_key))
            .app_data(Data::new(self.store.clone()))
            .app_data(Data::new(self.recorder.clone()))
            .app_data(Data::new(self.broker.clone()))
            .app_data(Data::new(self.config.server.clone()))
            .app_data(Data::new(self.limits.clone()))
            .app_data(Data::from(self.roster.clone()))
            .app_data(Data::new(self.fleet.clone()))
            .app_data(Data::new(upstream))
            .app_data(Data::new(self.config.relay.clone()))
            .app_data(Data::new(self.names.clone()))
            .app_data(Data::new(http::Reload::new({
                let reloader = self.reloader.clone();
                move || {
                    let reloader = reloader.clone();
                    async move { reloader.reload().await }
                }
            })))
            .app_data(Data::new(meters))
            .app_data(Data::new(inference))
            .app_data(Data::new(lifecycle));
    }
}

/// Closes the connection of a client that reads nothing for `stall`: without this a stream to it would hold its slot for
/// ever, because a body is not asked for more while the socket is full.
fn watch_client(connection: &dyn Any, stall: Duration) {
    if let Some(stream) = connection.downcast_ref::<actix_rt::net::TcpStream>()
        && let Err(error) = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(stall))
    {
        tracing::warn!(%error, "the deadline for clients that stop reading could not be set");
    }
}

/// The end of serving.
struct Drain {
    draining: CancellationToken,
    streams: CancellationToken,
    recorder: Recorder,
    handle: ServerHandle,
    grace: Duration,
}

impl Drain {
    async fn run(self) {
        tracing::info!(grace_seconds = self.grace.as_secs(), "stopping: no new requests are taken");
        self.draining.cancel();
        if tokio::time::timeout(self.grace, self.idle()).await.is_err() {
            tracing::warn!("the grace period is over: running requests are ended");
            self.streams.cancel();
            let _ = tokio::time::timeout(LAST_FRAME, self.idle()).await;
        }
        self.handle.stop(true).await;
    }

    /// Waits until every request has ended and its row is written.
    async fn idle(&self) {
        while self.recorder.backlog() > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
