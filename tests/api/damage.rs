//! What does a gateway make of a local file that is damaged? It says so, and shows no sum that is wrong.
use std::path::Path;

use ollama_gateway::store::{DatabaseSettings, Store, StoreError};
use sea_orm::ConnectionTrait;

use crate::durability::{copy_as_after_a_crash, operator};
use crate::harness::{TestDatabase, fast_node, node, spawn_app_with};

/// Makes a database with rows, and says how its files look after a crash.
async fn filled(folder: &Path) -> (DatabaseSettings, i64) {
    let simulated = fast_node().await;
    let database = TestDatabase::sqlite();
    let file = database.url.clone();
    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], database, |_| {}).await;
    let key = app.user("ann").await;
    for _ in 0..30 {
        app.chat(&key, "llama3.2", "[[n=10]] hi").await;
    }
    copy_as_after_a_crash(&file, folder);
    app.stop().await;
    let url = format!("sqlite://{}", folder.join("gateway.db").display());
    (DatabaseSettings { url, ..DatabaseSettings::default() }, 300)
}

/// A log that is cut loses what stood behind the cut, as SQLite cannot tell that from a log that was never longer.
#[actix_rt::test]
async fn a_damaged_log_gives_no_row_that_was_never_written() {
    let pristine = tempfile::tempdir().unwrap();
    let (_, whole) = filled(pristine.path()).await;
    let log = std::fs::read(pristine.path().join("gateway.db-wal")).unwrap();
    for turn in 0..40 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.db");
        std::fs::copy(pristine.path().join("gateway.db"), &path).unwrap();
        let (mut log, at) = (log.clone(), log.len() / 40 * turn);
        match turn % 2 {
            0 => log.truncate(at),
            _ => log[at..].iter_mut().take(64).for_each(|byte| *byte ^= 0x5a),
        }
        std::fs::write(folder.path().join("gateway.db-wal"), log).unwrap();
        let url = format!("sqlite://{}", path.display());
        match Store::open(&DatabaseSettings { url, ..DatabaseSettings::default() }).await {
            Err(error) => assert!(matches!(error, StoreError::Damaged { .. }), "turn {turn}: {error}"),
            Ok(store) => {
                let totals = store.usage_totals("ann", ollama_gateway::store::Period::default()).await.unwrap();
                let tokens: i64 = totals.iter().map(|totals| totals.completion_tokens).sum();
                assert!(tokens <= whole && tokens % 10 == 0, "turn {turn}: {tokens}");
                store.close().await;
            }
        }
    }
}

#[actix_rt::test]
async fn a_damaged_file_is_named_and_no_sum_of_it_is_wrong() {
    let pristine = tempfile::tempdir().unwrap();
    let (_, whole) = filled(pristine.path()).await;
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
    let mut random = u64::from(seed) | 1;
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let (mut noticed, mut intact) = (0, 0);
    for turn in 0..60 {
        let folder = tempfile::tempdir().unwrap();
        for name in ["gateway.db", "gateway.db-wal"] {
            std::fs::copy(pristine.path().join(name), folder.path().join(name)).unwrap();
        }
        let path = folder.path().join("gateway.db");
        // First all of it into the one file, as after a clean stop; then cut it, or write nonsense into the middle.
        let url = format!("sqlite://{}", path.display());
        let operator = operator(&url).await;
        operator.execute_unprepared("PRAGMA wal_checkpoint(TRUNCATE)").await.unwrap();
        operator.close().await.unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = match turn % 4 {
            // A few bytes, which SQLite itself would take for zeros, and the zeros for values.
            0 => bytes.len() - 1 - turn,
            _ => next(bytes.len() as u64) as usize,
        };
        if turn % 2 == 0 {
            bytes.truncate(at);
        } else {
            // A page's head, so that it is the structure that suffers.
            let page = at / 4096 * 4096;
            bytes[page..page + 64].fill(next(256) as u8);
        }
        std::fs::write(&path, &bytes).unwrap();
        let settings = DatabaseSettings { url, ..DatabaseSettings::default() };
        match Store::open(&settings).await {
            Err(error @ StoreError::Damaged { .. }) => {
                noticed += 1;
                let said = error.to_string();
                assert!(said.contains(path.to_str().unwrap()) && said.contains("backup"), "{said}");
            }
            Err(error) => panic!("seed {seed}, turn {turn}: {error}"),
            Ok(store) => {
                intact += 1;
                let totals = store.usage_totals("ann", ollama_gateway::store::Period::default()).await.unwrap();
                let tokens: i64 = totals.iter().map(|totals| totals.completion_tokens).sum();
                // Cut to nothing it is a new database.
                assert!(tokens == whole || at == 0, "seed {seed}, turn {turn}, at {at}: {tokens}");
                store.close().await;
            }
        }
    }
    assert!(noticed > 40, "{noticed} noticed, {intact} intact");
}
