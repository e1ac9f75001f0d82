//! TLS with clients: which protocol is spoken, and how a renewed certificate is taken up.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ollama_gateway::config;
use ollama_gateway::config::Config;
use ollama_gateway::fleet::Resolver;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cli::{Program, run};
use crate::harness::{
    ADMIN_KEY, TestApp, TestDatabase, client, error_of, fast_node, free_address, node, test_config, wait_long_for,
};
use crate::secure::{Http2, Pair, certificate, connect, spawn_secure};

#[actix_rt::test]
async fn a_client_chooses_the_protocol_and_plain_http_is_only_at_the_plain_address() {
    let (pair, simulated) = (Pair::new(), fast_node().await);
    let app = spawn_secure(&pair, vec![node("a", simulated.url(), 1)], |_| {}).await;
    for offered in [&["h2", "http/1.1"][..], &["http/1.1"], &[]] {
        let agreed = connect(app.secure(), offered).await.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        assert_eq!(agreed.as_deref(), offered.first().map(|first| first.as_bytes()), "{offered:?}");
    }
    let mut old = connect(app.secure(), &["http/1.1"]).await;
    old.write_all(b"GET /health/live HTTP/1.1\r\nhost: gateway.test\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let _ = old.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

    let plain = client().get(format!("http://{}/health/live", app.secure())).send().await;
    assert!(plain.is_err(), "{plain:?}");
    assert_eq!(app.get("/health/live", "").await.status, 200);
    app.stop().await;
}

#[actix_rt::test]
async fn a_renewed_certificate_is_served_after_a_reload_and_open_connections_go_on() {
    let (pair, simulated) = (Pair::new(), fast_node().await);
    let database = TestDatabase::sqlite();
    let mut config = test_config(vec![node("a", simulated.url(), 1)], &database);
    config.server.tls.cert_file = Some(pair.cert());
    config.server.tls.key_file = Some(pair.key());
    config.server.tls.plain_bind = Some("127.0.0.1:0".to_owned());
    let app = TestApp::start_with(config.clone(), database, Resolver::system(), move || Ok(config.clone())).await;
    let reload = async || app.post("/admin/reload", ADMIN_KEY, json!({})).await;
    let served = async || certificate(&connect(app.secure(), &["h2"]).await);
    let expiry = async || {
        let metrics = app.get("/metrics", ADMIN_KEY).await;
        let line = metrics.text().lines().find(|line| line.starts_with("gateway_tls_certificate_expiry_seconds "));
        line.unwrap().split(' ').nth(1).unwrap().parse::<f64>().unwrap()
    };
    let first = served().await;
    let mut open = Http2::connect(app.secure()).await;
    assert_eq!(reload().await.json()["applied"], json!([]), "nothing has changed");
    assert_eq!(expiry().await, 2_524_608_000.0);

    pair.renew_until(2060);
    assert_eq!(served().await, first, "until it is told");
    assert_eq!(reload().await.json()["applied"], json!(["server.tls.cert_file"]));
    let second = served().await;
    assert_ne!(second, first);
    assert_eq!(expiry().await, 2_840_140_800.0);
    assert_eq!(open.get("/health/live", "").await.status, 200, "the open connection goes on");

    let other = Pair::new();
    std::fs::copy(other.key(), pair.key()).unwrap();
    let refused = reload().await;
    let message = error_of(&refused, 400)["message"].as_str().unwrap().to_owned();
    assert!(message.contains("server.tls.key_file") && message.contains("does not belong"), "{message}");
    std::fs::remove_file(pair.cert()).unwrap();
    assert!(error_of(&reload().await, 400)["message"].as_str().unwrap().contains("server.tls.cert_file"));
    assert_eq!(served().await, second, "the old one stays");
    assert_eq!(expiry().await, 2_840_140_800.0);
    app.stop().await;
}

#[actix_rt::test]
async fn tls_is_turned_on_only_by_a_restart_and_a_reload_says_so() {
    let (pair, simulated) = (Pair::new(), fast_node().await);
    let database = TestDatabase::sqlite();
    let config = test_config(vec![node("a", simulated.url(), 1)], &database);
    let is_secure = Arc::new(AtomicBool::new(false));
    let (asked, plain) = (is_secure.clone(), config.clone());
    let (cert, key) = (pair.cert(), pair.key());
    let read = move || {
        let mut config: Config = plain.clone();
        if asked.load(Ordering::Relaxed) {
            config.server.tls.cert_file = Some(cert.clone());
            config.server.tls.key_file = Some(key.clone());
        }
        Ok(config)
    };
    let app = TestApp::start_with(config, database, Resolver::system(), read).await;
    is_secure.store(true, Ordering::Relaxed);

    for _ in 0..2 {
        let said = app.post("/admin/reload", ADMIN_KEY, json!({})).await.json();
        assert_eq!(said["needs_restart"], json!(["server.tls.cert_file", "server.tls.key_file"]));
    }

    assert_eq!(app.get("/health/live", "").await.status, 200);
    let metrics = app.get("/metrics", ADMIN_KEY).await;
    assert!(!metrics.text().contains("\ngateway_tls_certificate_expiry_seconds "), "no certificate, no date");
    app.stop().await;
}

#[actix_rt::test]
async fn every_mistake_in_the_settings_is_found_with_its_line() {
    let (pair, other) = (Pair::new(), Pair::new());
    let (cert, key) = (pair.cert().display().to_string(), other.key().display().to_string());
    let file = pair.folder().join("gateway.yaml");
    let said = |lines: &str| {
        std::fs::write(&file, format!("server:\n  bind: 127.0.0.1:8000\n  tls:\n{lines}")).unwrap();
        config::load(Some(&file), []).map(|_| ()).map_err(|error| error.to_string())
    };

    for (lines, expected) in [
        (format!("    cert_file: {cert}\n    key_file: {key}\n"), ":5: server.tls.key_file: "),
        (format!("    cert_file: {cert}\n"), "server.tls.key_file: `cert_file` needs it"),
        (format!("    cert_file: {key}\n    key_file: {key}\n"), ":4: server.tls.cert_file: "),
        ("    plain_bind: 127.0.0.1:1\n".to_owned(), ":4: server.tls.plain_bind: without TLS"),
        (
            format!("    cert_file: {cert}\n    key_file: {}\n    plain_bind: 0.0.0.0:1\n", pair.key().display()),
            ":6: server.tls.plain_bind: expected a loopback address",
        ),
        (
            format!("    cert_file: {cert}\n    key_file: {}\n    plain_bind: 127.0.0.1:8000\n", pair.key().display()),
            ":6: server.tls.plain_bind: the address of `server.bind`",
        ),
    ] {
        assert!(said(&lines).is_err_and(|error| error.contains(expected)), "{expected}: {:?}", said(&lines));
    }
    let good =
        format!("    cert_file: {cert}\n    key_file: {}\n    plain_bind: 127.0.0.1:8001\n", pair.key().display());
    assert_eq!(said(&good), Ok(()));
}

#[actix_rt::test]
async fn a_gateway_with_tls_is_checked_served_and_found_healthy() {
    let (folder, pair) = (tempfile::tempdir().unwrap(), Pair::new());
    let (address, plain, no_node) =
        (free_address().to_string(), free_address().to_string(), free_address().to_string());
    let nodes = json!([{"name": "absent", "url": format!("http://{no_node}")}]).to_string();
    let (cert, key) = (pair.cert().display().to_string(), pair.key().display().to_string());
    let environment = [
        ("GATEWAY__SERVER__BIND", address.as_str()),
        ("GATEWAY__NODES", nodes.as_str()),
        ("GATEWAY__SERVER__TLS__CERT_FILE", cert.as_str()),
        ("GATEWAY__SERVER__TLS__KEY_FILE", key.as_str()),
        ("GATEWAY__SERVER__TLS__PLAIN_BIND", plain.as_str()),
    ];
    let (good, out, err) = run(folder.path(), &["check"], &environment).await;
    assert!(good && out.contains(&format!("{address}, over TLS")) && out.contains(&plain), "{out}{err}");
    assert!(!err.contains("warning"), "{err}");
    for (environment, url) in [(&environment[..4], &address), (&environment[..], &plain)] {
        assert!(!run(folder.path(), &["healthcheck"], environment).await.0, "nothing listens yet");
        let mut program = Program::start(folder.path(), &[], environment);
        wait_long_for("it is healthy", async || run(folder.path(), &["healthcheck"], environment).await.0).await;
        // Renewed on disk, and not yet read again.
        pair.renew();
        assert!(run(folder.path(), &["healthcheck"], environment).await.0);
        assert!(program.out().contains(&format!("https://{address}/v1")), "{}", program.out());
        if url == &plain {
            program.answers(&format!("http://{plain}/health/live")).await;
        }
        assert_eq!(program.terminate().await.code(), Some(0), "{}", program.err());
    }

    pair.renew_until(2020);
    let (good, _, err) = run(folder.path(), &["check"], &environment).await;
    assert!(good && err.contains("warning: the certificate expired on 2020-01-01"), "{err}");
    std::fs::write(pair.key(), "nothing").unwrap();
    for command in ["check", "serve"] {
        let (good, _, err) = run(folder.path(), &[command], &environment).await;
        assert!(!good && err.contains("server.tls.key_file") && err.contains("no private key"), "{command}: {err}");
    }
}
