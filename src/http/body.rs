//! Reads a request's body whole: not larger than the limit, and not slower than a client has reason to be.
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use actix_web::web::{Bytes, BytesMut, Data};
use actix_web::{FromRequest, HttpRequest};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::ApiError;
use super::settings::ServerSettings;

/// A whole body.
#[derive(Clone, Debug)]
pub struct FullBody(pub Bytes);

impl FromRequest for FullBody {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let settings = request.app_data::<Data<ServerSettings>>().cloned();
        let headers = request.headers();
        let encoded = headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity");
        let promised = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        let payload = payload.take();
        Box::pin(async move {
            let settings = settings.ok_or_else(|| ApiError::internal("The service is not set up completely."))?;
            if encoded {
                return Err(ApiError::encoded_body());
            }
            let limit = settings.max_body_bytes;
            if promised.is_some_and(|promised| promised > limit) {
                return Err(ApiError::body_too_large(limit));
            }
            let deadline = Duration::from_secs(settings.body_seconds);
            match tokio::time::timeout(deadline, read(payload, limit, promised.unwrap_or(0))).await {
                Ok(body) => body.map(Self),
                Err(_) => Err(ApiError::body_too_slow()),
            }
        })
    }
}

/// A whole body that is a JSON object with the fields of `T`.
#[derive(Clone, Debug)]
pub struct JsonObject<T>(pub T);

impl<T: DeserializeOwned + 'static> FromRequest for JsonObject<T> {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let reading = FullBody::from_request(request, payload);
        Box::pin(async move { parse(&reading.await?.0).map(Self) })
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // serde would also take a list of the values in the order of the fields.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(ApiError::invalid("The body must be a JSON object."));
    }
    serde_json::from_slice(body).or_else(|error| {
        // `5.0` is a whole number to JSON, and none to serde.
        let floating = error.to_string().starts_with("invalid type: floating point");
        let plain = floating.then(|| serde_json::from_slice(body).ok().map(with_plain_numbers)).flatten();
        plain
            .and_then(|value| serde_json::from_value(value).ok())
            .ok_or_else(|| ApiError::invalid(format!("The body is not what is expected here: {error}")))
    })
}

fn with_plain_numbers(mut value: Value) -> Value {
    match &mut value {
        Value::Number(number) => {
            let float = number.as_f64().filter(|float| float.fract() == 0.0 && number.is_f64());
            // As far as every whole number is a float.
            if let Some(float) = float.filter(|float| (0.0..9e15).contains(float)) {
                value = (float as u64).into();
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| *value = with_plain_numbers(value.take())),
        Value::Object(members) => members.values_mut().for_each(|value| *value = with_plain_numbers(value.take())),
        _ => {}
    }
    value
}

async fn read(mut payload: Payload, limit: usize, promised: usize) -> Result<Bytes, ApiError> {
    let mut whole = BytesMut::new();
    while let Some(part) = payload.next().await {
        let part = part.map_err(|error| ApiError::invalid(format!("The request's body could not be read: {error}")))?;
        if whole.len() + part.len() > limit {
            return Err(ApiError::body_too_large(limit));
        }
        if whole.is_empty() && part.len() == promised {
            // The usual case, which needs no copy.
            return Ok(part);
        }
        whole.extend_from_slice(&part);
    }
    Ok(whole.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Limits {
        requests: Option<u32>,
        tokens: Vec<u64>,
    }

    #[test]
    fn whole_numbers_count_however_they_are_written() {
        let read = |body: &str| parse::<Limits>(body.as_bytes()).map_err(|error| error.to_string());
        let good = Limits { requests: Some(100), tokens: vec![5, 7] };
        assert_eq!(read(r#"{"requests":1e2,"tokens":[5.0,7]}"#), Ok(good));
        for bad in
            [r#"{"requests":1.5,"tokens":[]}"#, r#"{"requests":-1.0,"tokens":[]}"#, r#"{"requests":1e99,"tokens":[]}"#]
        {
            assert!(read(bad).is_err_and(|error| error.contains("line 1")), "{bad}");
        }
    }
}
