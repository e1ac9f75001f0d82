//! Databases for a test, with the current schema: one on SQLite, and one on Postgres where there is a server.
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
    /// One of each kind; of Postgres only with `TEST_POSTGRES_URL`, which `tests/run` sets.
    pub(super) async fn each() -> Vec<Self> {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/scratch.db?mode=rwc", folder.path().display());
        let db = connect(url.clone()).await;
        let mut all = vec![Self { db, url, folder: Some(folder), server: None }];
        if let Ok(server) = std::env::var("TEST_POSTGRES_URL") {
            let name = format!("scratch_{}", uuid::Uuid::now_v7().simple());
            order(&server, &format!("CREATE DATABASE {name}")).await;
            let (base, _) = server.rsplit_once('/').unwrap();
            let url = format!("{base}/{name}");
            let db = connect(url.clone()).await;
            all.push(Self { db, url, folder: None, server: Some((server, name)) });
        }
        for scratch in &all {
            Migrator::up(&scratch.db, None).await.unwrap();
        }
        all
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
