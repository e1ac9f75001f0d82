//! Mistakes in the bodies that operators and users send by hand: is the field named, in plain words?
use awc::http::Method;
use ollama_gateway::config::Config;
use ollama_gateway::http::openapi;
use serde_json::{Value, json};

use crate::harness::{ADMIN_KEY, TestDatabase, error_of, node, spawn_app_with};

/// Each route of a form: method, path, its schema's properties.
fn forms() -> Vec<(Method, String, Vec<String>)> {
    let document = serde_json::to_value(openapi::document()).unwrap();
    let mut forms = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        if !["/admin/", "/v1/me/", "/console/"].iter().any(|start| path.starts_with(start)) {
            continue;
        }
        for (method, operation) in operations.as_object().unwrap() {
            let Some(schema) = operation.pointer("/requestBody/content/application~1json/schema") else { continue };
            let mut properties = Vec::new();
            for schema in [schema].into_iter().chain(schema["oneOf"].as_array().into_iter().flatten()) {
                let named = schema["$ref"].as_str().map(|name| document.pointer(name.trim_start_matches('#')).unwrap());
                properties.extend(named.and_then(|named| named["properties"].as_object()).into_iter().flatten());
            }
            assert!(!properties.is_empty(), "{method} {path}: {schema}");
            let names = properties.into_iter().map(|(name, _)| name.clone()).collect();
            forms.push((method.to_uppercase().parse().unwrap(), path.clone(), names));
        }
    }
    forms
}

#[actix_rt::test]
async fn a_value_of_the_wrong_kind_names_its_field_on_every_route() {
    let own_keys = |config: &mut Config| config.keys.self_service = true;
    let nodes = vec![node("idle", "http://127.0.0.1:1".into(), 1)];
    let app = spawn_app_with(nodes, TestDatabase::sqlite(), own_keys).await;
    let key = app.user("ann").await;
    let forms = forms();
    assert!(forms.len() >= 15, "{forms:?}");
    for (method, path, fields) in forms {
        let by = if path.starts_with("/v1/me") { &key } else { ADMIN_KEY };
        let path = ["{id}", "{name}", "{key_id}"].iter().fold(path, |path, variable| path.replace(variable, "ann"));
        for field in fields {
            // No field takes an object of objects of objects.
            let mut body = json!({});
            body[&field] = json!({"a": {"b": {}}});
            let reply = app.send(method.clone(), &path, Some(by), body.to_string()).await;
            let error = error_of(&reply, 400);
            let param = error["param"].as_str().unwrap_or_default();
            let (message, named) = (error["message"].as_str().unwrap(), format!("`{param}` must be "));
            assert!(param == field || param.starts_with(&format!("{field}.")), "{method} {path} {field}: {error}");
            assert!(message.starts_with(&named), "{method} {path} {field}: {message}");
            for word in ["struct", "u32", "u64", "i64", "f64", "line", "column"] {
                assert!(!message.split(' ').any(|said| said == word), "{method} {path} {field}: {message}");
            }
        }
        let unknown = app.send(method.clone(), &path, Some(by), r#"{"unheard_of":1}"#).await;
        assert_eq!(error_of(&unknown, 400)["param"], "unheard_of", "{method} {path}");
        let garbled = app.send(method.clone(), &path, Some(by), "{").await;
        let error = error_of(&garbled, 400);
        assert!(error["message"].as_str().unwrap().starts_with("The body is not JSON: "), "{method} {path}: {error}");
        assert_eq!(error["param"], Value::Null);
    }
    app.stop().await;
}
