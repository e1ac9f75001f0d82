//! Backs up the SQLite database while a gateway runs, and restores it while none does.
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use sea_orm::sqlx::sqlite::SqliteConnectOptions;
use sea_orm::sqlx::{ConnectOptions, Connection, Row, SqliteConnection, query};

use super::error::StoreError;
use super::private::{beside, close_to_others};
use super::reserve::Reserve;
use super::settings::DatabaseSettings;

/// Writes a complete, consistent copy of the database to `to`, which must not exist yet.
///
/// # Errors
/// [`StoreError::Backup`]; nothing is left at `to` then.
pub async fn back_up(settings: &DatabaseSettings, to: &Path) -> Result<(), StoreError> {
    let from = sqlite_file(settings)?;
    if to.exists() {
        return Err(failed(to, "exists already; name a new file"));
    }
    if !from.exists() {
        return Err(failed(&from, "does not exist: there is nothing to back up"));
    }
    let part = beside(to, "part");
    let copied = copy_of_database(&from, &part).await;
    let placed =
        copied.and_then(|()| sync(&part).and_then(|()| std::fs::rename(&part, to)).map_err(|error| failed(to, error)));
    if placed.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    placed?;
    close_to_others(to)?;
    sync_folder(to).map_err(|error| failed(to, error))
}

async fn copy_of_database(from: &Path, part: &Path) -> Result<(), StoreError> {
    let failed = |error: sea_orm::sqlx::Error| failed(part, error);
    let _ = std::fs::remove_file(part);
    let mut connection = open(from, true).await.map_err(failed)?;
    let statement = query("VACUUM INTO ?").bind(part.to_string_lossy().into_owned());
    statement.execute(&mut connection).await.map_err(failed)?;
    connection.close().await.map_err(failed)?;
    check(part).await
}

/// Replaces the database with a copy of `from`. If this is interrupted, either the old or the new database is there,
/// complete.
///
/// # Errors
/// [`StoreError::InUse`] while a gateway runs on it, or [`StoreError::Backup`] if `from` is not a backup.
pub async fn restore(settings: &DatabaseSettings, from: &Path) -> Result<(), StoreError> {
    let to = sqlite_file(settings)?;
    if !from.is_file() {
        return Err(failed(from, "is not a file"));
    }
    super::private::make_folder(&to)?;
    let locked = Reserve::keep_out(&to).map_err(|error| failed(&to, error))?;
    let Some(_lock) = locked else { return Err(StoreError::InUse { path: to }) };
    // Copied beside it first: a rename within a folder replaces the database at one stroke.
    let part = beside(&to, "restoring");
    let copied = std::fs::copy(from, &part).and_then(|_| sync(&part));
    copied.map_err(|error| failed(&part, error))?;
    if let Err(error) = check(&part).await {
        let _ = std::fs::remove_file(&part);
        return Err(match error {
            StoreError::Backup { why, .. } => failed(from, why),
            other => other,
        });
    }
    close_to_others(&part)?;
    set_aside(&to).await?;
    std::fs::rename(&part, &to).and_then(|()| sync_folder(&to)).map_err(|error| failed(&to, error))
}

/// Removes the old database's log, after moving what it holds into the database, so that an interrupted restore loses
/// nothing. A damaged database is kept beside the new one.
async fn set_aside(old: &Path) -> Result<(), StoreError> {
    if old.exists() && empty_log(old).await.is_err() {
        let kept = beside(old, "before-restore");
        let _ = std::fs::remove_file(&kept);
        std::fs::hard_link(old, &kept).map_err(|error| failed(&kept, error))?;
    }
    for side in ["wal", "shm", "journal"] {
        let path = beside(old, side);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&path, error)),
            _ => {}
        }
    }
    Ok(())
}

async fn empty_log(path: &Path) -> Result<(), sea_orm::sqlx::Error> {
    let mut connection = open(path, false).await?;
    query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await?;
    connection.close().await
}

/// Checks that the file is an undamaged database of a gateway.
async fn check(path: &Path) -> Result<(), StoreError> {
    let look = async {
        let mut connection = open(path, true).await?;
        let verdict: String = query("PRAGMA quick_check(1)").fetch_one(&mut connection).await?.try_get(0)?;
        let ours = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('users', 'keys', 'usage')";
        let tables: i64 = query(ours).fetch_one(&mut connection).await?.try_get(0)?;
        connection.close().await?;
        Ok::<_, sea_orm::sqlx::Error>((verdict, tables))
    };
    match look.await {
        Ok((verdict, _)) if verdict != "ok" => Err(failed(path, format!("is damaged: {verdict}"))),
        Ok((_, tables)) if tables < 3 => Err(failed(path, "is not a database of ollama-gateway")),
        Ok(_) => Ok(()),
        // SQLite's code for a file that it did not write.
        Err(sea_orm::sqlx::Error::Database(error)) if error.code().is_some_and(|code| code == "26") => {
            Err(failed(path, "is not a database of ollama-gateway"))
        }
        Err(error) => Err(failed(path, error)),
    }
}

