//! How is everybody in a database read, of whom there may be a million?
//!
//! A row that is asked for as a row costs several times what its contents cost: on its way it becomes messages between
//! threads, names of columns and strings. So SQLite makes texts of a few thousand rows each, and Postgres copies its tables
//! out; both come in pieces, and while one piece is taken up on a thread of its own, the next one is made.
mod copying;
mod fields;
mod pieces;
mod texts;

use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseBackend, DatabaseConnection, DbErr, Statement};

use super::deadline::within;
use super::directory::Directory;
use super::error::StoreError;
use super::keys::Peppers;

/// Longest time to read everybody.
const ALL_DEADLINE: Duration = Duration::from_secs(60);
/// Most records for which memory is reserved before they are read.
const MOST_ROOM: usize = 4_000_000;

/// Everybody in a database.
pub(super) async fn read_all(db: &DatabaseConnection, peppers: &Peppers) -> Result<Directory, StoreError> {
    let read = async {
        let mut directory = Directory::default();
        let [users, keys, digests] = counts(db).await?;
        directory.reserve(users, keys, digests);
        match db.get_database_backend() {
            DatabaseBackend::Sqlite => texts::read(db, peppers, directory).await,
            _ => copying::read(db, peppers, directory, ALL_DEADLINE).await,
        }
    };
    // Large, and needed once in a while: it must not lie within the futures of all who wait for it, down to the start.
    within(ALL_DEADLINE, Box::pin(read)).await
}

