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
        let node = Arc::new(Node::new(Engine::new(config)));
        node.engine.warm_up();
        let (addr, handle) = serve(Arc::clone(&node), listen)?;
        Ok(SimNode { node, addr, server: Mutex::new(Some(handle)) })
    }

    /// Where the node listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The base address, as `http://127.0.0.1:11434`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The fault of every generation and embedding request from now on; `None` ends it.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.node.faults.set(fault);
    }

    /// One fault each for the next generation and embedding requests, in order; they come before that of `set_fault`.
    pub fn fault_next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.node.faults.push(faults);
    }

    /// From now on tokens take so many times longer, those of running answers included; 1 ends it. A node without
    /// delays stays without.
    pub fn slow_down(&self, factor: f64) {
        self.node.engine.slow_down(factor);
    }

    /// While true, `/api/version`, `/api/tags` and `/api/ps` do not answer.
    pub fn freeze_probes(&self, frozen: bool) {
        self.node.probes_frozen.send_replace(frozen);
    }

    /// The counters now.
    pub fn stats(&self) -> SimStats {
        self.node.engine.with_load_counts(self.node.ledger.stats())
    }

    /// The last 10,000 requests, oldest first.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.node.ledger.requests()
    }

    /// Closes the listener and all connections at once, and forgets the loaded models.
    pub async fn stop(&self) {
        let handle = self.server().take();
        if let Some(handle) = handle {
            handle.stop(false).await;
            self.node.engine.clear();
        }
    }

    /// Listens again on the same port; nothing happens while the node runs.
    ///
    /// # Errors
    /// When the port was taken meanwhile.
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
    let node = web::Data::from(node);
    let server = HttpServer::new(move || {
        App::new().app_data(node.clone()).wrap(middleware::from_fn(http::authorize)).configure(http::routes)
    })
    .workers(1)
    .disable_signals()
    .shutdown_timeout(1)
    // As Ollama: no time limit on idle connections, none on slow requests.
    .keep_alive(KeepAlive::Os)
    .client_request_timeout(Duration::ZERO)
    // A client that closes its half is gone: its request is dropped at once.
    .h1_allow_half_closed(false)
    .tcp_nodelay(true)
    .bind(listen)?;
    let addr = server.addrs().first().copied().unwrap_or(listen);
    let server = server.run();
    let handle = server.handle();
    actix_rt::spawn(server);
    Ok((addr, handle))
}
