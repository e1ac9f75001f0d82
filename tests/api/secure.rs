//! A gateway that speaks TLS, and clients that look at what it does: over HTTP/1.1 and HTTP/2.
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use ollama_gateway::config::Config;
use ollama_gateway::fleet::NodeSettings;
use ollama_gateway::tls::Trusting;
use rcgen::{CertificateParams, KeyPair};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::harness::{PATIENCE, TestApp, TestDatabase, spawn_app_with};

/// The files of a certificate and its key.
pub struct Pair {
    folder: tempfile::TempDir,
}

impl Pair {
    pub fn new() -> Self {
        let pair = Self { folder: tempfile::tempdir().unwrap() };
        pair.renew();
        pair
    }

    /// Puts another certificate and key in place.
    pub fn renew(&self) {
        self.renew_until(2050);
    }

    pub fn renew_until(&self, year: i32) {
        let (mut params, key) =
            (CertificateParams::new(["gateway.test".to_owned()]).unwrap(), KeyPair::generate().unwrap());
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        std::fs::write(self.cert(), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(self.key(), key.serialize_pem()).unwrap();
    }

    pub fn cert(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    pub fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// A gateway that speaks TLS; the harness reaches it at its plain address.
pub async fn spawn_secure(pair: &Pair, nodes: Vec<NodeSettings>, change: impl FnOnce(&mut Config)) -> TestApp {
    spawn_app_with(nodes, TestDatabase::sqlite(), |config| {
        config.server.tls.cert_file = Some(pair.cert());
        config.server.tls.key_file = Some(pair.key());
        config.server.tls.plain_bind = Some("127.0.0.1:0".to_owned());
        change(config);
    })
    .await
}

/// A connection over TLS that offers these protocols.
pub async fn connect(address: SocketAddr, protocols: &[&str]) -> TlsStream<TcpStream> {
    let mut config = Trusting::config().unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = "gateway.test".try_into().unwrap();
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    tokio::time::timeout(PATIENCE, connecting).await.expect("TLS is agreed on in time").unwrap()
}

/// The certificate that this connection was given.
pub fn certificate(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

/// A client on one HTTP/2 connection, which is closed by dropping it.
pub struct Http2 {
    sender: SendRequest<Bytes>,
    driving: actix_rt::task::JoinHandle<()>,
}

/// An answer of which the head is here.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: RecvStream,
}

impl Answer {
    /// The next part of the body; `None` at its end.
    pub async fn part(&mut self) -> Option<Bytes> {
        let part = tokio::time::timeout(PATIENCE, self.body.data()).await.expect("the next part comes in time");
        let part = part?.unwrap();
        self.body.flow_control().release_capacity(part.len()).unwrap();
        Some(part)
    }

    pub async fn text(mut self) -> String {
        let mut whole = BytesMut::new();
        while let Some(part) = self.part().await {
            whole.extend_from_slice(&part);
        }
        String::from_utf8(whole.to_vec()).unwrap()
    }
}

/// A request that is on its way.
pub struct Sent {
    response: h2::client::ResponseFuture,
    pub body: SendStream<Bytes>,
}

impl Sent {
    pub async fn answer(self) -> Answer {
        let response = tokio::time::timeout(PATIENCE, self.response).await.expect("an answer comes in time").unwrap();
        let (head, body) = response.into_parts();
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    /// Resets the stream, and keeps the connection.
    pub fn reset(mut self) {
        self.body.send_reset(h2::Reason::CANCEL);
    }
}

impl Http2 {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = connect(address, &["h2"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        // Or what nobody reads yet of one stream would hold up the others.
        let mut builder = h2::client::Builder::new();
        builder.initial_max_send_streams(5_000).initial_connection_window_size(16 * 1024 * 1024);
        let (sender, connection) = builder.handshake(stream).await.unwrap();
        let driving = actix_rt::spawn(async move { drop(connection.await) });
        Self { sender, driving }
    }

    /// Begins a request, whose body ends where this one does if `is_whole`.
    pub async fn begin(&mut self, request: Request<()>, body: impl Into<Bytes>, is_whole: bool) -> Sent {
        let (body, sender) = (body.into(), self.sender.clone());
        let mut sender = tokio::time::timeout(PATIENCE, sender.ready()).await.expect("it may send").unwrap();
        let is_empty = body.is_empty() && is_whole;
        let (response, mut sending) = sender.send_request(request, is_empty).unwrap();
        if !body.is_empty() {
            sending.send_data(body, is_whole).unwrap();
        }
        Sent { response, body: sending }
    }

    pub async fn get(&mut self, path: &str, key: &str) -> Answer {
        self.begin(head("GET", path, key), "", true).await.answer().await
    }

    pub async fn post(&mut self, path: &str, key: &str, body: &serde_json::Value) -> Sent {
        self.begin(head("POST", path, key), body.to_string(), true).await
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.driving.abort();
    }
}

pub fn head(method: &str, path: &str, key: &str) -> Request<()> {
    let builder = Request::builder().method(method).uri(format!("https://gateway.test{path}"));
    let builder = if key.is_empty() { builder } else { builder.header("authorization", format!("Bearer {key}")) };
    builder.body(()).unwrap()
}
