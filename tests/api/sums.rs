//! Are the daily sums what the rows add up to, whoever writes or deletes them, and whatever was there before?
use std::time::Duration;

use entity::usage::{Column, Entity, Model};
use migration::Migrator;
use ollama_gateway::store::{DatabaseSettings, Store};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseBackend, DatabaseConnection, EntityTrait, PaginatorTrait, QueryFilter,
    TransactionTrait,
};
use sea_orm_migration::MigratorTrait;
use serde_json::{Value, json};

use crate::harness::{ADMIN_KEY, TestDatabase, fast_node, let_pass, node, spawn_app_with, wait_for};
use crate::usage_rows::{
    Numbers, all_agree, app_on, expected, insert, operator, report, today, without_reason, wrong_sums,
};

#[actix_rt::test]
async fn a_row_that_comes_twice_counts_once() {
    for database in TestDatabase::each().await {
        let db = operator(&database.url).await;
        let app = app_on(database).await;
        let mut numbers = Numbers(11);
        let rows: Vec<Model> = (0..50).map(|_| numbers.row(20_000)).collect();
        insert(&db, &rows).await;

        // Half of them are there already.
        let more: Vec<Model> = rows[25..].iter().cloned().chain((0..25).map(|_| numbers.row(20_000))).collect();
        insert(&db, &more).await;
        insert(&db, &rows).await;

        assert_eq!(Entity::find().count(&db).await.unwrap(), 75);
        all_agree(&app, &db).await;
        db.close().await.unwrap();
        app.stop().await;
    }
}

#[actix_rt::test]
async fn gateways_that_write_at_once_lose_nothing_and_never_lock_each_other_out() {
    for database in TestDatabase::each().await {
        let url = database.url.clone();
        let app = app_on(database).await;
        let write = async |seed: u64| {
            let db = operator(&url).await;
            let mut numbers = Numbers(seed);
            for turn in 0..40 {
                // Both write to the same sums, one from the first to the last, the other the other way round.
                let mut rows: Vec<Model> = (0..60).map(|_| numbers.row(20_000 + turn % 2)).collect();
                rows.sort_by(|a, b| (&a.user_id, &a.model).cmp(&(&b.user_id, &b.model)));
                if seed.is_multiple_of(2) {
                    rows.reverse();
                }
                insert(&db, &rows).await;
            }
            db.close().await.unwrap();
        };
        futures_util::future::join_all((1..5).map(write)).await;

        let db = operator(&url).await;
        assert_eq!(Entity::find().count(&db).await.unwrap(), 4 * 40 * 60);
        all_agree(&app, &db).await;
        db.close().await.unwrap();
        app.stop().await;
    }
}

#[actix_rt::test]
async fn rows_that_are_copied_to_postgres_once_more_count_once() {
    let Some(database) = TestDatabase::postgres().await else { return };
    let db = operator(&database.url).await;
    let outbox = format!("sqlite://{}", database.folder.path().join("outbox.db").display());
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], database, |_| {}).await;
    let key = app.user("ann").await;
    for _ in 0..5 {
        app.chat(&key, "llama3.2", "[[n=2]] hi").await;
    }
    let before = report(&app, "group_by=day,node,status", 10).await;
    let app = {
        // As after a crash between the insert and the end of the outbox's entries.
        let database = app.stop().await;
        let local = operator(&outbox).await;
        local.execute_unprepared("INSERT INTO outbox SELECT request_id FROM usage").await.unwrap();
        let kept_here = local.query_one_raw(sea_orm::Statement::from_string(
            DatabaseBackend::Sqlite,
            "SELECT count(*) FROM usage_rollups",
        ));
        assert_eq!(
            kept_here.await.unwrap().unwrap().try_get_by_index::<i64>(0).unwrap(),
            0,
            "an outbox sums up nothing"
        );
        local.close().await.unwrap();
        spawn_app_with(vec![node("a", simulated.url(), 1)], database, |_| {}).await
    };
    wait_for("the outbox is empty", async || {
        let text = app.send(awc::http::Method::GET, "/metrics", None, "").await.text().to_owned();
        text.contains("\ngateway_usage_outbox_rows 0\n")
    })
    .await;

    assert_eq!(before.1["requests"], 5);
    assert_eq!(report(&app, "group_by=day,node,status", 10).await, before);
    all_agree(&app, &db).await;
    db.close().await.unwrap();
    app.stop().await;
}

