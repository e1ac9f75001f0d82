//! Rows of every ending, and what reports must make of them.
use std::collections::BTreeMap;

use awc::http::Method;
use entity::usage::{ActiveModel, Entity, Model};
use sea_orm::{Database, DatabaseConnection, EntityTrait, IntoActiveModel, NotSet};
use serde_json::{Value, json};
use time::{Date, OffsetDateTime};

use crate::harness::{ADMIN_KEY, TestApp, TestDatabase, node, spawn_app_with};

pub(crate) const SUMS: [&str; 10] = [
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
pub(crate) const DIMENSIONS: [&str; 7] = ["user", "key", "model", "node", "day", "status", "group"];
pub(crate) const DAY_MS: i64 = 86_400_000;

/// Somebody else who opens the database, or makes its file.
pub(crate) async fn operator(url: &str) -> DatabaseConnection {
    let making = if url.starts_with("sqlite") { "?mode=rwc" } else { "" };
    Database::connect(format!("{url}{making}")).await.unwrap()
}

/// A gateway whose only node is not there.
pub(crate) async fn app_on(database: TestDatabase) -> TestApp {
    spawn_app_with(vec![node("gone", "http://127.0.0.1:1".to_owned(), 1)], database, |_| {}).await
}

pub(crate) async fn wrong_sums(app: &TestApp) -> f64 {
    let text = app.send(awc::http::Method::GET, "/metrics", None, "").await.text().to_owned();
    text.lines().find_map(|line| line.strip_prefix("gateway_usage_rollup_mismatches ")?.parse().ok()).unwrap()
}

pub(crate) fn today() -> i32 {
    i32::try_from(OffsetDateTime::now_utc().unix_timestamp() / 86_400).unwrap()
}

pub(crate) fn date(day: i32) -> String {
    Date::from_julian_day(2_440_588 + day).unwrap().to_string()
}

/// Numbers that look random and are the same each time.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    pub(crate) fn one_of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len() as u64) as usize]
    }

    pub(crate) fn some(&mut self, bound: u64) -> Option<i64> {
        (self.below(3) > 0).then(|| self.below(bound) as i64)
    }

    /// An id of a request that arrived on this day, as real ones begin with the time.
    pub(crate) fn id(&mut self, day: i32) -> uuid::Uuid {
        let seconds = u64::try_from(day).unwrap() * 86_400 + self.below(86_400);
        uuid::Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, 0))
    }

    /// A row of this day.
    pub(crate) fn row(&mut self, day: i32) -> Model {
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
pub(crate) fn without_reason(row: &Model) -> ActiveModel {
    let mut row = row.clone().into_active_model();
    row.code = NotSet;
    row.limit_name = NotSet;
    row.http_status = NotSet;
    row.requests = NotSet;
    row.group_id = NotSet;
    row
}

pub(crate) async fn insert(db: &DatabaseConnection, rows: &[Model]) {
    for part in rows.chunks(500) {
        let part = part.iter().cloned().map(IntoActiveModel::into_active_model);
        Entity::insert_many(part).on_conflict_do_nothing().exec_without_returning(db).await.unwrap();
    }
}

/// Where a row stands in a dimension, as a report shows it.
pub(crate) fn label(row: &Model, dimension: &str) -> Value {
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

pub(crate) fn field(dimension: &str) -> &str {
    match dimension {
        "user" => "user_id",
        "key" => "key_id",
        "group" => "group_id",
        other => other,
    }
}

pub(crate) fn add(sums: &mut Value, row: &Model) {
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

pub(crate) fn nothing() -> Value {
    SUMS.iter().map(|sum| ((*sum).to_owned(), json!(0))).collect::<serde_json::Map<_, _>>().into()
}

/// What a report over these rows must say: its groups, in any order, and the total.
pub(crate) fn expected(rows: &[Model], group_by: &[&str]) -> (Vec<Value>, Value) {
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

pub(crate) fn sorted(mut groups: Vec<Value>) -> Vec<Value> {
    groups.sort_by_key(ToString::to_string);
    groups
}

/// A report, page by page: its groups in their order, and the total.
pub(crate) async fn report(app: &TestApp, query: &str, limit: usize) -> (Vec<Value>, Value) {
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
pub(crate) async fn table(app: &TestApp, query: &str) -> Vec<Value> {
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
pub(crate) async fn all_agree(app: &TestApp, db: &DatabaseConnection) {
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
