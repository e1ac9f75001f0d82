//! How does a connection to a node come about, and when is it used again?
//!
//! Each worker keeps the idle connections of each node. A connection becomes idle only after an answer of a known length
//! of which every byte was read, so that no answer can reach the wrong request. It leaves by being used, by having been
//! idle for [`MAX_IDLE`], or by having lived for [`MAX_AGE`]. There are never more than the node had requests at a time,
//! which the scheduler limits.
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use actix_http::Uri;
use actix_rt::net::TcpStream;
use actix_service::Service;
use actix_tls::connect::rustls_0_23::TlsConnector;
use actix_tls::connect::{ConnectError, ConnectInfo, Connection as Connected, Connector};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout};

use super::endpoint::NodeEndpoint;

/// Idle connections are closed before an Ollama node, or a proxy in front of it, would close them.
const MAX_IDLE: Duration = Duration::from_secs(10);
/// A node's name may come to mean another machine, which is found when a connection is made.
const MAX_AGE: Duration = Duration::from_secs(75);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum NoConnection {
    /// None could be made.
    #[error("no connection: {}", why(.0))]
    Failed(ConnectError),
    /// None was made in time.
    #[error("no connection within {} ms", .0.as_millis())]
    Late(Duration),
}

fn why(error: &ConnectError) -> String {
    match error {
        ConnectError::Io(error) => error.to_string(),
        ConnectError::Resolver(error) => format!("the name cannot be resolved: {error}"),
        ConnectError::NoRecords => "the name has no address".to_owned(),
        other => other.to_string(),
    }
}

/// What a connection reads and writes: TCP, or TLS over it.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Wire for T {}

/// A connection that carries no request, or exactly one. Dropping it closes it.
pub(super) struct Connection {
    pub(super) wire: Box<dyn Wire>,
    made: Instant,
}

impl Connection {
    /// Whether it is open and the node has sent nothing that nobody asked for.
    fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        // Whoever uses it next registers a waker of their own.
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut self.wire).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }
}

/// One worker's connections to one node.
pub(super) struct Connections {
    address: Option<SocketAddr>,
    tls: Option<Arc<ClientConfig>>,
    patience: Duration,
    /// In the order in which they became idle.
    idle: RefCell<VecDeque<(Instant, Connection)>>,
}

impl Connections {
    /// To this node; `patience` is the longest wait for a connection, unless the node has its own setting.
    pub(super) fn new(node: &NodeEndpoint, patience: Duration) -> Self {
        Self {
            address: node.address(),
            tls: node.tls(),
            patience: node.connect().unwrap_or(patience),
            idle: RefCell::default(),
        }
    }

    /// An idle connection, or a new one.
    pub(super) async fn take(&self, uri: &Uri) -> Result<Connection, NoConnection> {
        if let Some(connection) = self.take_idle() {
            return Ok(connection);
        }
        // Boxed, as few requests need one, and its future would make that of each request three times as large.
        let connecting = timeout(self.patience, Box::pin(self.connect(uri)));
        let wire = connecting.await.map_err(|_| NoConnection::Late(self.patience))?.map_err(NoConnection::Failed)?;
        Ok(Connection { wire, made: Instant::now() })
    }

    /// The one that has been idle for longest. On one that is used again and again the kernel delays its ACKs by 40 ms, and
    /// a server that has not switched off Nagle's algorithm waits for them before it sends the end of an answer.
    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let now = Instant::now();
        while let Some((since, mut connection)) = idle.pop_front() {
            if now - since <= MAX_IDLE && now - connection.made <= MAX_AGE && connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection whose exchange is complete.
    pub(super) fn keep(&self, connection: Connection) {
        let now = Instant::now();
        let mut idle = self.idle.borrow_mut();
        while idle.front().is_some_and(|(since, _)| now - *since > MAX_IDLE) {
            idle.pop_front();
        }
        idle.push_back((now, connection));
    }

    async fn connect(&self, uri: &Uri) -> Result<Box<dyn Wire>, ConnectError> {
        let mut target = ConnectInfo::new(uri.clone());
        if self.address.is_some() {
            target = target.set_addr(self.address);
        }
        let connected: Connected<Uri, TcpStream> = Connector::default().service().call(target).await?;
        // A request is one small write, which must not wait for the acknowledgement of an earlier one.
        connected.io_ref().set_nodelay(true).map_err(ConnectError::Io)?;
        match &self.tls {
            None => Ok(Box::new(connected.into_parts().0)),
            Some(config) => {
                let secured = TlsConnector::service(config.clone()).call(connected).await.map_err(ConnectError::Io)?;
                Ok(Box::new(secured.into_parts().0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn the_connection_that_has_been_idle_for_longest_is_used_next() {
        let connections =
            Connections { address: None, tls: None, patience: Duration::from_secs(1), idle: RefCell::default() };
        let mut others = Vec::new();
        let made: Vec<Instant> = (0..3).map(|n| Instant::now() - Duration::from_secs(n)).collect();
        for made in &made {
            let (wire, other) = tokio::io::duplex(1);
            others.push(other);
            connections.keep(Connection { wire: Box::new(wire), made: *made });
        }
        for made in &made {
            let connection = connections.take_idle().unwrap();
            assert_eq!(connection.made, *made);
            connections.keep(connection);
        }
    }

    #[actix_rt::test]
    async fn a_connection_that_was_closed_or_sent_what_nobody_asked_for_is_not_used_again() {
        use tokio::io::AsyncWriteExt;

        let connections =
            Connections { address: None, tls: None, patience: Duration::from_secs(1), idle: RefCell::default() };
        let keep = || {
            let (wire, other) = tokio::io::duplex(1);
            connections.keep(Connection { wire: Box::new(wire), made: Instant::now() });
            other
        };
        drop(keep());
        let mut talkative = keep();
        talkative.write_all(b"!").await.unwrap();
        assert!(connections.take_idle().is_none());
    }
}