#[actix_rt::test]
async fn a_name_that_postgres_has_no_room_for_holds_up_no_other_row() {
    let Some(database) = TestDatabase::postgres().await else { return };
    let db = operator(&database.url).await;
    let outbox = format!("sqlite://{}", database.folder.path().join("outbox.db").display());
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], database, |_| {}).await;
    let key = app.user("ann").await;
    let local = operator(&outbox).await;
    let mut numbers = Numbers(5);
    // Nothing that a database could make smaller.
    let long: String = (0..9000).map(|_| char::from(b'!' + numbers.below(90) as u8)).collect();
    insert(&local, &[Model { model: long, user_id: "ann".to_owned(), ..numbers.row(today()) }]).await;

    app.chat(&key, "llama3.2", "[[n=2]] hi").await;

    assert_eq!(app.rows_once(&key, 1).await[0]["model"], "llama3.2");
    wait_for("it is set aside", async || {
        let text = app.send(awc::http::Method::GET, "/metrics", None, "").await.text().to_owned();
        text.contains("\ngateway_usage_parked_rows 1\n")
    })
    .await;
    local.close().await.unwrap();
    db.close().await.unwrap();
    app.stop().await;
}

#[actix_rt::test]
async fn rows_that_are_too_old_go_and_the_others_and_all_sums_stay() {
    for database in TestDatabase::each().await {
        let db = operator(&database.url).await;
        let app = app_on(database).await;
        app.user("ann").await;
        let (mut numbers, today) = (Numbers(13), today());
        let mut rows: Vec<Model> = (0..2600).map(|_| numbers.row(today - 3)).collect();
        rows.extend((0..60).map(|turn| numbers.row(today - turn % 6)));
        rows.iter_mut().for_each(|row| row.status = "completed".to_owned());
        insert(&db, &rows).await;
        let query = "group_by=day,user,key,model,node,status";
        let (before, summary) = (
            report(&app, query, 1000).await,
            app.get("/admin/users/ann/usage", ADMIN_KEY).await.json()["summary"].clone(),
        );
        assert!(before.0.len() > 100);
        let old = async |db: &DatabaseConnection, kept: i32| {
            Entity::find().filter(Column::Day.lt(today - kept + 1)).count(db).await.unwrap()
        };
        // For ever, unless asked otherwise. Sums are compared after rows are deleted: a wrong one shows that all is done.
        let shift = async |by: i32| {
            let shift = format!("UPDATE usage_rollups SET requests = requests + {by} WHERE day = {today}");
            db.execute_unprepared(&shift).await.unwrap();
        };
        shift(1).await;
        let app = app.restart().await;
        wait_for("the sums are compared", async || wrong_sums(&app).await > 0.0).await;
        assert_eq!(Entity::find().count(&db).await.unwrap(), 2660);
        shift(-1).await;
        let mut database = app.stop().await;

        for kept in [5, 2] {
            let nodes = vec![node("gone", "http://127.0.0.1:1".to_owned(), 1)];
            let app = spawn_app_with(nodes, database, |config| {
                config.database.usage_retention_days = Some(kept);
            })
            .await;
            let kept = i32::try_from(kept).unwrap();
            wait_for("the old rows are gone", async || old(&db, kept).await == 0).await;

            let left = Entity::find().count(&db).await.unwrap();
            assert_eq!(left, rows.iter().filter(|row| row.day > today - kept).count() as u64, "{kept}");
            assert_eq!(report(&app, query, 1000).await, before, "{kept}");
            let ann = app.get("/admin/users/ann/usage?limit=1000", ADMIN_KEY).await.json();
            assert_eq!(ann["summary"], summary, "sums outlive their rows");
            let rows_of_ann = rows.iter().filter(|row| row.user_id == "ann" && row.day > today - kept).count();
            assert_eq!(ann["data"].as_array().unwrap().len(), rows_of_ann.min(1000));
            assert_eq!(wrong_sums(&app).await, 0.0, "days whose rows are gone are no mistake");
            database = app.stop().await;
        }
        // Nobody is forgotten whose rows are all gone.
        Entity::delete_many().exec(&db).await.unwrap();
        let app = app_on(database).await;
        app.delete("/admin/users/ann", ADMIN_KEY).await;
        let ann = app.get("/admin/users/ann/usage", ADMIN_KEY).await;
        assert_eq!((ann.status.as_u16(), &ann.json()["summary"]), (200, &summary));
        db.close().await.unwrap();
        app.stop().await;
    }
}

