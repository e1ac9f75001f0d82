//! May users manage their own keys, and what does a key say of limits?
use awc::http::Method;
use serde_json::{Value, json};

use crate::harness::{ADMIN_KEY, Reply, TestApp, TestDatabase, error_of, fast_node, node, spawn_app_with};

async fn app_on(database: TestDatabase, self_service: bool) -> (ollama_sim::SimNode, TestApp) {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 2)], database, |config| {
        config.keys.self_service = self_service;
        config.models.aliases.insert("small".to_owned(), "llama3.2".to_owned());
    })
    .await;
    (simulated, app)
}

async fn make(app: &TestApp, key: &str, body: Value) -> Reply {
    app.post("/v1/me/keys", key, body).await
}

#[actix_rt::test]
async fn users_manage_their_own_keys_where_the_operator_allows_it() {
    for database in TestDatabase::each().await {
        let (_simulated, app) = app_on(database, true).await;
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);

        let made = make(&app, &ann, json!({"name": "laptop", "requests_per_minute": 5})).await;

        assert_eq!(made.status, 201, "{}", made.text());
        let (id, laptop) = (made.json()["id"].as_str().unwrap().to_owned(), made.json()["api_key"].clone());
        let laptop = laptop.as_str().unwrap();
        assert_eq!((&made.json()["requests_per_minute"], &made.json()["warnings"]), (&json!(5), &json!([])));
        assert_eq!(app.chat(laptop, "llama3.2", "hi").await.status, 200);
        let listed = app.get("/v1/me/keys", &ann).await.json();
        let names: Vec<&Value> = listed["data"].as_array().unwrap().iter().map(|key| &key["name"]).collect();
        assert_eq!(names, ["default", "laptop"]);
        assert!(!listed.to_string().contains(laptop));

        for (field, body) in [
            ("requests_per_minute", json!({"requests_per_minute": 6})),
            ("requests_per_minute", json!({"requests_per_minute": null})),
        ] {
            let error = error_of(&make(&app, laptop, body).await, 403);
            assert!(error["message"].as_str().unwrap().contains(field), "{error}");
        }
        assert_eq!(make(&app, laptop, json!({})).await.json()["requests_per_minute"], 5);

        let path = format!("/v1/me/keys/{id}");
        error_of(&app.delete(&path, &bob).await, 404);
        assert_eq!(app.delete(&path, &ann).await.json(), json!({"id": id, "deleted": true}));
        error_of(&app.chat(laptop, "llama3.2", "hi").await, 401);
        app.stop().await;
    }
}

#[actix_rt::test]
async fn without_the_operators_leave_nobody_manages_own_keys() {
    let (_simulated, app) = app_on(TestDatabase::sqlite(), false).await;
    let ann = app.user("ann").await;
    for (method, path) in
        [(Method::GET, "/v1/me/keys"), (Method::POST, "/v1/me/keys"), (Method::DELETE, "/v1/me/keys/key_1")]
    {
        let error = error_of(&app.send(method, path, Some(&ann), "{}").await, 403);
        assert_eq!(error["code"], "not_allowed", "{error}");
    }
    app.stop().await;
}

#[actix_rt::test]
async fn no_two_keys_of_a_user_have_one_name_and_models_that_nobody_has_are_pointed_out() {
    for database in TestDatabase::each().await {
        let (_simulated, app) = app_on(database, false).await;
        app.user("ann").await;
        app.user("bob").await;
        let make =
            async |user: &str, body: Value| app.post(&format!("/admin/users/{user}/keys"), ADMIN_KEY, body).await;
        let made = make("ann", json!({"name": "laptop", "allowed_models": ["llama3.2", "small", "lama3.2"]})).await;
        assert_eq!(
            made.json()["warnings"],
            json!(["No node has the model `lama3.2`, and no alias is called so."]),
            "{}",
            made.text()
        );
        assert_eq!(error_of(&make("ann", json!({"name": "laptop"})).await, 409)["code"], "already_exists");
        error_of(&make("ann", json!({"name": "default"})).await, 409);
        assert_eq!(make("bob", json!({"name": "laptop"})).await.status, 201, "of another user");
        // Whoever gives no name gets one that is free.
        assert_eq!(make("ann", json!({})).await.json()["name"], "default-2");

        let path = format!("/admin/users/ann/keys/{}", made.json()["id"].as_str().unwrap());
        let change = async |body: Value| app.send(Method::PATCH, &path, Some(ADMIN_KEY), body.to_string()).await;
        error_of(&change(json!({"name": "default-2"})).await, 409);
        assert_eq!(change(json!({"name": "laptop"})).await.status, 200, "its own name is no other's");
        assert_eq!(change(json!({"name": null})).await.json()["name"], "default-3");
        assert_eq!(change(json!({"allowed_models": ["qwen"]})).await.json()["warnings"].as_array().unwrap().len(), 1);
        app.stop().await;
    }
}

#[actix_rt::test]
async fn whoever_is_refused_reads_whose_limit_it_is_and_finds_it_in_the_account_and_the_row() {
    for database in TestDatabase::each().await {
        let (_simulated, app) = app_on(database, false).await;
        let ann = app.user_with("ann", json!({"tokens_per_day": 100_000})).await;
        let path = "/admin/users/ann/keys";
        let made = app.post(path, ADMIN_KEY, json!({"name": "laptop", "requests_per_minute": 1})).await.json();
        let laptop = made["api_key"].as_str().unwrap();
        let used = app.chat(laptop, "llama3.2", "hi").await.json()["usage"]["total_tokens"].clone();

        let error = error_of(&app.chat(laptop, "llama3.2", "hi").await, 429);

        let message = error["message"].as_str().unwrap();
        assert!(
            message.starts_with("Rate limit reached: 1 requests per minute for your key `laptop`, all of them used"),
            "{message}"
        );
        let me = app.get("/v1/me", laptop).await.json();
        let standing = |of: &str, limit: &str| {
            let found = me["limits"].as_array().unwrap().iter().find(|it| it["of"] == of && it["limit"] == limit);
            found.unwrap_or_else(|| panic!("{of} {limit}: {me}")).clone()
        };
        let requests = standing("key", "requests_per_minute");
        assert_eq!((&requests["name"], &requests["used"], &requests["left"]), (&json!("laptop"), &json!(1), &json!(0)));
        assert!((1..=60_000).contains(&requests["resets_in_ms"].as_u64().unwrap()), "{requests}");
        let tokens = standing("user", "tokens_per_day");
        assert_eq!((&tokens["name"], &tokens["allowed"], &tokens["used"]), (&json!("ann"), &json!(100_000), &used));
        assert_eq!(tokens["reserved"], 0);
        assert!(tokens["resets_in_ms"].as_u64().unwrap() <= 86_400_000, "{tokens}");
        assert_eq!(app.get("/v1/me", &ann).await.json()["limits"].as_array().unwrap().len(), 1);
        assert_eq!(app.rows(&ann).await[0]["limit"], "key.requests_per_minute");
        app.stop().await;
    }
}
