//! Databases for a test, with the current schema: one on SQLite and one on Postgres.
use std::io::Write;

use migration::Migrator;
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection};
use sea_orm_migration::MigratorTrait;

/// A database that goes when the test has ended.
pub(super) struct Scratch {
    pub(super) db: DatabaseConnection,
    pub(super) url: String,
    folder: Option<tempfile::TempDir>,
    /// The server's URL, and the name of the database there.
    server: Option<(String, String)>,
}

impl Scratch {
    /// One of each kind, or only that on SQLite where Postgres is left out.
    pub(super) async fn each() -> Vec<Self> {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/scratch.db?mode=rwc", folder.path().display());
        let db = connect(url.clone()).await;
        Migrator::up(&db, None).await.unwrap();
        let sqlite = Self { db, url, folder: Some(folder), server: None };
        [Some(sqlite), Self::postgres().await].into_iter().flatten().collect()
    }

    /// One on the server at `TEST_POSTGRES_URL`, which `tests/run` provides; `None`, and a line that says so, with
    /// `SKIP_POSTGRES=1`.
    pub(super) async fn postgres() -> Option<Self> {
        if std::env::var("SKIP_POSTGRES").is_ok_and(|value| value == "1") {
            let thread = std::thread::current();
            let test = thread.name().unwrap_or("a test");
            // Not `eprintln`, whose text is kept back while a test passes.
            let _ = writeln!(std::io::stderr(), "LEFT OUT: Postgres (SKIP_POSTGRES=1): {test}");
            return None;
        }
        let server = std::env::var("TEST_POSTGRES_URL").expect(
            "this test needs Postgres: set TEST_POSTGRES_URL, run `tests/run unit`, or leave it out with SKIP_POSTGRES=1",
        );
        let name = format!("scratch_{}", uuid::Uuid::now_v7().simple());
        order(&server, &format!("CREATE DATABASE {name}")).await;
        let (base, _) = server.rsplit_once('/').unwrap();
        let url = format!("{base}/{name}");
        let db = connect(url.clone()).await;
        Migrator::up(&db, None).await.unwrap();
        Some(Self { db, url, folder: None, server: Some((server, name)) })
    }

    pub(super) fn is_on_postgres(&self) -> bool {
        self.server.is_some()
    }

    pub(super) async fn remove(self) {
        self.db.close().await.unwrap();
        drop(self.folder);
        if let Some((server, name)) = self.server {
            order(&server, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
        }
    }
}

async fn connect(url: String) -> DatabaseConnection {
    let mut options = ConnectOptions::new(url);
    options.max_connections(1).sqlx_logging(false);
    Database::connect(options).await.unwrap()
}

async fn order(server: &str, statement: &str) {
    let db = connect(server.to_owned()).await;
    db.execute_unprepared(statement).await.unwrap();
    db.close().await.unwrap();
}