#[actix_rt::test]
async fn of_two_gateways_on_one_postgres_one_deletes_at_a_time_and_all_of_it_goes() {
    let Some(database) = TestDatabase::postgres().await else { return };
    let db = operator(&database.url).await;
    let second = database.again();
    let app = app_on(database).await;
    let (mut numbers, today) = (Numbers(17), today());
    let rows: Vec<Model> = (0..3500).map(|turn| numbers.row(today - 4 * i32::from(turn % 7 != 0))).collect();
    insert(&db, &rows).await;
    let database = app.stop().await;

    let nodes = || vec![node("gone", "http://127.0.0.1:1".to_owned(), 1)];
    let keep = |config: &mut ollama_gateway::config::Config| config.database.usage_retention_days = Some(2);
    let (first, second) = tokio::join!(spawn_app_with(nodes(), database, keep), spawn_app_with(nodes(), second, keep));

    wait_for("the old rows are gone", async || Entity::find().count(&db).await.unwrap() == 500).await;
    assert_eq!(report(&first, "group_by=day", 10).await, report(&second, "group_by=day", 10).await);
    assert_eq!(report(&first, "", 10).await.1, expected(&rows, &[]).1);
    db.close().await.unwrap();
    second.stop().await;
    first.stop().await;
}

#[actix_rt::test]
async fn sums_that_differ_from_their_rows_are_noticed() {
    for database in TestDatabase::each().await {
        let (db, url) = (operator(&database.url).await, database.url.clone());
        let simulated = fast_node().await;
        let app = spawn_app_with(vec![node("a", simulated.url(), 1)], database, |_| {}).await;
        let key = app.user("ann").await;
        app.chat(&key, "llama3.2", "[[n=2]] hi").await;
        app.chat(&key, "llama3.2:1b", "[[n=2]] hi").await;
        app.rows_once(&key, 2).await;
        let compare = async || {
            let folder = tempfile::tempdir().unwrap();
            let settings = DatabaseSettings {
                url: url.clone(),
                outbox: folder.path().join("outbox.db"),
                ..DatabaseSettings::default()
            };
            let store = Store::open(&settings).await.unwrap();
            let wrong = store.wrong_rollups(today() - 1).await.unwrap() as f64;
            store.close().await;
            wrong
        };
        assert_eq!(compare().await, 0.0);

        for (tampering, wrong) in [
            // The sum of the user, and that of all users, which is one less.
            ("UPDATE usage_rollups SET decode_ms = decode_ms + 1 WHERE model = 'llama3.2'", 2.0),
            ("UPDATE usage_totals SET decode_ms = decode_ms + 1 WHERE model = 'llama3.2'", 1.0),
            ("DELETE FROM usage WHERE model = 'llama3.2:1b'", 2.0),
            ("DELETE FROM usage_rollups", 3.0),
            ("DELETE FROM usage_totals", 1.0),
        ] {
            db.execute_unprepared(tampering).await.unwrap();
            assert_eq!(compare().await, wrong, "{tampering}");
        }
        let app = app.restart().await;
        wait_for("it is exported", async || wrong_sums(&app).await == 1.0).await;
        // Of earlier days nobody asks.
        db.execute_unprepared("UPDATE usage SET day = day - 2, created_at_ms = created_at_ms - 172800000")
            .await
            .unwrap();
        assert_eq!(compare().await, 0.0);
        db.close().await.unwrap();
        app.stop().await;
    }
}

