//! Which requests leave an entry in the audit log? Each one of an administrator's that may change something, however it ends.
use std::sync::Arc;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpMessage, HttpRequest};
use serde_json::Value;
use uuid::Uuid;

use super::admin::rules::{Rule, target_of};
use crate::relay::Meters;
use crate::store::{AuditDraft, Store};

/// What goes by these names is a secret, or may hold one.
const SECRET: [&str; 7] = ["api_key", "key", "password", "username", "headers", "token", "pepper"];
const HIDDEN: &str = "(hidden)";

/// Lets a request go on, and has the audit log say how it ended, if it is one for it.
pub(super) async fn carry<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
    id: Uuid,
) -> Result<ServiceResponse<B>, Error> {
    let Some((draft, store)) = draft_of(&request, id) else { return next.call(request).await };
    request.extensions_mut().insert(draft.clone());
    let response = draft.clone().carry(next.call(request)).await?;
    // Boxed, because every request has room for this future, and few need it.
    if let Err(error) = Box::pin(store.end_audited(&draft, response.status().as_u16())).await {
        tracing::error!(request_id = %id, %error, "how a change by an administrator ended could not be written to the audit log");
    }
    Ok(response)
}

fn draft_of(request: &ServiceRequest, id: Uuid) -> Option<(Arc<AuditDraft>, Data<Store>)> {
    if !request.path().starts_with("/admin/") || request.method() == Method::GET {
        return None;
    }
    let route = request.match_pattern()?;
    let store = request.app_data::<Data<Store>>()?.clone();
    let at_ms = request.app_data::<Data<Meters>>()?.clock.now().unix_ms;
    let method = request.method().as_str();
    let target = target_of(&route, request.path());
    let status = Rule::of(request.method(), &route).status;
    Some((AuditDraft::new(id, at_ms, (method, &route, target), status), store))
}

/// The entry that a request leaves, if it leaves one.
pub(super) fn draft(request: &HttpRequest) -> Option<Arc<AuditDraft>> {
    request.extensions().get::<Arc<AuditDraft>>().cloned()
}

/// Has the entry say what a body asks for, without its secrets.
pub(super) fn note_body(draft: Option<Arc<AuditDraft>>, body: &[u8]) {
    let Some(draft) = draft else { return };
    if let Ok(asked @ Value::Object(_)) = serde_json::from_slice(body) {
        draft.asks(without_secrets(asked));
    }
}

/// A value without what is secret in it.
pub(super) fn without_secrets(mut value: Value) -> Value {
    match &mut value {
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                *member = match SECRET.contains(&name.as_str()) && !member.is_null() {
                    true => HIDDEN.into(),
                    false => without_secrets(member.take()),
                };
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| *value = without_secrets(value.take())),
        Value::String(text) => {
            if let Some(plain) = without_password(text) {
                *text = plain;
            }
        }
        _ => {}
    }
    value
}

/// A URL without what stands before its host; `None` where nothing does.
fn without_password(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (secret, _) = authority.rsplit_once('@')?;
    Some(format!("{scheme}://{HIDDEN}{}", &rest[secret.len()..]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_secret_is_hidden_wherever_it_stands() {
        let asked = json!({
            "name": "a", "url": "http://ann:geheim@host:1/x@y", "api_key": "geheim", "password": null,
            "nodes": [{"headers": {"x-token": "geheim"}, "slots": 2}], "username": "geheim",
        });
        let shown = without_secrets(asked);
        assert!(!shown.to_string().contains("geheim"), "{shown}");
        assert_eq!(shown["url"], "http://(hidden)@host:1/x@y");
        assert_eq!((&shown["password"], &shown["nodes"][0]["slots"]), (&Value::Null, &json!(2)));
        assert_eq!(without_secrets(json!("http://host/a@b")), json!("http://host/a@b"));
    }
}
