//! Does each connection to Postgres have a session of its own? Behind a pooler in transaction or statement mode, such as
//! pgbouncer's, several connections share one, and the gateway cannot work: prepared statements, the deadline of statements
//! and notifications of changes belong to a session.
use std::sync::Arc;
use std::time::Duration;

use sea_orm::sqlx::postgres::PgConnection;
use sea_orm::sqlx::{Error, Executor, Row};
use sea_orm::{DatabaseConnection, DbErr, RuntimeErr};

use super::deadline::within;
use super::error::StoreError;

/// How often two connections are compared. A pooler reuses the session that was last used, so the first look shows it
/// unless others take that session in between.
const LOOKS: u32 = 4;

/// The session: a process of the server. The number of a process may occur on another server or later, its start with it
/// does not. No statement with values, as that would be a prepared one.
const SESSION: &str = "SELECT pg_backend_pid()::text || ' ' || coalesce((SELECT backend_start::text \
    FROM pg_stat_activity WHERE pid = pg_backend_pid()), '')";

/// Fails if connections of the two pools share sessions. Takes one of each pool, so that no two callers hold what the other
/// waits for.
pub(super) async fn refuse_shared_sessions(
    db: &DatabaseConnection,
    other: &DatabaseConnection,
    patience: Duration,
) -> Result<(), StoreError> {
    let looking =
        async { share_a_session(db, other).await.map_err(|error| DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error)))) };
    match within(patience, looking).await? {
        true => Err(StoreError::SharedSessions),
        false => Ok(()),
    }
}

async fn share_a_session(db: &DatabaseConnection, other: &DatabaseConnection) -> Result<bool, Error> {
    let mut first = db.get_postgres_connection_pool().acquire().await?;
    let mut second = other.get_postgres_connection_pool().acquire().await?;
    let known = session(&mut first).await?;
    for _ in 0..LOOKS {
        let beside = session(&mut second).await?;
        if beside == known || session(&mut first).await? != known {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn session(connection: &mut PgConnection) -> Result<String, Error> {
    connection.fetch_one(SESSION).await?.try_get(0)
}