#[actix_rt::test]
async fn rows_from_before_there_were_sums_are_in_them_however_long_that_takes() {
    for database in TestDatabase::each().await {
        let steps = Migrator::migrations();
        let before = steps.iter().position(|step| step.name().ends_with("usage_rollups")).unwrap();
        let db = operator(&database.url).await;
        Migrator::up(&db, Some(u32::try_from(before).unwrap())).await.unwrap();
        let mut numbers = Numbers(19);
        let rows: Vec<Model> = (0..3000).map(|turn| numbers.row(20_000 + turn % 3)).collect();
        for part in rows.chunks(500) {
            Entity::insert_many(part.iter().map(without_reason)).exec_without_returning(&db).await.unwrap();
        }

        let app = if db.get_database_backend() == DatabaseBackend::Postgres {
            // A gateway of the version before is in the middle of its work, for longer than any other statement may take.
            let busy = db.begin().await.unwrap();
            busy.execute_unprepared("UPDATE usage SET attempts = 2").await.unwrap();
            let releasing = async {
                let_pass(Duration::from_millis(5500)).await;
                let late = without_reason(&numbers.row(20_001));
                Entity::insert(late).exec_without_returning(&busy).await.unwrap();
                busy.commit().await.unwrap();
            };
            tokio::join!(app_on(database), releasing).0
        } else {
            app_on(database).await
        };

        all_agree(&app, &db).await;
        insert(&db, &[numbers.row(20_001)]).await;
        all_agree(&app, &db).await;
        db.close().await.unwrap();
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_file_sums_up_only_while_it_is_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.db");
    let url = format!("sqlite://{}", path.display());
    let as_database = DatabaseSettings { url: url.clone(), ..DatabaseSettings::default() };
    let as_outbox = DatabaseSettings {
        url: "postgres://postgres@127.0.0.1:1/gone".to_owned(),
        outbox: path,
        ..DatabaseSettings::default()
    };
    let sums = async |db: &DatabaseConnection| entity::usage_rollup::Entity::find().count(db).await.unwrap();
    let mut numbers = Numbers(23);
    Store::open(&as_database).await.unwrap().close().await;
    let db = operator(&url).await;
    insert(&db, &[numbers.row(20_000)]).await;
    assert_eq!(sums(&db).await, 1);

    assert!(Store::open(&as_outbox).await.is_err(), "there is no Postgres, but the file was opened for it");
    insert(&db, &[numbers.row(20_000), numbers.row(20_001)]).await;
    assert_eq!(sums(&db).await, 0);

    let store = Store::open(&as_database).await.unwrap();
    insert(&db, &[numbers.row(20_001)]).await;
    assert_eq!(store.wrong_rollups(0).await.unwrap(), 0);
    assert!(sums(&db).await >= 2);
    store.close().await;
    db.close().await.unwrap();
}

/// A file that a gateway has used sums up by itself; sums outlive rows, so they must not be made anew.
#[actix_rt::test]
async fn sums_from_before_there_were_groups_stay_and_are_of_none() {
    for database in TestDatabase::each().await {
        let before = Migrator::migrations().iter().position(|step| step.name().ends_with("000400_groups")).unwrap();
        let db = operator(&database.url).await;
        Migrator::up(&db, Some(u32::try_from(before).unwrap())).await.unwrap();
        if db.get_database_backend() == DatabaseBackend::Sqlite {
            let trigger = "CREATE TRIGGER usage_to_rollups AFTER INSERT ON usage BEGIN \
                           UPDATE usage_rollups SET requests = 0; END";
            db.execute_unprepared(trigger).await.unwrap();
        }
        let sum =
            "INSERT INTO usage_rollups VALUES (20000, 'ann', '', 'm', 'a', 'completed', 3, 10, 20, 1, 1, 1, 1, 1)";
        db.execute_unprepared(sum).await.unwrap();
        db.close().await.unwrap();

        let simulated = fast_node().await;
        let app = spawn_app_with(vec![node("a", simulated.url(), 2)], database, |_| {}).await;
        let key = app.user("ann").await;
        let (groups, total) = report(&app, "group_by=group,user&to=2026-01-01", 10).await;
        assert_eq!((groups.len(), &groups[0]["group_id"], &groups[0]["user_id"]), (1, &Value::Null, &json!("ann")));
        assert_eq!((&total["requests"], &total["total_tokens"]), (&json!(3), &json!(30)));
        assert_eq!(app.chat(&key, "llama3.2", "hi").await.status, 200);
        let (_, total) = report(&app, "group_by=group", 10).await;
        assert_eq!(total["requests"], 4, "new rows are added");
        app.stop().await;
    }
}
