//! How does the HTTP server listen, and what does it give to each worker's handlers?
use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_rt::net::TcpStream;
use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::dev::{Extensions, Server};
use actix_web::middleware::from_fn;
use actix_web::web::{Data, ServiceConfig};
use actix_web::{App as ActixApp, HttpServer};
use tokio::sync::Semaphore;

use super::descriptors;
use super::drain::LAST_FRAME;
use super::error::StartError;
use super::reload::Reloader;
use crate::config::Config;
use crate::fleet::{FleetContext, Roster, Upstream};
use crate::http::{
    self, AdminKey, BodyMemory, DemoTraffic, EventFeed, Guesses, Inference, Intake, Lifecycle, Live, ModelNames,
    Newcomers, OpenStreams, Pace, Reads, Sessions,
};
use crate::relay::{Meters, Relay};
use crate::store::{Accounts, Broker, Recorder, Store};
use crate::tls::ServedCertificate;
use crate::trace::Tracer;

/// What the server passes on to its workers.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) admin_key: AdminKey,
    pub(super) guesses: Arc<Guesses>,
    pub(super) pace: Arc<Pace>,
    pub(super) reads: Arc<Reads>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) memory: Arc<BodyMemory>,
    pub(super) parsing: Arc<Semaphore>,
    pub(super) meters: Meters,
    pub(super) events: Arc<EventFeed>,
    pub(super) accounts: Arc<Accounts>,
    pub(super) broker: Option<Broker>,
    pub(super) store: Store,
    pub(super) recorder: Recorder,
    pub(super) relay: Relay,
    pub(super) fleet: FleetContext,
    pub(super) roster: Arc<Roster>,
    pub(super) reloader: Reloader,
    pub(super) names: Live<ModelNames>,
    pub(super) limits: Live<limits::DefaultLimits>,
    pub(super) tracer: Tracer,
    pub(super) certificate: Option<Arc<ServedCertificate>>,
    pub(super) intake: Intake,
    pub(super) demo: Option<DemoTraffic>,
}

impl Parts {
    /// Binds the addresses. Returns the one of `server.bind`, then the plain one if there is one.
    pub(super) fn listen(self) -> Result<(Server, Vec<SocketAddr>), StartError> {
        let settings = self.config.server.clone();
        let bind =
            self.config.bind().ok_or_else(|| StartError::Setting("server.bind: expected ADDRESS:PORT".to_owned()))?;
        let stall = Duration::from_secs(settings.client_stall_seconds);
        let workers = match settings.workers {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            workers => workers,
        };
        let connections = self.connections_of_each(workers);
        let (certificate, intake) = (self.certificate.clone(), self.intake.clone());
        let application = move || {
            ActixApp::new()
                .wrap(from_fn(http::watch_streams))
                .wrap(from_fn(http::observe))
                .configure(|config| self.provide(config))
                .configure(|config| http::routes(&self.config.server, self.demo.as_ref(), config))
        };
        let server = HttpServer::new(application)
            .workers(workers)
            .max_connections(connections)
            // A deadline that goes on while this process is paused: `Newcomers` has one that does not.
            .client_request_timeout(Duration::ZERO)
            .keep_alive(Duration::from_secs(settings.idle_connection_seconds))
            // Otherwise a client that leaves while we wait for a node would not be noticed.
            .h1_allow_half_closed(false)
            // Otherwise small events would wait for the client's delayed acknowledgement.
            .tcp_nodelay(true)
            .shutdown_timeout(LAST_FRAME.as_secs())
            .disable_signals()
            .on_connect(move |connection, data| {
                intake.connected(data);
                watch_client(connection, data, stall, &intake.newcomers);
            });
        let failed = |address: SocketAddr| move |error| StartError::Bind { address: address.to_string(), error };
        let server = match certificate {
            // Without TLS, HTTP/1.1 only: clients would have to know in advance that they may speak HTTP/2.
            None => server.bind(bind).map_err(failed(bind))?,
            Some(certificate) => {
                let server = server.bind_rustls_0_23(bind, certificate.config()?).map_err(failed(bind))?;
                match settings.tls.plain_address() {
                    Some(plain) => server.bind(plain).map_err(failed(plain))?,
                    None => server,
                }
            }
        };
        let addresses = server.addrs();
        Ok((server.run(), addresses))
    }

