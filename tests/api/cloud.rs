//! Nodes that others run: https with an authority of one's own, credentials, headers and deadlines for one node alone.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ollama_gateway::fleet::NodeSettings;
use ollama_sim::{SimConfig, SimNode};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::harness::{
    TestApp, TestDatabase, error_of, fast_node, header_of, node, spawn_app, spawn_app_with, stream_body,
};
use crate::scripted::{ScriptedNode, Step, chat_answer, chat_event, chunk, plain, raw, stream_head};

/// An authority of the test's own, as a file, and certificates that it signs.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { issuer, folder: tempfile::tempdir().unwrap() };
        std::fs::write(authority.file(), authority.issuer.pem()).unwrap();
        authority
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// TLS for `localhost` in front of a node that speaks plain HTTP.
    async fn front(&self, backend: &str) -> Front {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], private).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let backend: SocketAddr = backend.strip_prefix("http://").unwrap().parse().unwrap();
        let accepting = actix_rt::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                actix_rt::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut backend = TcpStream::connect(backend).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut backend).await;
                });
            }
        });
        Front { address, accepting }
    }
}

struct Front {
    address: SocketAddr,
    accepting: actix_rt::task::JoinHandle<()>,
}

impl Front {
    fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn last_error(app: &TestApp) -> String {
    app.dispatcher.read(|scheduler| scheduler.nodes().remove(0).last_error.unwrap_or_default())
}

#[actix_rt::test]
async fn an_https_node_is_trusted_by_its_own_authority_and_by_no_other() {
    let (authority, other, simulated) = (Authority::new(), Authority::new(), fast_node().await);
    let front = authority.front(&simulated.url()).await;
    let trusted = NodeSettings { ca_file: Some(authority.file()), ..node("cloud", front.url(), 2) };
    let app = spawn_app(vec![trusted.clone()]).await;
    let key = app.user("ann").await;

    let plain = app.chat(&key, "llama3.2", "hi").await;
    let streamed = app.open_stream(&key, &stream_body("llama3.2", "hi")).await.rest().await;

    assert_eq!(plain.status, 200, "{}", plain.text());
    assert_eq!(streamed.last().map(String::as_str), Some("[DONE]"));
    app.stop().await;
    let strangers = [
        NodeSettings { ca_file: Some(other.file()), ..trusted.clone() },
        NodeSettings { ca_file: None, ..trusted.clone() },
        // The certificate is for `localhost`.
        NodeSettings { url: format!("https://127.0.0.1:{}", front.address.port()), ..trusted },
    ];
    let asked = simulated.requests().len();
    for stranger in strangers {
        let app = spawn_app(vec![stranger]).await;
        let key = app.user("ann").await;
        assert!(last_error(&app).contains("certificate"), "{}", last_error(&app));
        assert_eq!(app.chat(&key, "llama3.2", "hi").await.status, 503);
        app.stop().await;
    }
    assert_eq!(simulated.requests().len(), asked);
}

#[actix_rt::test]
async fn a_key_in_a_file_opens_the_node_for_requests_and_probes() {
    let simulated =
        SimNode::start(SimConfig { api_key: Some("node-key".to_owned()), ..SimConfig::warm() }).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "node-key\n").unwrap();
    let app = spawn_app(vec![NodeSettings { api_key_file: Some(file), ..node("cloud", simulated.url(), 1) }]).await;
    let key = app.user("ann").await;

    let reply = app.chat(&key, "llama3.2", "hi").await;

    assert_eq!(reply.status, 200, "{}", reply.text());
    app.stop().await;
}

#[actix_rt::test]
async fn a_name_a_password_and_headers_go_to_their_node() {
    let scripted = ScriptedNode::always(|| vec![plain(&chat_answer("hi"))]).await;
    let folder = tempfile::tempdir().unwrap();
    let (password, token) = (folder.path().join("password"), folder.path().join("token"));
    std::fs::write(&password, "sesame\n").unwrap();
    std::fs::write(&token, "t-1\n").unwrap();
    let settings = NodeSettings {
        username: Some("aladdin".to_owned()),
        password: Some("opensesame".to_owned()),
        headers: [("X-Tenant".to_owned(), "lab 7".to_owned())].into(),
        header_files: [("x-token".to_owned(), token)].into(),
        ..node("cloud", scripted.url(), 1)
    };
    let by_file = NodeSettings { password: None, password_file: Some(password), ..settings.clone() };
    for (settings, expected) in [(settings, "basic ywxhzgrpbjpvcgvuc2vzyw1l"), (by_file, "basic ywxhzgrpbjpzzxnhbwu=")]
    {
        let app = spawn_app(vec![settings]).await;
        let key = app.user("ann").await;

        assert_eq!(app.chat(&key, "llama3.2", "hi").await.status, 200);

        let head = scripted.received().pop().unwrap().head;
        // Heads are kept in lower case.
        let headers = ["authorization", "x-tenant", "x-token"].map(|name| header_of(&head, name));
        assert_eq!(headers, [Some(expected), Some("lab 7"), Some("t-1")]);
        app.stop().await;
    }
}

