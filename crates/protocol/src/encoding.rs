//! Is a body text, and in which encoding? Repairs what Ollama repairs, and says what is wrong with the rest.
use bytes::{Buf, Bytes};

use super::field::BadRequest;

const REPLACEMENT: &str = "\u{fffd}";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// First bytes that are not JSON in UTF-8, and what they reveal.
const SIGNATURES: [(&[u8], &str); 9] = [
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
    (b"{\0", "UTF-16"),
    (b"\0{", "UTF-16"),
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\0\0\0{", "UTF-32"),
];

/// The body as text: without a byte order mark, and with U+FFFD for each byte that is not UTF-8 and for each escaped
/// half of a surrogate pair, as Go's decoder reads them. A body that needs no repair is not copied.
///
/// # Errors
/// [`BadRequest`] for a body in UTF-16 or UTF-32, and for a compressed body without a `Content-Encoding` header.
pub fn repaired(mut body: Bytes) -> Result<Bytes, BadRequest> {
    while body.starts_with(BYTE_ORDER_MARK) {
        body.advance(BYTE_ORDER_MARK.len());
    }
    if let Some((_, kind)) = SIGNATURES.iter().find(|(signature, _)| body.starts_with(signature)) {
        let message = match *kind {
            "gzip" | "zstd" => format!("the body is {kind}, but no `Content-Encoding` header says so"),
            _ => format!("the body is {kind}; send JSON in UTF-8"),
        };
        return Err(BadRequest { message, param: None });
    }
    let body = if std::str::from_utf8(&body).is_ok() { body } else { utf8(&body).into() };
    Ok(match without_half_surrogates(&body) {
        Some(repaired) => repaired.into(),
        None => body,
    })
}

/// Replaces each byte that is not UTF-8 with U+FFFD.
fn utf8(body: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(body.len() + 64);
    for chunk in body.utf8_chunks() {
        text.extend_from_slice(chunk.valid().as_bytes());
        text.extend_from_slice(REPLACEMENT.repeat(chunk.invalid().len()).as_bytes());
    }
    text
}

/// The body with `\ufffd` for each half of a surrogate pair; `None` if there is none.
fn without_half_surrogates(body: &[u8]) -> Option<Vec<u8>> {
    // Almost no body contains an escaped surrogate.
    memchr::memmem::find(body, b"\\ud").or_else(|| memchr::memmem::find(body, b"\\uD"))?;
    let mut repaired: Option<Vec<u8>> = None;
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', &body[at..]) {
        at += found;
        let taken = match (surrogate(&body[at..]), body.get(at + 6..).and_then(surrogate)) {
            (Some(Half::High), Some(Half::Low)) => 12,
            (Some(_), _) => {
                repaired.get_or_insert_with(|| body.to_vec())[at..at + 6].copy_from_slice(b"\\ufffd");
                6
            }
            (None, _) => 2,
        };
        at = (at + taken).min(body.len());
    }
    repaired
}

enum Half {
    High,
    Low,
}

/// Which half of a pair the escape at the start of `bytes` is, if it is one.
fn surrogate(bytes: &[u8]) -> Option<Half> {
    match bytes.strip_prefix(b"\\u")?.get(..4)? {
        [b'd' | b'D', b'8' | b'9' | b'a' | b'b' | b'A' | b'B', c, d] if is_hex(*c) && is_hex(*d) => Some(Half::High),
        [b'd' | b'D', b'c'..=b'f' | b'C'..=b'F', c, d] if is_hex(*c) && is_hex(*d) => Some(Half::Low),
        _ => None,
    }
}

fn is_hex(digit: u8) -> bool {
    digit.is_ascii_hexdigit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &[u8]) -> String {
        String::from_utf8(repaired(Bytes::copy_from_slice(body)).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn half_surrogates_latin_1_and_a_byte_order_mark_pass_as_go_reads_them() {
        assert_eq!(read(br#"{"a":"\ud83d"}"#), r#"{"a":"\ufffd"}"#);
        assert_eq!(read(br#"{"a":"\ude00x\uD83D\u0041"}"#), r#"{"a":"\ufffdx\ufffd\u0041"}"#);
        assert_eq!(read(br#"{"a":"\ud83d\ude00"}"#), r#"{"a":"\ud83d\ude00"}"#);
        // An escaped backslash does not begin an escape.
        assert_eq!(read(br#"{"a":"\\ud83d"}"#), r#"{"a":"\\ud83d"}"#);
        assert_eq!(read(b"{\"a\":\"caf\xe9\"}"), "{\"a\":\"caf\u{fffd}\"}");
        // Go's decoder replaces byte by byte.
        assert_eq!(read(b"\"\xe2\x82\""), "\"\u{fffd}\u{fffd}\"");
        assert_eq!(read(b"\xef\xbb\xbf{}"), "{}");
    }

    #[test]
    fn a_body_that_needs_no_repair_is_not_copied() {
        let body = Bytes::from_static(b"{\"a\":\"\\ud83d\\ude00 \xf0\x9f\x98\x80\"}");
        assert_eq!(repaired(body.clone()).unwrap().as_ptr(), body.as_ptr());
    }

    #[test]
    fn other_encodings_are_named_in_the_error() {
        let utf16 = |text: &str, mark: &[u8], to: fn(u16) -> [u8; 2]| {
            let units = text.encode_utf16().flat_map(to);
            mark.iter().copied().chain(units).collect::<Vec<u8>>()
        };
        for (body, names) in [
            (utf16("{}", b"\xff\xfe", u16::to_le_bytes), "UTF-16"),
            (utf16("{}", b"", u16::to_le_bytes), "UTF-16"),
            (utf16("{}", b"\xfe\xff", u16::to_be_bytes), "UTF-16"),
            (utf16("{}", b"", u16::to_be_bytes), "UTF-16"),
            (b"\xff\xfe\0\0{\0\0\0".to_vec(), "UTF-32"),
            (b"\xef\xbb\xbf{\0}\0".to_vec(), "UTF-16"),
            (b"\x1f\x8b\x08".to_vec(), "gzip"),
            (b"\x28\xb5\x2f\xfd\x00".to_vec(), "zstd"),
        ] {
            let error = repaired(body.clone().into()).unwrap_err();
            assert!(error.message.contains(names), "{body:?}: {error}");
        }
    }
}
