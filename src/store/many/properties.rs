//! Do rows and names reach both databases as they are?
use entity::{key, key_digest, usage, user};
use sea_orm::sea_query::OnConflict;
use sea_orm::{ConnectionTrait, DatabaseBackend, DatabaseConnection, EntityTrait, QueryFilter, QueryTrait};
use uuid::Uuid;

use super::{insertion, is_any, is_any_id};
use crate::store::scratch::Scratch;

/// What JSON, SQL and parameters might take for something else.
const ODD: &str = "it's \"odd\" \\ \\u0041 {} [] ? $1 :a\n\t\u{1} ü \u{1F600} null";

fn user(id: &str) -> user::Model {
    user::Model {
        id: id.to_owned(),
        created_at_ms: i64::MAX,
        requests_per_minute: None,
        tokens_per_day: Some(0),
        tokens_per_minute: Some(i64::MIN),
        max_concurrency: Some(1),
        weight_millis: 1_000,
        suspended_at_ms: None,
        display_name: Some(ODD.to_owned()),
        email: Some(String::new()),
        note: None,
        generation: 9_007_199_254_740_993,
        last_seen_ms: None,
        group_id: None,
    }
}

fn row(user: &str) -> usage::Model {
    usage::Model {
        request_id: Uuid::now_v7(),
        user_id: user.to_owned(),
        key_id: None,
        created_at_ms: 1_790_000_000_000,
        day: 20_717,
        model: ODD.to_owned(),
        endpoint: "/v1/chat/completions".to_owned(),
        node: Some("true".to_owned()),
        stream: true,
        status: "completed".to_owned(),
        prompt_tokens: 9_007_199_254_740_993,
        completion_tokens: 1,
        tokens_from: "reported".to_owned(),
        attempts: 1,
        queue_ms: 0,
        time_to_first_token_ms: None,
        duration_ms: 1,
        load_ms: Some(-1),
        prefill_ms: None,
        decode_ms: None,
        code: None,
        limit_name: None,
        http_status: Some(200),
        requests: 1,
        group_id: Some("7".to_owned()),
    }
}

async fn put<E: EntityTrait>(db: &DatabaseConnection, rows: &[E::Model]) -> u64 {
    let mut insert = insertion::<E>(db.get_database_backend(), rows).unwrap();
    db.execute(insert.on_conflict(OnConflict::new().do_nothing().to_owned())).await.unwrap().rows_affected()
}

async fn check(db: &DatabaseConnection) {
    let backend = db.get_database_backend();
    let users = [user("ann"), user(ODD), user("7")];
    assert_eq!(put::<user::Entity>(db, &users).await, 3);
    assert_eq!(put::<user::Entity>(db, &users).await, 0, "they are there");
    let named = is_any(user::Column::Id, backend, ["7", ODD, "nobody"]);
    let mut found = user::Entity::find().filter(named).all(db).await.unwrap();
    found.sort_by_key(|user| user.id != ODD);
    assert_eq!(found, [user(ODD), user("7")]);

    let key = key::Model {
        id: "k".to_owned(),
        user_id: "ann".to_owned(),
        name: ODD.to_owned(),
        created_at_ms: 1,
        expires_at_ms: None,
        allowed_models: Some("[\"a\"]".to_owned()),
        requests_per_minute: None,
        tokens_per_minute: None,
        tokens_per_day: None,
        max_concurrency: None,
        last_used_ms: None,
    };
    assert_eq!(put::<key::Entity>(db, std::slice::from_ref(&key)).await, 1);
    assert_eq!(key::Entity::find().all(db).await.unwrap(), [key]);
    let digest = |first: u8| key_digest::Model {
        digest: std::iter::once(first).chain(1..32).collect(),
        digest_version: 1,
        pepper: None,
        key_id: "k".to_owned(),
        last_four: "abcd".to_owned(),
        created_at_ms: 1,
        expires_at_ms: Some(2),
    };
    assert_eq!(put::<key_digest::Entity>(db, &[digest(0), digest(255)]).await, 2);
    let mut found = key_digest::Entity::find().all(db).await.unwrap();
    found.sort_by_key(|digest| digest.digest.clone());
    assert_eq!(found, [digest(0), digest(255)]);

    let rows: Vec<_> = (0..1_000).map(|_| row("ann")).collect();
    assert_eq!(put::<usage::Entity>(db, &rows).await, 1_000);
    let wanted = [rows[0].request_id, rows[999].request_id, Uuid::now_v7()];
    let wanted = is_any_id(usage::Column::RequestId, backend, wanted);
    let mut found = usage::Entity::find().filter(wanted).all(db).await.unwrap();
    found.sort_by_key(|row| row.request_id);
    assert_eq!(found, [rows[0].clone(), rows[999].clone()]);
}

#[actix_rt::test]
async fn rows_come_back_as_they_were() {
    for scratch in Scratch::each().await {
        check(&scratch.db).await;
        scratch.remove().await;
    }
}

#[test]
fn the_text_is_the_same_for_any_number() {
    for backend in [DatabaseBackend::Sqlite, DatabaseBackend::Postgres] {
        let text_of = |rows: &[usage::Model]| backend.build(&insertion::<usage::Entity>(backend, rows).unwrap()).sql;
        assert_eq!(text_of(&[row("a")]), text_of(&[row("b"), row("c"), row("d")]));
        let text_of =
            |names: &[&str]| user::Entity::find().filter(is_any(user::Column::Id, backend, names)).build(backend).sql;
        assert_eq!(text_of(&[]), text_of(&["a", "b"]));
        let text_of = |number| {
            let ids = (0..number).map(Uuid::from_u128);
            usage::Entity::find().filter(is_any_id(usage::Column::RequestId, backend, ids)).build(backend).sql
        };
        assert_eq!(text_of(0), text_of(9));
    }
}
