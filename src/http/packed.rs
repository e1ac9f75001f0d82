//! How does a text go out to those who take gzip, and to those who do not?
use std::io::{Read, Write};

use actix_web::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, ContentEncoding, HeaderMap, VARY};
use actix_web::web::Bytes;
use actix_web::{HttpResponse, HttpResponseBuilder};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use super::error::ApiError;

/// Sends what is kept compressed, unpacked for a client that does not take gzip.
pub(super) fn send(
    response: &mut HttpResponseBuilder,
    gzip: &'static [u8],
    headers: &HeaderMap,
) -> Result<HttpResponse, ApiError> {
    response.insert_header((VARY, "accept-encoding"));
    if takes_gzip(headers) {
        return Ok(response.insert_header((CONTENT_ENCODING, ContentEncoding::Gzip)).body(Bytes::from_static(gzip)));
    }
    let mut whole = Vec::new();
    let unpacked = GzDecoder::new(gzip).read_to_end(&mut whole);
    unpacked.map_err(|_| ApiError::internal("A file of the program is damaged."))?;
    Ok(response.body(whole))
}

/// Compresses a text. It blocks for as long as that takes.
pub(super) fn gzip(text: &[u8], level: Compression) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), level);
    encoder.write_all(text)?;
    encoder.finish()
}

/// Whether gzip is among the codings that a client accepts, and not refused by `q=0`.
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip") || name == "*");
        let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse::<f32>);
        is_gzip && quality.is_ok_and(|quality| quality > 0.0)
    })
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    #[test]
    fn gzip_goes_to_those_who_take_it() {
        for (accepted, expected) in [
            ("gzip, deflate, br, zstd", true),
            ("br, GZIP;q=0.5", true),
            ("*", true),
            ("gzip;q=0", false),
            ("identity", false),
            ("", false),
            ("gzip;q=much", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(accepted));
            assert_eq!(takes_gzip(&headers), expected, "{accepted}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}
