//! Which name does one node use for a request's model? It is put into the body at the last moment.
use bytes::Bytes;

use super::json::{Object, Splices, span};

/// The body with this model in it; `None` if the body names no model.
pub fn with_model(body: &Bytes, model: &str) -> Option<Bytes> {
    let object = Object::parse(body).ok()?;
    let mut splices = Splices::default();
    splices.replace(span(body, object.get("model")?), serde_json::to_string(model).ok()?);
    let mut renamed = Vec::with_capacity(body.len() + model.len());
    splices.apply(body, &mut renamed);
    Some(renamed.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_model_changes() {
        let body = Bytes::from_static(br#"{ "x":{"model":"y"}, "model" : "llama3.2", "messages":[1.0,  2]}"#);
        let renamed = with_model(&body, "meta-llama/Llama \"3\"").unwrap();
        assert_eq!(renamed, r#"{ "x":{"model":"y"}, "model" : "meta-llama/Llama \"3\"", "messages":[1.0,  2]}"#);
        assert_eq!(with_model(&Bytes::from_static(b"{}"), "m"), None);
        assert_eq!(with_model(&Bytes::from_static(b"["), "m"), None);
    }
}