/// About how many users, keys and digests there are, so that tables are allocated once.
async fn counts(db: &DatabaseConnection) -> Result<[usize; 3], DbErr> {
    let mut counts = [0; 3];
    for (table, rows) in ["users", "keys", "key_digests"].into_iter().zip(&mut counts) {
        // Either database would read a whole table to count it. What it knows without that is estimate enough.
        let count = match db.get_database_backend() {
            DatabaseBackend::Sqlite => format!("SELECT coalesce(max(rowid), 0) FROM {table}"),
            _ => format!(
                "SELECT CASE WHEN reltuples > 0 THEN reltuples::bigint ELSE (SELECT count(*) FROM {table}) END \
                 FROM pg_class WHERE oid = '{table}'::regclass"
            ),
        };
        let count = Statement::from_string(db.get_database_backend(), count);
        let count: i64 = db.query_one_raw(count).await?.map_or(Ok(0), |row| row.try_get_by_index(0))?;
        *rows = usize::try_from(count).unwrap_or_default().min(MOST_ROOM);
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use entity::{key, key_digest, user};
    use limits::Ledger;
    use sea_orm::{EntityTrait, IntoActiveModel};

    use super::*;
    use crate::store::account::Account;
    use crate::store::columns::{KeyColumns, put_user, secret_entry};
    use crate::store::key::Key;
    use crate::store::scratch::Scratch;

    /// More than one piece holds, on either database.
    const KEYS: u32 = 9_001;

    fn user(name: &str, is_plain: bool) -> user::Model {
        let text = || (!is_plain).then(|| "Zoë \"Z\"\n\u{1}\\ 名".to_owned());
        let number = |number: i64| (!is_plain).then_some(number);
        user::Model {
            id: name.to_owned(),
            created_at_ms: 1_700_000_000_000,
            requests_per_minute: number(0),
            tokens_per_day: number(i64::MAX),
            tokens_per_minute: number(7),
            max_concurrency: number(3),
            weight_millis: 1_500,
            suspended_at_ms: number(5),
            display_name: text(),
            email: text(),
            note: text(),
            generation: 2,
            last_seen_ms: number(60_000),
            group_id: None,
        }
    }

    fn key(number: u32, is_plain: bool) -> key::Model {
        let given = |number: i64| (!is_plain).then_some(number);
        key::Model {
            id: if is_plain { format!("key_{number:032x}") } else { format!("key_{number}") },
            user_id: if number.is_multiple_of(2) { "ann" } else { "ben" }.to_owned(),
            name: if is_plain { "default".to_owned() } else { "a \"name\",\n[\t名]\u{1f}".to_owned() },
            created_at_ms: i64::from(number),
            expires_at_ms: given(1_900_000_000_000),
            allowed_models: (!is_plain).then(|| "[\"m:1\"]".to_owned()),
            requests_per_minute: given(1),
            tokens_per_minute: given(2),
            tokens_per_day: given(3),
            max_concurrency: given(4),
            last_used_ms: given(120_000),
        }
    }

    fn digest(key: &key::Model, number: u32, length: usize) -> key_digest::Model {
        // Every byte there is, also those that no text has.
        let mut digest: Vec<u8> = (0..length).map(|place| (number as usize + place * 37) as u8).collect();
        digest.iter_mut().zip(number.to_be_bytes()).for_each(|(place, byte)| *place = byte);
        key_digest::Model {
            digest,
            digest_version: 1,
            pepper: (number % 1_000 == 1).then(|| "unknown".to_owned()),
            key_id: key.id.clone(),
            last_four: "\"\\é".to_owned(),
            created_at_ms: 1,
            expires_at_ms: (number.is_multiple_of(3)).then_some(9),
        }
    }

    async fn insert<E: EntityTrait>(db: &DatabaseConnection, rows: &[E::Model])
    where
        E::Model: IntoActiveModel<E::ActiveModel>,
        E::ActiveModel: Send,
    {
        for rows in rows.chunks(1_000) {
            let rows = rows.iter().cloned().map(IntoActiveModel::into_active_model);
            E::insert_many(rows).exec_without_returning(db).await.unwrap();
        }
    }

    /// What a directory says of everybody.
    fn told(mut directory: Directory) -> Vec<String> {
        let mut lines = vec![format!("{} secrets open nothing", directory.foreign_secrets())];
        for name in directory.names_after(None, usize::MAX) {
            lines.push(format!("{:?}", directory.user(&name)));
            for index in directory.keys_of(&name) {
                let make = |entry: &_| Account::new(entry, Ledger::default());
                let key = directory.wake_key(index, make, |maker| Key::new(maker, Ledger::default())).unwrap();
                lines.push(format!("{:?}", (key.id(), key.spec(), key.last_used_ms(), key.secrets())));
            }
        }
        lines.sort();
        lines
    }

    #[actix_rt::test]
    async fn everybody_is_read_as_their_rows_say() {
        let users = [user("ann", true), user("ben", false), user("bad name\n", true)];
        let keys: Vec<key::Model> = (0..KEYS).map(|number| key(number, number % 100 != 0)).collect();
        let mut digests: Vec<_> = (0..).zip(&keys).map(|(number, key)| digest(key, number, 32)).collect();
        digests.extend([digest(&keys[5], 1_000_000, 32), digest(&keys[0], 1_000_001, 5)]);
        let peppers = Peppers::default();
        let mut expected = Directory::default();
        users.iter().for_each(|row| _ = put_user(&mut expected, row));
        keys.iter().for_each(|row| expected.put_key(&KeyColumns::of(row).entry()));
        for row in &digests {
            secret_entry(row, &peppers).iter().for_each(|secret| expected.add_secret(&row.key_id, secret));
        }
        let expected = told(expected);
        for scratch in Scratch::each().await {
            assert_eq!(told(read_all(&scratch.db, &peppers).await.unwrap()).len(), 1, "nobody");
            insert::<user::Entity>(&scratch.db, &users).await;
            insert::<key::Entity>(&scratch.db, &keys).await;
            insert::<key_digest::Entity>(&scratch.db, &digests).await;
            if !scratch.is_on_postgres() {
                // A wide gap in the numbers of the rows, as deletions leave it.
                scratch
                    .db
                    .execute_unprepared("UPDATE keys SET rowid = rowid + 50000 WHERE rowid > 3000")
                    .await
                    .unwrap();
            }

            let read = told(read_all(&scratch.db, &peppers).await.unwrap());

            assert_eq!(read.len(), expected.len());
            for (read, expected) in read.iter().zip(&expected) {
                assert_eq!(read, expected);
            }
            scratch.remove().await;
        }
    }
}
