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

use super::Settings;
use super::error::ApiError;

/// A whole body.
#[derive(Clone, Debug)]
pub struct FullBody(pub Bytes);

impl FromRequest for FullBody {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let settings = request.app_data::<Data<Settings>>().cloned();
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
    serde_json::from_slice(body)
        .map_err(|error| ApiError::invalid(format!("The body is not what is expected here: {error}")))
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
