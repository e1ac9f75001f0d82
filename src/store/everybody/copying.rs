//! Reads everybody from Postgres by COPY, which costs both sides a fraction of what a query of so many rows would.
use std::time::Duration;

use entity::user;
use futures_util::{Stream, TryStreamExt, stream};
use sea_orm::sqlx::postgres::{PgConnection, PgPool, Postgres};
use sea_orm::sqlx::{self, AssertSqlSafe, Executor, pool::PoolConnection};
use sea_orm::{DatabaseConnection, DbErr, RuntimeErr};

use super::fields::{Fields, Unreadable, each_row};
use super::pieces::take_up;
use crate::store::columns::{DigestColumns, KeyColumns, TermColumns, put_user};
use crate::store::directory::Directory;
use crate::store::keys::Peppers;

/// Messages of one piece; each is a row or so.
const MESSAGES: usize = 4_000;
const USER: &str = "id, created_at_ms, requests_per_minute, tokens_per_day, tokens_per_minute, max_concurrency, \
                    weight_millis, suspended_at_ms, display_name, email, note, generation, last_seen_ms, group_id";
const KEY: &str = "id, user_id, name, created_at_ms, last_used_ms, expires_at_ms, allowed_models, \
                   requests_per_minute, tokens_per_minute, tokens_per_day, max_concurrency";
const DIGEST: &str = "digest, pepper, key_id, last_four, expires_at_ms";

/// Adds everybody in Postgres, as of one moment; each table within `patience`.
pub(super) async fn read(
    db: &DatabaseConnection,
    peppers: &Peppers,
    directory: Directory,
    patience: Duration,
) -> Result<Directory, DbErr> {
    let mut connection = begin(db.get_postgres_connection_pool(), patience).await.map_err(failed)?;
    let pieces = copied(&mut connection, "users", USER).await?;
    let directory = take_up(directory, pieces, |piece: &Vec<u8>, directory| {
        each_row(piece, |fields| {
            put_user(directory, &user_of(fields)?);
            Ok(())
        })
        .map_err(misread)
    });
    let directory = directory.await?;
    let pieces = copied(&mut connection, "keys", KEY).await?;
    let directory = take_up(directory, pieces, |piece: &Vec<u8>, directory| {
        each_row(piece, |fields| {
            directory.put_key(&key_of(fields)?.entry());
            Ok(())
        })
        .map_err(misread)
    });
    let directory = directory.await?;
    let peppers = peppers.clone();
    let pieces = copied(&mut connection, "key_digests", DIGEST).await?;
    take_up(directory, pieces, move |piece: &Vec<u8>, directory| {
        each_row(piece, |fields| {
            let (digest, pepper) = (fields.bytes()?, fields.text_if_any()?);
            let (key_id, last_four, until_ms) = (fields.text()?, fields.text()?, fields.number_if_any()?);
            let columns = DigestColumns { digest, pepper, last_four, until_ms };
            if let Some(secret) = columns.entry(&peppers) {
                directory.add_secret(key_id, &secret);
            }
            Ok(())
        })
        .map_err(misread)
    })
    .await
}

/// A connection in a transaction that sees one moment, and whose statements may take long.
async fn begin(pool: &PgPool, patience: Duration) -> sqlx::Result<PoolConnection<Postgres>> {
    let mut connection = pool.acquire().await?;
    // Whoever gives up in the middle leaves the transaction on it, and the rest of an answer.
    connection.close_on_drop();
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = {}",
        patience.as_millis()
    );
    connection.execute(AssertSqlSafe(begin)).await?;
    Ok(connection)
}

/// The rows of a table, in pieces of whole rows.
async fn copied<'a>(
    connection: &'a mut PgConnection,
    table: &str,
    columns: &str,
) -> Result<impl Stream<Item = Result<Vec<u8>, DbErr>> + use<'a>, DbErr> {
    let statement = format!("COPY (SELECT {columns} FROM {table}) TO STDOUT (FORMAT binary)");
    let messages = connection.copy_out_raw(&statement).await.map_err(failed)?;
    Ok(stream::try_unfold(messages, async |mut messages| {
        let mut piece = Vec::new();
        for _ in 0..MESSAGES {
            let Some(message) = messages.try_next().await.map_err(failed)? else { break };
            piece.extend_from_slice(&message);
        }
        Ok((!piece.is_empty()).then_some((piece, messages)))
    }))
}

fn user_of(fields: &mut Fields<'_>) -> Result<user::Model, Unreadable> {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    Ok(user::Model {
        id: fields.text()?.to_owned(),
        created_at_ms: fields.number()?,
        requests_per_minute: fields.number_if_any()?,
        tokens_per_day: fields.number_if_any()?,
        tokens_per_minute: fields.number_if_any()?,
        max_concurrency: fields.number_if_any()?,
        weight_millis: fields.number()?,
        suspended_at_ms: fields.number_if_any()?,
        display_name: owned(fields.text_if_any()?),
        email: owned(fields.text_if_any()?),
        note: owned(fields.text_if_any()?),
        generation: fields.number()?,
        last_seen_ms: fields.number_if_any()?,
        group_id: owned(fields.text_if_any()?),
    })
}

fn key_of<'a>(fields: &mut Fields<'a>) -> Result<KeyColumns<'a>, Unreadable> {
    Ok(KeyColumns {
        id: fields.text()?.into(),
        user_id: fields.text()?.into(),
        name: fields.text()?.into(),
        created_at_ms: fields.number()?,
        last_used_ms: fields.number_if_any()?,
        terms: Some(TermColumns {
            expires_at_ms: fields.number_if_any()?,
            allowed_models: fields.text_if_any()?.map(str::to_owned),
            requests_per_minute: fields.number_if_any()?,
            tokens_per_minute: fields.number_if_any()?,
            tokens_per_day: fields.number_if_any()?,
            max_concurrency: fields.number_if_any()?,
        }),
    })
}

fn failed(error: sqlx::Error) -> DbErr {
    DbErr::Query(RuntimeErr::SqlxError(error.into()))
}

fn misread(error: Unreadable) -> DbErr {
    DbErr::Type(error.to_string())
}
