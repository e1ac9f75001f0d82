//! Do reports say what the rows add up to, whatever happens to the rows, and is that checked?
use std::collections::BTreeMap;
use std::time::Duration;

use awc::http::Method;
use entity::usage::{ActiveModel, Column, Entity, Model};
use migration::Migrator;
use ollama_gateway::store::{DatabaseSettings, Store};
use ollama_sim::{Fault, SimConfig, SimNode};
use sea_orm::{
    ColumnTrait, ConnectionTrait, Database, DatabaseBackend, DatabaseConnection, EntityTrait, IntoActiveModel, NotSet,
    PaginatorTrait, QueryFilter, TransactionTrait,
};
use sea_orm_migration::MigratorTrait;
use serde_json::{Value, json};
use time::{Date, OffsetDateTime};

use crate::harness::{
    ADMIN_KEY, TestApp, TestDatabase, error_of, fast_node, let_pass, node, spawn_app_with, stream_body, wait_for,
};

const SUMS: [&str; 10] = [
    "requests",
    "refused",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "queue_ms",
    "duration_ms",
    "load_ms",
    "prefill_ms",
    "decode_ms",
];
const DIMENSIONS: [&str; 7] = ["user", "key", "model", "node", "day", "status", "group"];
const DAY_MS: i64 = 86_400_000;

/// Somebody else who opens the database, or makes its file.
async fn operator(url: &str) -> DatabaseConnection {
    let making = if url.starts_with("sqlite") { "?mode=rwc" } else { "" };
    Database::connect(format!("{url}{making}")).await.unwrap()
}

/// A gateway whose only node is not there.
async fn app_on(database: TestDatabase) -> TestApp {
    spawn_app_with(vec![node("gone", "http://127.0.0.1:1".to_owned(), 1)], database, |_| {}).await
}

async fn wrong_sums(app: &TestApp) -> f64 {
    let text = app.send(awc::http::Method::GET, "/metrics", None, "").await.text().to_owned();
    text.lines().find_map(|line| line.strip_prefix("gateway_usage_rollup_mismatches ")?.parse().ok()).unwrap()
}

fn today() -> i32 {
    i32::try_from(OffsetDateTime::now_utc().unix_timestamp() / 86_400).unwrap()
}

fn date(day: i32) -> String {
    Date::from_julian_day(2_440_588 + day).unwrap().to_string()
}

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn one_of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len() as u64) as usize]
    }

    fn some(&mut self, bound: u64) -> Option<i64> {
        (self.below(3) > 0).then(|| self.below(bound) as i64)
    }

    /// An id of a request that arrived on this day, as real ones begin with the time.
    fn id(&mut self, day: i32) -> uuid::Uuid {
        let seconds = u64::try_from(day).unwrap() * 86_400 + self.below(86_400);
        uuid::Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, 0))
    }

    /// A row of this day.
    fn row(&mut self, day: i32) -> Model {
        let key = self.one_of(&["", "key_1", "key_2"]);
        let node = self.one_of(&["", "a", "b"]);
        let group = self.one_of(&["", "lab", "lab~2"]);
        Model {
            request_id: self.id(day),
            user_id: self.one_of(&["ann", "bob", "carl"]).to_owned(),
            key_id: Some(key.to_owned()).filter(|key| !key.is_empty()),
            created_at_ms: i64::from(day) * DAY_MS + self.below(DAY_MS as u64) as i64,
            day,
            model: self.one_of(&["m", "m:latest", "a,\"b\""]).to_owned(),
            endpoint: "/v1/chat/completions".to_owned(),
            node: Some(node.to_owned()).filter(|node| !node.is_empty()),
            stream: false,
            status: self.one_of(&["completed", "cancelled", "refused", "interrupted"]).to_owned(),
            prompt_tokens: self.below(1000) as i64,
            completion_tokens: self.below(1000) as i64,
            tokens_from: "reported".to_owned(),
            attempts: 1,
            queue_ms: self.below(1000) as i64,
            time_to_first_token_ms: None,
            duration_ms: self.below(10_000) as i64,
            load_ms: self.some(5000),
            prefill_ms: self.some(500),
            decode_ms: self.some(500),
            code: None,
            limit_name: None,
            http_status: None,
            requests: 1,
            group_id: Some(group.to_owned()).filter(|group| !group.is_empty()),
        }
    }
}

/// As a version before there were reasons writes it.
fn without_reason(row: &Model) -> ActiveModel {
    let mut row = row.clone().into_active_model();
    row.code = NotSet;
    row.limit_name = NotSet;
    row.http_status = NotSet;
    row.requests = NotSet;
    row.group_id = NotSet;
    row
}

async fn insert(db: &DatabaseConnection, rows: &[Model]) {
    for part in rows.chunks(500) {
        let part = part.iter().cloned().map(IntoActiveModel::into_active_model);
        Entity::insert_many(part).on_conflict_do_nothing().exec_without_returning(db).await.unwrap();
    }
}

