//! Reads a whole request body, within bounds on its size, its time to arrive and the memory for all bodies.
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::web::{Bytes, Data};
use actix_web::{FromRequest, HttpRequest};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::audited;
use super::bounds;
use super::coding::Coding;
use super::error::ApiError;
use super::plain_words;
use super::settings::ServerSettings;

/// Largest body of a request that the gateway answers by itself, bytes.
const MAX_OBJECT: usize = 1024 * 1024;

/// The whole body of a request that the gateway answers by itself.
#[derive(Clone, Debug)]
pub struct FullBody(pub Bytes);

/// What a request's headers say about its body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promise {
    /// Length as sent, before unpacking; `None` if the headers do not say.
    bytes: Option<usize>,
    coding: Option<Coding>,
}

impl Promise {
    /// Reads `Content-Length` and `Content-Encoding`.
    ///
    /// # Errors
    /// 413 if the body is larger than `limit`, 415 if its coding is not supported.
    pub(super) fn of(request: &HttpRequest, limit: usize) -> Result<Self, ApiError> {
        let headers = request.headers();
        let coding = Coding::of(headers)?;
        let promised = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        match promised {
            Some(promised) if promised > limit => Err(ApiError::body_too_large(limit)),
            bytes => Ok(Self { bytes, coding }),
        }
    }

    /// The announced length, bytes; 0 if the headers do not say.
    pub(super) fn bytes(self) -> usize {
        self.bytes.unwrap_or(0)
    }

    /// Whether the body may turn out longer than `bytes`, as any compressed one may, and any of unknown length.
    pub(super) fn is_more_than(self, bytes: usize) -> bool {
        self.coding.is_some() || self.bytes.is_none_or(|promised| promised > bytes)
    }
}

impl FromRequest for FullBody {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let settings = request.app_data::<Data<ServerSettings>>().cloned();
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let settings = settings.ok_or_else(|| ApiError::internal("The service is not set up completely."))?;
            let limit = settings.max_body_bytes.min(MAX_OBJECT);
            let promise = Promise::of(&request, limit)?;
            let deadline = Duration::from_secs(settings.body_seconds);
            match tokio::time::timeout(deadline, read(payload, limit, promise, |_| Ok(()))).await {
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
        let reading = object(request, payload, b"");
        Box::pin(async move { reading.await.map(Self) })
    }
}

/// A JSON object with the fields of `T`; an empty body counts as `{}`.
#[derive(Clone, Debug)]
pub struct JsonOrNothing<T>(pub T);

impl<T: DeserializeOwned + 'static> FromRequest for JsonOrNothing<T> {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let reading = object(request, payload, b"{}");
        Box::pin(async move { reading.await.map(Self) })
    }
}

/// Reads an object, and notes it for the audit log. `if_empty` stands for an empty body.
fn object<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: &mut Payload,
    if_empty: &'static [u8],
) -> impl Future<Output = Result<T, ApiError>> + use<T> {
    let (reading, draft) = (FullBody::from_request(request, payload), audited::draft(request));
    async move {
        let body = reading.await?.0;
        audited::note_body(draft, &body);
        parse(if body.is_empty() { if_empty } else { &body })
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    bounds::check(body).map_err(|why| ApiError::invalid(format!("{why}.")))?;
    // serde would also accept an array of the fields' values in order.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(ApiError::invalid("The body must be a JSON object."));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let read = serde_path_to_error::deserialize(&mut deserializer);
    if read.is_ok() {
        // Nothing may follow the object.
        deserializer.end().map_err(|error| plain_words::of_body(".", &error))?;
    }
    read.or_else(|error| {
        // `5.0` is a whole number in JSON, but serde does not accept it as one.
        let floating = error.inner().to_string().starts_with("invalid type: floating point");
        let plain = floating.then(|| serde_json::from_slice(body).ok().map(with_plain_numbers)).flatten();
        plain
            .and_then(|value| serde_json::from_value(value).ok())
            .ok_or_else(|| plain_words::of_body(&error.path().to_string(), error.inner()))
    })
}

fn with_plain_numbers(mut value: Value) -> Value {
    match &mut value {
        Value::Number(number) => {
            let float = number.as_f64().filter(|float| float.fract() == 0.0 && number.is_f64());
            // Up to here every whole number is exact as a float.
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

/// Reads a whole body and unpacks it if necessary. `make_room` is called with the total, bytes, before a buffer grows.
pub(super) async fn read(
    payload: Payload,
    limit: usize,
    promise: Promise,
    mut make_room: impl FnMut(usize) -> Result<(), ApiError>,
) -> Result<Bytes, ApiError> {
    let sent = collect(payload, limit, promise.bytes(), &mut make_room).await?;
    match promise.coding {
        None => Ok(sent),
        Some(coding) => coding.unpack(sent, limit, make_room).await,
    }
}

async fn collect(
    mut payload: Payload,
    limit: usize,
    promised: usize,
    make_room: &mut impl FnMut(usize) -> Result<(), ApiError>,
) -> Result<Bytes, ApiError> {
    let mut whole = Vec::new();
    while let Some(part) = payload.next().await {
        let part = part.map_err(|error| ApiError::invalid(format!("The request's body could not be read: {error}")))?;
        let length = whole.len() + part.len();
        if length > limit {
            return Err(ApiError::body_too_large(limit));
        }
        if whole.is_empty() && part.len() == promised {
            // The usual case: the body came in one part, which needs no copy.
            return Ok(part);
        }
        if length > whole.capacity() {
            // The announced length is reserved at once; a longer or unannounced body doubles its buffer each time.
            let capacity = if length <= promised { promised } else { (2 * length).min(limit) };
            make_room(capacity)?;
            whole.reserve_exact(capacity - whole.len());
        }
        whole.extend_from_slice(&part);
    }
    Ok(whole.into())
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
            assert!(read(bad).is_err_and(|error| error.starts_with("`requests` must be a whole number")), "{bad}");
        }
    }
}
