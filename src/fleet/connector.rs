//! How are connections to nodes made, so that a truncated answer never passes for a complete one?
//!
//! awc treats the end of the socket as the end of the body, whatever length was promised. Here, the socket turns that
//! end into an error; if a body is complete, awc stops reading before it.
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_rt::net::{ActixStream, Ready, TcpStream};
use actix_service::{Service, fn_service};
use actix_tls::connect::{ConnectError, ConnectInfo, Connection};
use awc::http::Uri;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::endpoint::NodeEndpoint;

/// Idle connections are dropped before an Ollama node, or a proxy in front of it, would drop them.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A client for one node: no redirects, no deadlines of its own, and no limit on connections (the scheduler limits
/// them). `connect` is the longest wait for a connection, unless the node has its own setting.
pub(crate) fn client(node: &NodeEndpoint, connect: Duration) -> awc::Client {
    let resolver = actix_tls::connect::Connector::default().service();
    let (address, connect) = (node.address(), node.connect().unwrap_or(connect));
    let tcp = fn_service(move |info: ConnectInfo<Uri>| {
        let connecting = resolver.call(if address.is_some() { info.set_addr(address) } else { info });
        async move {
            let connection: Connection<Uri, TcpStream> = connecting.await?;
            let (stream, connection) = connection.replace_io(());
            // A request is one small write, which must not wait for the acknowledgement of an earlier one.
            stream.set_nodelay(true).map_err(ConnectError::Io)?;
            Ok::<_, ConnectError>(connection.replace_io(WholeStream(stream)).1)
        }
    });
    let mut connector = awc::Connector::new()
        .max_http_version(awc::http::Version::HTTP_11)
        .connector(tcp)
        .limit(0)
        .timeout(connect)
        .handshake_timeout(connect)
        .conn_keep_alive(KEEP_ALIVE);
    if let Some(tls) = node.tls() {
        connector = connector.rustls_0_23(tls);
    }
    awc::Client::builder().connector(connector).disable_timeout().disable_redirects().finish()
}

/// A socket that reports "closed" as an error.
#[derive(Debug)]
struct WholeStream(TcpStream);

impl AsyncRead for WholeStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.0).poll_read(cx, buffer))?;
        if buffer.filled().len() == before && buffer.remaining() > 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the node closed the connection")));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WholeStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

impl ActixStream for WholeStream {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_read_ready(&self.0, cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_write_ready(&self.0, cx)
    }
}