/// Where a row stands in a dimension, as a report shows it.
fn label(row: &Model, dimension: &str) -> Value {
    match dimension {
        "user" => json!(row.user_id),
        "key" => json!(row.key_id),
        "model" => json!(row.model),
        "node" => json!(row.node),
        "day" => json!(date(row.day)),
        "group" => json!(row.group_id),
        _ => json!(row.status),
    }
}

fn field(dimension: &str) -> &str {
    match dimension {
        "user" => "user_id",
        "key" => "key_id",
        "group" => "group_id",
        other => other,
    }
}

fn add(sums: &mut Value, row: &Model) {
    let mut add = |name: &str, number: i64| sums[name] = (sums[name].as_i64().unwrap() + number).into();
    if row.status == "refused" {
        return add("refused", 1);
    }
    add("requests", 1);
    add("prompt_tokens", row.prompt_tokens);
    add("completion_tokens", row.completion_tokens);
    add("total_tokens", row.prompt_tokens + row.completion_tokens);
    add("queue_ms", row.queue_ms);
    add("duration_ms", row.duration_ms);
    add("load_ms", row.load_ms.unwrap_or(0));
    add("prefill_ms", row.prefill_ms.unwrap_or(0));
    add("decode_ms", row.decode_ms.unwrap_or(0));
}

fn nothing() -> Value {
    SUMS.iter().map(|sum| ((*sum).to_owned(), json!(0))).collect::<serde_json::Map<_, _>>().into()
}

/// What a report over these rows must say: its groups, in any order, and the total.
fn expected(rows: &[Model], group_by: &[&str]) -> (Vec<Value>, Value) {
    let (mut groups, mut total) = (BTreeMap::new(), nothing());
    for row in rows {
        let labels: Vec<String> = group_by.iter().map(|dimension| label(row, dimension).to_string()).collect();
        let group = groups.entry(labels).or_insert_with(|| {
            let mut group = nothing();
            group_by.iter().for_each(|dimension| group[field(dimension)] = label(row, dimension));
            group
        });
        add(group, row);
        add(&mut total, row);
    }
    (groups.into_values().collect(), total)
}

fn sorted(mut groups: Vec<Value>) -> Vec<Value> {
    groups.sort_by_key(ToString::to_string);
    groups
}

/// A report, page by page: its groups in their order, and the total.
async fn report(app: &TestApp, query: &str, limit: usize) -> (Vec<Value>, Value) {
    let (mut groups, mut after) = (Vec::new(), String::new());
    loop {
        let reply = app.get(&format!("/admin/usage?{query}&limit={limit}{after}"), ADMIN_KEY).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let page = reply.json();
        let data = page["data"].as_array().unwrap();
        groups.extend(data.iter().cloned());
        let Some(next) = page["next"].as_str() else { return (groups, page["total"].clone()) };
        assert_eq!(data.len(), limit, "a page that is not the last one is full");
        after = format!("&after={next}");
    }
}

