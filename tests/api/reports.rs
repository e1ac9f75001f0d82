//! Do reports say what the rows add up to, however they are grouped, narrowed and paged?
use entity::usage::Model;
use ollama_sim::{Fault, SimConfig, SimNode};
use serde_json::{Value, json};

use crate::harness::{ADMIN_KEY, TestDatabase, error_of, node, spawn_app_with, stream_body};
use crate::usage_rows::{
    DIMENSIONS, Numbers, all_agree, app_on, date, expected, field, insert, nothing, operator, report, sorted, table,
};

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
