//! How is a node started, steered and stopped?

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::http::KeepAlive;
use actix_web::{App, HttpServer, middleware, web};

use crate::config::SimConfig;
use crate::engine::Engine;
use crate::fault::Fault;
use crate::http;
use crate::ledger::{SeenRequest, SimStats};
use crate::listing::OddListing;
use crate::state::Node;

/// A simulated Ollama node that listens on its own port. Dropping it stops it.
pub struct SimNode {
    node: Arc<Node>,
    addr: SocketAddr,
    /// `None` while stopped.
    server: Mutex<Option<ServerHandle>>,
}

impl SimNode {
    /// Starts a node. Must be called inside an actix system; the node lives in a thread of its own.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(config: SimConfig) -> io::Result<SimNode> {
        let listen = config.listen;
        let node = Arc::new(Node::new(Engine::new(config.settled())));
        node.engine.warm_up();
        let (addr, handle) = serve(Arc::clone(&node), listen)?;
        Ok(SimNode { node, addr, server: Mutex::new(Some(handle)) })
    }

    /// Where the node listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The base address, such as `http://127.0.0.1:11434`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Strikes every generation and embedding request with this fault from now on; `None` ends it.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.node.faults.set(fault);
    }

    /// Strikes the next generation and embedding requests, one fault each, before the fault of `set_fault` applies.
    pub fn fault_next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.node.faults.push(faults);
    }

    /// Strikes every generation and embedding request whose body contains `marker` with this fault from now on, in
    /// place of any other.
    pub fn poison(&self, marker: &str, fault: Fault) {
        self.node.faults.poison(marker, fault);
    }

    /// Makes the node's listings of its models odd from now on; `None` ends it.
    pub fn set_listing(&self, odd: Option<OddListing>) {
        self.node.listings.set(odd);
    }

    /// Makes tokens take this many times longer from now on, including those of running answers; 1 ends it. An
    /// infinitely fast node stays infinitely fast.
    pub fn slow_down(&self, factor: f64) {
        self.node.engine.slow_down(factor);
    }

    /// While true, `/api/version`, `/api/tags` and `/api/ps` do not answer, nor do the pages of other servers.
    pub fn freeze_probes(&self, frozen: bool) {
        self.node.engine.pauses().probes_frozen.set(frozen);
    }

    /// While true, the node accepts connections and does nothing else, like a process that was sent SIGSTOP.
    pub fn freeze(&self, frozen: bool) {
        self.node.engine.pauses().frozen.set(frozen);
    }

    /// While true, the node answers everything but generation and embedding: those requests take their slots and get
    /// nothing, not even a head, and running answers stop in the middle.
    pub fn fall_silent(&self, silent: bool) {
        self.node.engine.pauses().silent.set(silent);
    }

    /// The counters now.
    pub fn stats(&self) -> SimStats {
        self.node.engine.with_load_counts(self.node.ledger.stats())
    }

    /// The last 10,000 requests, oldest first.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.node.ledger.requests()
    }

    /// Closes the listener and all connections at once and forgets the loaded models.
    pub async fn stop(&self) {
        let handle = self.server().take();
        if let Some(handle) = handle {
            handle.stop(false).await;
            self.node.engine.clear();
        }
    }

    /// Listens again on the same port. Does nothing while the node runs.
    ///
    /// # Errors
    /// When the port has been taken meanwhile.
    pub async fn restart(&self) -> io::Result<()> {
        let mut server = self.server();
        if server.is_none() {
            self.node.engine.warm_up();
            let (_, handle) = serve(Arc::clone(&self.node), self.addr)?;
            *server = Some(handle);
        }
        Ok(())
    }

    fn server(&self) -> MutexGuard<'_, Option<ServerHandle>> {
        self.server.lock().expect("no code panics while it holds the server's handle")
    }
}

impl Drop for SimNode {
    fn drop(&mut self) {
        if let Some(handle) = self.server().take() {
            // The command is sent by the call; the future only waits for its effect.
            drop(handle.stop(false));
        }
    }
}

fn serve(node: Arc<Node>, listen: SocketAddr) -> io::Result<(SocketAddr, ServerHandle)> {
    let kind = node.engine.config().kind;
    let node = web::Data::from(node);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(node.clone())
            .wrap(middleware::from_fn(http::admit))
            .configure(|config| http::routes(kind, config))
    })
    .workers(1)
    .disable_signals()
    .shutdown_timeout(1)
    // Like Ollama: no time limit on idle connections, and none on slow requests.
    .keep_alive(KeepAlive::Os)
    .client_request_timeout(Duration::ZERO)
    // A client that closes its half is gone, so its request is dropped at once.
    .h1_allow_half_closed(false)
    .tcp_nodelay(true)
    .bind(listen)?;
    let addr = server.addrs().first().copied().unwrap_or(listen);
    let server = server.run();
    let handle = server.handle();
    actix_rt::spawn(server);
    Ok((addr, handle))
}
