//! Unpacks the bodies of requests that come compressed.
//!
//! The limit holds for the unpacked size. As a kilobyte can unpack to a gigabyte, a body is unpacked piece by piece, and
//! abandoned as soon as it exceeds the limit or the free memory.
use std::io::{self, Read};

use actix_web::http::header::{CONTENT_ENCODING, HeaderMap};
use actix_web::web::Bytes;
use flate2::bufread::MultiGzDecoder;

use super::error::ApiError;

/// Bytes that are unpacked in one go.
const PIECE: usize = 64 * 1024;
/// After this many pieces, unpacking yields to the other requests of the thread.
const PIECES_A_TURN: usize = 16;
/// Largest window of a Zstandard body, as a power of two: 8 MiB, which RFC 8878 recommends that decoders support.
const ZSTD_WINDOW_LOG: u32 = 23;

/// A compression that request bodies may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Zstd,
}

impl Coding {
    /// The coding that the headers name; `None` if the body is not compressed.
    ///
    /// # Errors
    /// 415 for any other coding, and for more than one.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let mut found = None;
        for value in headers.get_all(CONTENT_ENCODING) {
            for name in value.to_str().unwrap_or("?").split(',').map(|name| name.trim().to_ascii_lowercase()) {
                let coding = match name.as_str() {
                    "" | "identity" => continue,
                    "gzip" | "x-gzip" => Self::Gzip,
                    "zstd" => Self::Zstd,
                    _ => return Err(ApiError::unknown_coding()),
                };
                if found.replace(coding).is_some() {
                    return Err(ApiError::unknown_coding());
                }
            }
        }
        Ok(found)
    }

    /// Unpacks a body to at most `limit` bytes. `make_room` is called with the total, bytes, before a buffer grows.
    ///
    /// # Errors
    /// 400 if the body is not in this coding, 413 if it exceeds the limit, and the errors of `make_room`.
    pub(super) async fn unpack(
        self,
        packed: Bytes,
        limit: usize,
        mut make_room: impl FnMut(usize) -> Result<(), ApiError>,
    ) -> Result<Bytes, ApiError> {
        let mut unpacking = self.decoder(&packed).map_err(|error| self.broken(&error))?;
        let mut whole = Vec::new();
        for piece in 1_usize.. {
            if whole.capacity() - whole.len() < PIECE {
                // One byte more than the limit, to tell a body that exceeds it from one that just fits.
                let capacity = (2 * whole.len()).max(2 * PIECE).min(limit + 1 + PIECE);
                make_room(packed.len() + capacity)?;
                whole.reserve_exact(capacity - whole.len());
            }
            let read = (&mut unpacking).take(PIECE as u64).read_to_end(&mut whole);
            let read = read.map_err(|error| self.broken(&error))?;
            if whole.len() > limit {
                return Err(ApiError::body_too_large(limit));
            }
            if read == 0 {
                break;
            }
            if piece % PIECES_A_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok(whole.into())
    }

    fn decoder<'a>(self, packed: &'a [u8]) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(packed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
        })
    }

    fn broken(self, error: &io::Error) -> ApiError {
        let name = match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        };
        ApiError::invalid(format!("The request's body could not be unpacked as {name}: {error}."))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use actix_web::http::header::HeaderValue;

    use super::*;

    const LIMIT: usize = 1_000_000;

    fn packed(coding: Coding, body: &[u8]) -> Bytes {
        match coding {
            Coding::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(body).unwrap();
                encoder.finish().unwrap().into()
            }
            Coding::Zstd => zstd::encode_all(body, 1).unwrap().into(),
        }
    }

    #[actix_rt::test]
    async fn a_body_comes_back_as_it_was_up_to_the_limit() {
        for coding in [Coding::Gzip, Coding::Zstd] {
            for size in [0, 1, PIECE, 3 * PIECE + 1, LIMIT] {
                let body: Vec<u8> = (0..size).map(|index| (index * index % 251) as u8).collect();
                let mut room = 0;
                let unpacked = coding.unpack(packed(coding, &body), LIMIT, |bytes| {
                    room = bytes;
                    Ok(())
                });
                assert_eq!(unpacked.await.unwrap(), body, "{coding:?} {size}");
                assert!(room >= size, "{coding:?} {size}: room was made for {room}");
            }
            let above = coding.unpack(packed(coding, &vec![b'x'; LIMIT + 1]), LIMIT, |_| Ok(()));
            assert_eq!(above.await.unwrap_err().code(), 413, "{coding:?}");
        }
    }

    #[actix_rt::test]
    async fn a_bomb_is_given_up_at_the_limit_and_where_there_is_no_room() {
        for coding in [Coding::Gzip, Coding::Zstd] {
            let bomb = packed(coding, &vec![0; 64 * LIMIT]);
            let mut most = 0;
            let unpacked = coding.unpack(bomb.clone(), LIMIT, |bytes| {
                most = bytes;
                Ok(())
            });
            assert_eq!(unpacked.await.unwrap_err().code(), 413);
            assert!(most < bomb.len() + 2 * LIMIT, "{coding:?}: {most} bytes were taken");
            let full = |bytes| if bytes > 300_000 { Err(ApiError::body_too_large(1)) } else { Ok(()) };
            assert!(coding.unpack(bomb, LIMIT, full).await.is_err());
        }
    }

    #[actix_rt::test]
    async fn what_is_no_such_body_or_breaks_off_is_the_clients_mistake() {
        for coding in [Coding::Gzip, Coding::Zstd] {
            let whole = packed(coding, &[7; 5000]);
            for body in [Bytes::from_static(b"{}"), whole.slice(..whole.len() - 3)] {
                assert_eq!(coding.unpack(body, LIMIT, |_| Ok(())).await.unwrap_err().code(), 400, "{coding:?}");
            }
        }
    }

    #[test]
    fn names_count_in_any_case_and_one_coding_is_enough() {
        let of = |names: &[&'static str]| {
            let mut headers = HeaderMap::new();
            names.iter().for_each(|name| headers.append(CONTENT_ENCODING, HeaderValue::from_static(name)));
            Coding::of(&headers).map_err(|error| error.code())
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["Identity"]), Ok(None));
        assert_eq!(of(&["GZip"]), Ok(Some(Coding::Gzip)));
        assert_eq!(of(&["x-gzip, identity"]), Ok(Some(Coding::Gzip)));
        assert_eq!(of(&["ZSTD"]), Ok(Some(Coding::Zstd)));
        for names in [&["br"][..], &["deflate"], &["gzip, gzip"], &["gzip", "zstd"]] {
            assert_eq!(of(names), Err(415), "{names:?}");
        }
    }
}