/// The same report as CSV, in the form of its JSON.
async fn table(app: &TestApp, query: &str) -> Vec<Value> {
    let reply = app.get(&format!("/admin/usage?{query}&format=csv"), ADMIN_KEY).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("text/csv; charset=utf-8"));
    assert_eq!(reply.header("content-disposition"), Some("attachment; filename=\"usage.csv\""));
    let bearer = format!("Bearer {ADMIN_KEY}");
    let headers = [("authorization", &*bearer), ("accept", "text/csv")];
    let accepted = app.send_with(Method::GET, &format!("/admin/usage?{query}"), &headers, "").await;
    assert_eq!(accepted.text(), reply.text(), "`Accept` asks for a table as well");
    let mut reader = csv::Reader::from_reader(reply.body.as_ref());
    let headings = reader.headers().unwrap().clone();
    let value = |heading: &str, text: &str| match heading {
        sum if SUMS.contains(&sum) => json!(text.parse::<i64>().unwrap()),
        "key_id" | "node" | "group_id" if text.is_empty() => Value::Null,
        _ => json!(text),
    };
    let object = |record: csv::StringRecord| {
        let fields = headings.iter().zip(record.iter());
        fields
            .map(|(heading, text)| (heading.to_owned(), value(heading, text)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    reader.records().map(|record| object(record.unwrap())).collect()
}

/// Every report of one or two dimensions, and of all, agrees with the rows of the database.
async fn all_agree(app: &TestApp, db: &DatabaseConnection) {
    let rows = Entity::find().all(db).await.unwrap();
    let mut reports: Vec<Vec<&str>> = vec![DIMENSIONS.to_vec()];
    for (index, one) in DIMENSIONS.iter().enumerate() {
        reports.push(vec![one]);
        reports.extend(DIMENSIONS[..index].iter().map(|other| vec![*one, *other]));
    }
    for group_by in reports {
        let query = format!("group_by={}", group_by.join(","));
        let (groups, total) = report(app, &query, 1000).await;
        let (expected_groups, expected_total) = expected(&rows, &group_by);
        assert_eq!(table(app, &query).await, groups, "{query}");
        assert_eq!(sorted(groups), sorted(expected_groups), "{query}");
        assert_eq!(total, expected_total, "{query}");
    }
}

#[actix_rt::test]
async fn a_report_is_what_the_rows_of_every_ending_add_up_to() {
    for database in TestDatabase::each().await {
        let db = operator(&database.url).await;
        let simulated = SimNode::start(SimConfig { tokens_per_second: 300.0, ..SimConfig::warm() }).await.unwrap();
        let app = spawn_app_with(vec![node("a", simulated.url(), 4)], database, |_| {}).await;
        let (ann, bob) = (app.user("ann").await, app.user_with("bob", json!({"requests_per_minute": 2})).await);
        let second = app.post("/admin/users/ann/keys", ADMIN_KEY, json!({"name": "second"})).await.json();
        let second = second["api_key"].as_str().unwrap();
        for turn in 1..4 {
            app.chat(&ann, "llama3.2", &format!("[[n={turn}]] hi")).await;
            app.chat(second, "llama3.2:1b", "[[n=2]] hi").await;
            app.chat(&bob, "llama3.2", "[[n=2]] hi").await;
        }
        let mut left = app.open_stream(&ann, &stream_body("llama3.2", "[[n=3000]] hi")).await;
        left.next().await.unwrap();
        drop(left);
        app.rows_once(&ann, 7).await;
        // Who asks sees their own last request.
        let before = report(&app, "user=ann", 10).await.1["requests"].as_i64().unwrap();
        app.chat(&ann, "llama3.2", "[[n=1]] hi").await;
        assert_eq!(report(&app, "user=ann", 10).await.1["requests"], before + 1);
        simulated.fault_next([Fault::Status(500), Fault::Status(500), Fault::Status(500)]);
        assert_eq!(app.chat(&ann, "llama3.2", "hi").await.status, 502);

        let (statuses, _) = report(&app, "group_by=status", 10).await;

        let names: Vec<&str> = statuses.iter().map(|group| group["status"].as_str().unwrap()).collect();
        assert_eq!(names, ["cancelled", "completed", "refused", "upstream_error"]);
        assert_eq!((&statuses[2]["requests"], &statuses[2]["refused"]), (&json!(0), &json!(1)));
        all_agree(&app, &db).await;
        db.close().await.unwrap();
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_report_can_be_narrowed_and_is_paged_in_the_order_of_its_groups() {
    for database in TestDatabase::each().await {
        let db = operator(&database.url).await;
        let app = app_on(database).await;
        let (mut numbers, day) = (Numbers(7), 20_000);
        let rows: Vec<Model> = (0..400).map(|turn| numbers.row(day + turn % 5)).collect();
        insert(&db, &rows).await;
        all_agree(&app, &db).await;

        type Keeps = fn(&Model) -> bool;
        let filters: [(&str, Keeps); 9] = [
            ("user=ann", |row| row.user_id == "ann"),
            ("key=key_1", |row| row.key_id.as_deref() == Some("key_1")),
            ("key=", |row| row.key_id.is_none()),
            ("model=a,%22b%22", |row| row.model == "a,\"b\""),
            ("node=", |row| row.node.is_none()),
            ("node=a&user=bob", |row| row.node.as_deref() == Some("a") && row.user_id == "bob"),
            ("from=2024-10-05", |row| row.day >= 20_001),
            ("to=2024-10-06T00:00:00Z", |row| row.day < 20_002),
            ("from=2024-10-05&to=2024-10-06T05:30:00%2B05:30", |row| row.day == 20_001),
        ];
        for (filter, keeps) in filters {
            let kept: Vec<Model> = rows.iter().filter(|row| keeps(row)).cloned().collect();
            assert!(!kept.is_empty(), "{filter}");
            for group_by in [&["user"][..], &["day", "node", "key"], &["user", "model"], &["key", "user", "day"]] {
                let query = format!("{filter}&group_by={}", group_by.join(","));
                let (groups, total) = report(&app, &query, 7).await;
                let (expected_groups, expected_total) = expected(&kept, group_by);
                assert_eq!((sorted(groups.clone()), total), (sorted(expected_groups), expected_total), "{query}");
                let place =
                    |group: &Value| group_by.iter().map(|name| group[field(name)].to_string()).collect::<Vec<_>>();
                // Null sorts as nothing.
                let order =
                    |group: &Value| place(group).into_iter().map(|text| text.replace("null", "")).collect::<Vec<_>>();
                assert!(groups.iter().map(order).is_sorted(), "{query}");
            }
        }
        let (by_user, _) = report(&app, filters[0].0, 10).await;
        assert_eq!((by_user.len(), &by_user[0]["user_id"]), (1, &json!("ann")), "by user unless asked otherwise");
        for empty in ["user=nobody", "from=2999-01-01", "from=2024-10-06&to=2024-10-05"] {
            assert_eq!(report(&app, empty, 10).await, (Vec::new(), nothing()), "{empty}");
            assert!(table(&app, empty).await.is_empty());
        }
        db.close().await.unwrap();
        app.stop().await;
    }
}

/// Users and keys are found one by one, and only those of the page: nobody is left out and nobody comes twice, wherever a
/// page ends, and whoever is in between without usage in the report.
#[actix_rt::test]
async fn pages_of_users_and_keys_are_whole_wherever_they_end() {
    for database in TestDatabase::each().await {
        let db = operator(&database.url).await;
        let app = app_on(database).await;
        let (mut numbers, day) = (Numbers(11), 20_000);
        let mut rows: Vec<Model> = (0..600).map(|turn| numbers.row(day + turn % 3)).collect();
        for row in &mut rows {
            let user = numbers.below(40);
            row.user_id = format!("user {user}");
            row.key_id = (user % 5 > 0).then(|| format!("key_{user}_{}", numbers.below(2)));
            // Every third has used something, but at another time.
            row.day = if user % 3 == 0 { day + 9 } else { row.day };
        }
        insert(&db, &rows).await;

        for (filter, model) in [("", None), ("&model=m", Some("m")), ("&model=nothing", Some("nothing"))] {
            let is_in = |row: &&Model| row.day < day + 3 && model.is_none_or(|model| row.model == model);
            let kept: Vec<Model> = rows.iter().filter(is_in).cloned().collect();
            for group_by in [&["user"][..], &["user", "model"], &["user", "key"], &["key"], &["key", "status", "user"]]
            {
                for limit in [1, 2, 5, 30] {
                    let query =
                        format!("group_by={}&from={}&to={}{filter}", group_by.join(","), date(day), date(day + 3));
                    let (groups, total) = report(&app, &query, limit).await;
                    let (expected_groups, expected_total) = expected(&kept, group_by);
                    assert_eq!((sorted(groups), total), (sorted(expected_groups), expected_total), "{query}, {limit}");
                }
            }
        }
        db.close().await.unwrap();
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_table_of_many_pages_is_whole() {
    for database in TestDatabase::each().await {
        let db = operator(&database.url).await;
        let app = app_on(database).await;
        let mut numbers = Numbers(3);
        let mut rows: Vec<Model> = (0..11_000).map(|_| numbers.row(20_000)).collect();
        rows.iter_mut().enumerate().for_each(|(index, row)| row.user_id = format!("user-{index}"));
        insert(&db, &rows).await;

        let groups = table(&app, "group_by=user").await;

        assert_eq!(sorted(groups), sorted(expected(&rows, &["user"]).0));
        db.close().await.unwrap();
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_question_that_no_report_answers_is_400_and_names_the_field() {
    let app = app_on(TestDatabase::sqlite()).await;
    let db = operator(&app.database.as_ref().unwrap().url).await;
    insert(&db, &[Numbers(1).row(20_000), Numbers(2).row(20_001)]).await;
    let cursor =
        app.get("/admin/usage?group_by=day&limit=1", ADMIN_KEY).await.json()["next"].as_str().unwrap().to_owned();
    for (query, param) in [
        ("group_by=", "group_by"),
        ("group_by=user,", "group_by"),
        ("group_by=user,user", "group_by"),
        ("group_by=users", "group_by"),
        ("from=yesterday", "from"),
        ("from=2026-11-25T10:00:00Z", "from"),
        ("to=2026-11-25T00:00:00%2B01:00", "to"),
        ("format=xml", "format"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("after=nonsense", "after"),
        (&format!("after={cursor}"), "after"),
        (&format!("group_by=day,user&after={cursor}"), "after"),
        ("format=csv&limit=5", "limit"),
        (&format!("format=csv&group_by=day&after={cursor}"), "after"),
        ("user=%00", "user"),
    ] {
        let error = error_of(&app.get(&format!("/admin/usage?{query}"), ADMIN_KEY).await, 400);
        assert_eq!(error["param"], param, "{query}: {error}");
        if param == "group_by" {
            let message = error["message"].as_str().unwrap();
            assert!(DIMENSIONS.iter().all(|name| message.contains(&format!("`{name}`"))), "{message}");
        }
    }
    error_of(&app.get("/admin/usage?groupby=user", ADMIN_KEY).await, 400);
    db.close().await.unwrap();
    app.stop().await;
}

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