#[actix_rt::test]
async fn credentials_do_not_follow_a_redirect_and_do_not_reach_other_nodes() {
    let elsewhere = ScriptedNode::always(|| vec![plain(&chat_answer("stolen"))]).await;
    let location = format!("{}/v1/chat/completions", elsewhere.url());
    let moved = ScriptedNode::always(move || {
        vec![raw(format!("HTTP/1.1 307 Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"))]
    })
    .await;
    let guarded = NodeSettings {
        api_key: Some("node-key".to_owned()),
        headers: [("x-token".to_owned(), "t-1".to_owned())].into(),
        ..node("guarded", moved.url(), 8)
    };
    let app = spawn_app(vec![guarded, node("open", elsewhere.url(), 1)]).await;
    let key = app.user("ann").await;

    for _ in 0..4 {
        assert_eq!(app.chat(&key, "llama3.2", "hi").await.status, 200);
    }

    assert!(moved.received().iter().all(|received| header_of(&received.head, "x-token") == Some("t-1")));
    assert!(!moved.received().is_empty() && !elsewhere.received().is_empty());
    for received in elsewhere.received() {
        assert_eq!(header_of(&received.head, "authorization"), None, "{}", received.head);
        assert_eq!(header_of(&received.head, "x-token"), None, "{}", received.head);
    }
    app.stop().await;
}

/// A gateway with one node whose own deadlines are short, while everybody else's are long.
async fn spawn_patient(settings: NodeSettings) -> TestApp {
    spawn_app_with(vec![settings], TestDatabase::sqlite(), |config| {
        config.relay.connect_ms = 600_000;
        config.health.probe_timeout_ms = 600_000;
    })
    .await
}

#[actix_rt::test]
async fn a_node_has_its_own_deadlines_for_answers() {
    let silent = ScriptedNode::always(|| vec![Step::Pass(std::rc::Rc::new(tokio::sync::Semaphore::new(0)))]).await;
    let app = spawn_patient(NodeSettings { first_byte_seconds: Some(1), ..node("slow", silent.url(), 1) }).await;
    let key = app.user("ann").await;

    assert_eq!(error_of(&app.chat(&key, "llama3.2", "hi").await, 504)["code"], "timeout");

    app.stop().await;
    let stalls = || {
        let gate = std::rc::Rc::new(tokio::sync::Semaphore::new(0));
        vec![stream_head(), chunk(chat_event("a")), Step::Pass(gate)]
    };
    let stalling = ScriptedNode::always(stalls).await;
    let app = spawn_patient(NodeSettings { chunk_gap_seconds: Some(1), ..node("slow", stalling.url(), 1) }).await;
    let key = app.user("ann").await;
    let events = app.open_stream(&key, &stream_body("llama3.2", "hi")).await.rest().await;
    assert!(events.last().unwrap().contains("upstream_error"), "{events:?}");
    app.stop().await;
}

#[actix_rt::test]
async fn a_node_has_its_own_deadlines_for_connections_and_probes() {
    // Takes connections and says nothing: no TLS handshake, no answer.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = mute.local_addr().unwrap().port();
    let quick = NodeSettings { connect_ms: Some(100), ..node("mute", format!("https://localhost:{port}"), 1) };
    let app = spawn_patient(quick).await;
    assert!(last_error(&app).contains("no connection within 100 ms"), "{}", last_error(&app));
    app.stop().await;
    let quick = NodeSettings { probe_timeout_ms: Some(80), ..node("mute", format!("http://localhost:{port}"), 1) };
    let app = spawn_patient(quick).await;
    assert!(last_error(&app).contains("no answer within 80 ms"), "{}", last_error(&app));
    app.stop().await;
}

#[actix_rt::test]
async fn nothing_secret_of_a_node_is_shown() {
    let scripted = ScriptedNode::always(|| vec![plain(&chat_answer("hi"))]).await;
    let settings = NodeSettings {
        username: Some("aladdin".to_owned()),
        password: Some("opensesame".to_owned()),
        headers: [("x-token".to_owned(), "t-secret".to_owned())].into(),
        ..node("cloud", scripted.url(), 1)
    };
    let app = spawn_app(vec![settings]).await;
    let shown = app.get("/admin/nodes", crate::harness::ADMIN_KEY).await;
    assert_eq!(shown.json()["data"][0]["name"], json!("cloud"));
    assert!(!shown.text().contains("opensesame") && !shown.text().contains("t-secret"), "{}", shown.text());
    app.stop().await;
}