    /// How many client connections one worker accepts at a time.
    fn connections_of_each(&self, workers: usize) -> usize {
        let nodes = self.config.nodes.len();
        let Some(descriptors) = descriptors::raise() else { return usize::MAX };
        if let Some(shortage) = descriptors::shortage(descriptors, nodes, self.config.queue.max_queued) {
            tracing::warn!("{shortage}");
        }
        let clients = usize::try_from(descriptors::most_clients(descriptors, nodes)).unwrap_or(usize::MAX);
        (clients / workers).max(1)
    }

    /// What one worker's handlers need. Each worker has its own client to the nodes, which cannot leave its thread.
    fn provide(&self, config: &mut ServiceConfig) {
        let upstream = Upstream::new(self.config.relay.connect());
        let inference = Inference {
            relay: self.relay.clone(),
            upstream: upstream.clone(),
            dispatcher: self.fleet.dispatcher.clone(),
            tracer: self.tracer.clone(),
            meters: self.meters.clone(),
            recorder: self.recorder.clone(),
            broker: self.broker.clone(),
            names: self.names.clone(),
            limits: self.limits.clone(),
            intake: self.intake.clone(),
            memory: self.memory.clone(),
            parsing: self.parsing.clone(),
        };
        let lifecycle = Lifecycle {
            draining: self.intake.draining.clone(),
            dispatcher: self.fleet.dispatcher.clone(),
            recorder: self.recorder.clone(),
            metrics: self.fleet.metrics.clone(),
            names: self.names.clone(),
        };
        config
            .app_data(Data::from(self.guesses.clone()))
            .app_data(Data::from(self.pace.clone()))
            .app_data(Data::from(self.reads.clone()))
            .app_data(Data::from(self.sessions.clone()))
            .app_data(Data::from(self.accounts.clone()))
            .app_data(Data::new(self.admin_key))
            .app_data(Data::new(self.store.clone()))
            .app_data(Data::new(self.recorder.clone()))
            .app_data(Data::new(self.broker.clone()))
            .app_data(Data::new(self.config.server.clone()))
            .app_data(Data::new(http::SelfService(self.config.keys.self_service)))
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
            .app_data(Data::new(self.meters.clone()))
            .app_data(Data::from(self.events.clone()))
            .app_data(Data::new(self.intake.clone()))
            .app_data(Data::new(inference))
            .app_data(Data::new(lifecycle));
    }
}

/// Closes the connection of a client that has read nothing for `stall`. Otherwise a stream to it would hold its slot
/// for ever, because a body is not asked for more while the socket is full. Also that of a client that sends nothing.
fn watch_client(connection: &dyn Any, data: &mut Extensions, stall: Duration, newcomers: &Newcomers) {
    let secure = connection.downcast_ref::<TlsStream<TcpStream>>();
    if secure.is_some() {
        data.insert(OpenStreams::default());
    }
    let plain = connection.downcast_ref::<TcpStream>();
    let Some(stream) = plain.or_else(|| secure.map(|secure| secure.get_ref().0)) else { return };
    let socket = socket2::SockRef::from(stream);
    if let Err(error) = socket.set_tcp_user_timeout(Some(stall)) {
        tracing::warn!(%error, "the deadline for clients that stop reading could not be set");
    }
    if let Err(error) = newcomers.connected(&socket, secure.is_some(), data) {
        tracing::warn!(%error, "a client was turned away, as nothing would end its wait for a request");
        let _ = socket.shutdown(std::net::Shutdown::Both);
    }
}