async fn open(path: &Path, read_only: bool) -> Result<SqliteConnection, sea_orm::sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(path).read_only(read_only);
    options.busy_timeout(super::deadline::STATEMENT_DEADLINE).connect().await
}

fn sqlite_file(settings: &DatabaseSettings) -> Result<PathBuf, StoreError> {
    let path = settings.sqlite_path().map(Path::to_path_buf);
    path.ok_or_else(|| {
        failed(Path::new("database.url"), "is Postgres: back it up and restore it with pg_dump and pg_restore")
    })
}

fn failed(path: &Path, why: impl ToString) -> StoreError {
    StoreError::Backup { path: path.to_path_buf(), why: why.to_string() }
}

fn sync(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.sync_all()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::database::Store;
    use crate::store::nodes::StoredNode;

    fn settings(path: &Path) -> DatabaseSettings {
        DatabaseSettings { url: format!("sqlite://{}", path.display()), ..DatabaseSettings::default() }
    }

    async fn add(store: &Store, name: &str) {
        store.add_node(StoredNode { name: name.to_owned(), settings: "{}".to_owned() }, 1).await.unwrap();
    }

    async fn names(settings: &DatabaseSettings) -> Vec<String> {
        let store = Store::open(settings).await.unwrap();
        let names = store.nodes().await.unwrap().into_iter().map(|node| node.name).collect();
        store.close().await;
        names
    }

    #[actix_rt::test]
    async fn what_is_backed_up_while_a_gateway_runs_is_there_after_a_restore_and_nothing_newer() {
        let folder = tempfile::tempdir().unwrap();
        let (database, backup) = (folder.path().join("gateway.db"), folder.path().join("backup.db"));
        let settings = settings(&database);
        let store = Store::open(&settings).await.unwrap();
        add(&store, "a").await;
        back_up(&settings, &backup).await.unwrap();
        assert!(back_up(&settings, &backup).await.unwrap_err().to_string().contains("exists already"));
        add(&store, "b").await;
        assert!(matches!(restore(&settings, &backup).await, Err(StoreError::InUse { .. })));
        store.close().await;

        restore(&settings, &backup).await.unwrap();

        assert_eq!(names(&settings).await, ["a"]);
    }

    #[actix_rt::test]
    async fn a_log_that_a_killed_gateway_has_left_does_not_come_into_what_is_restored() {
        let folder = tempfile::tempdir().unwrap();
        let (database, backup) = (folder.path().join("gateway.db"), folder.path().join("backup.db"));
        let store = Store::open(&settings(&database)).await.unwrap();
        add(&store, "a").await;
        back_up(&settings(&database), &backup).await.unwrap();
        add(&store, "b").await;
        // As it lies there after `kill -9`, with its log.
        let killed = folder.path().join("killed.db");
        for side in ["", "-wal"] {
            std::fs::copy(format!("{}{side}", database.display()), format!("{}{side}", killed.display())).unwrap();
        }
        store.close().await;
        assert!(std::fs::metadata(beside(&killed, "wal")).unwrap().len() > 0);

        restore(&settings(&killed), &backup).await.unwrap();

        assert_eq!(names(&settings(&killed)).await, ["a"]);
    }

    #[actix_rt::test]
    async fn only_a_whole_database_of_a_gateway_is_restored() {
        let folder = tempfile::tempdir().unwrap();
        let (database, other) = (folder.path().join("gateway.db"), folder.path().join("other.db"));
        let store = Store::open(&settings(&database)).await.unwrap();
        add(&store, "a").await;
        store.close().await;
        std::fs::write(&other, "no database").unwrap();
        for content in ["no database", ""] {
            std::fs::write(&other, content).unwrap();
            let said = restore(&settings(&database), &other).await.unwrap_err().to_string();
            assert_eq!(said, format!("{}: is not a database of ollama-gateway", other.display()));
        }
        assert_eq!(names(&settings(&database)).await, ["a"]);
        let postgres = DatabaseSettings { url: "postgres://u:geheim@h/n".to_owned(), ..DatabaseSettings::default() };
        let said = back_up(&postgres, &other).await.unwrap_err().to_string();
        assert!(said.contains("pg_dump") && !said.contains("geheim"), "{said}");
    }
}
