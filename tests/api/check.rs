//! What does `ollama-gateway check` find wrong with a configuration?
use std::path::Path;

use crate::cli::run;
use crate::harness::{TestDatabase, spawn_app_with};

#[actix_rt::test]
async fn check_names_every_mistake_with_its_line_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let text = "server:\n  bind: 0.0.0.0:8000\n  wokers: 3\n  body_seconds: 0\nadmin:\n  key: s3cret-admin\n\
        database:\n  url: mysql://user:s3cret-db@host/name\nnodes:\n  - name: a b\n    url: http://x:1/path?query\n    slots: -2\n    \
        api_key: \"s3cret node\"\nlimits:\n  requests_per_minute: many\n";
    std::fs::write(folder.path().join("broken.yaml"), text).unwrap();
    let environment = [("GATEWAY__RELAY__CONNECT_MS", "soon"), ("GATEWAY__ADMIN__KEE", "s3cret-environment")];

    let (good, out, err) = run(folder.path(), &["check", "--config", "broken.yaml"], &environment).await;

    assert!(!good);
    for place in [
        "broken.yaml:3: server.wokers: unknown key (did you mean `workers`?)",
        "broken.yaml:12: nodes[0].slots",
        "broken.yaml:15: limits.requests_per_minute",
        "GATEWAY__RELAY__CONNECT_MS: relay.connect_ms",
        "GATEWAY__ADMIN__KEE: admin.kee: unknown key",
    ] {
        assert!(err.contains(place), "{place}\n{err}");
    }
    assert!(!(out + &err).contains("s3cret"), "{err}");
}

#[actix_rt::test]
async fn check_names_mistakes_that_no_type_can_see_all_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let text = "server:\n  bind: 0.0.0.0:8000\n  body_seconds: 0\nadmin:\n  key: s3cret-admin\ndatabase:\n  \
        url: mysql://user:s3cret-db@host/name\nnodes:\n  - name: a b\n    url: ftp://x:1/path\n    api_key: \"s3cret node\"\n  \
        - {name: c, url: 'http://x:2'}\n  - {name: c, url: 'http://x:3'}\n";
    std::fs::write(folder.path().join("gateway.yaml"), text).unwrap();

    let (good, out, err) = run(folder.path(), &["check"], &[]).await;

    assert!(!good);
    for place in [
        "gateway.yaml:3: server.body_seconds",
        "gateway.yaml:5: admin.key",
        "gateway.yaml:7: database.url",
        "gateway.yaml:9: nodes[0].name",
        "gateway.yaml:10: nodes[0].url",
        "gateway.yaml:11: nodes[0].api_key",
        "gateway.yaml:13: nodes[2].name",
        "7 mistakes",
    ] {
        assert!(err.contains(place), "{place}\n{err}");
    }
    assert!(!(out + &err).contains("s3cret"), "{err}");
}

#[actix_rt::test]
async fn check_refuses_files_that_serve_would_not_start_with() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let environment = [
        ("GATEWAY__ADMIN__KEY_FILE", "no-key"),
        ("GATEWAY__KEYS__PEPPER_FILE", "no-pepper"),
        ("GATEWAY__DATABASE__PASSWORD_FILE", "no-password"),
        ("GATEWAY__DATABASE__URL", "sqlite://file/gateway.db"),
    ];

    let (good, _, err) = run(folder.path(), &["check"], &environment).await;

    assert!(!good);
    let places = ["admin.key_file: no-key: ", "keys.pepper_file: no-pepper: ", "database.password_file: no-password: "];
    for place in places.into_iter().chain(["file/gateway.db: "]) {
        assert!(err.contains(place), "{place}\n{err}");
    }
    let files: Vec<_> = folder.path().read_dir().unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["file"], "it leaves nothing behind");
}

#[actix_rt::test]
async fn check_is_content_with_a_good_file_and_with_none() {
    let folder = tempfile::tempdir().unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("gateway.yaml");
    let text = "server: {bind: '0.0.0.0:9000'}\nadmin: {key: s3cret-0123456789abcdef0123456789}\n\
        database: {url: 'postgres://user:s3cret-db@host/name'}\nnodes: [{name: a, url: 'http://x:1', api_key: s3cret-node}]\n";
    std::fs::write(folder.path().join("good.yaml"), text).unwrap();
    for arguments in
        [&["check"][..], &["check", "--config", shipped.to_str().unwrap()], &["--config", "good.yaml", "check"]]
    {
        let (good, out, err) = run(folder.path(), arguments, &[]).await;
        assert!(good && out.contains("good"), "{arguments:?}: {out}{err}");
        assert!(!(out + &err).contains("s3cret"));
    }
    assert!(!folder.path().join("data").exists(), "check leaves nothing behind");
}

#[actix_rt::test]
async fn check_warns_where_gateways_on_one_postgres_need_a_link() {
    let Some(database) = TestDatabase::postgres().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let (url, own) = (database.url.clone(), database.folder.path().join("outbox.db"));
    let (url, own) = (("GATEWAY__DATABASE__URL", url.as_str()), ("GATEWAY__DATABASE__OUTBOX", own.to_str().unwrap()));
    let link = ("GATEWAY__CLUSTER__BIND", "127.0.0.1:8001");
    let (good, out, err) = run(folder.path(), &["check"], &[url]).await;
    assert!(good && out.contains("gateways    unknown") && err.is_empty(), "{out}{err}");
    let app = spawn_app_with(Vec::new(), database, |_| {}).await;
    let another = "warning: another gateway is alive on this Postgres";
    for (environment, warning) in [
        (&[url][..], Some("`cluster.bind` is not set here")),
        (&[url, link], Some("1 of them without `cluster.bind`")),
        // The one that is alive is this one.
        (&[url, own], None),
    ] {
        let (good, out, err) = run(folder.path(), &["check"], environment).await;
        assert!(good, "{out}{err}");
        assert_eq!(warning.is_some(), err.contains(another), "{out}{err}");
        assert!(warning.is_none_or(|warning| err.contains(warning)), "{out}{err}");
        assert_eq!(warning.is_none(), out.contains("no other gateway is alive"), "{out}{err}");
    }
    app.stop().await;
    let (good, out, err) = run(folder.path(), &["check"], &[url]).await;
    assert!(good && out.contains("no other gateway is alive") && err.is_empty(), "{out}{err}");
    assert!(!folder.path().join("data").exists(), "check leaves nothing behind");
}
