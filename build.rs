//! Packs Swagger UI: takes the files that the page at `/docs` loads out of their zip archive, still deflated, and wraps
//! each as gzip, which browsers accept directly. Unpacked, they would be a tenth of the binary.
use std::path::Path;

use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED as ARCHIVE;

/// The files that the page loads and that are worth packing.
const FILES: [&str; 3] = ["swagger-ui.css", "swagger-ui-bundle.js", "swagger-ui-standalone-preset.js"];

/// A zip archive ends with a record that begins like this, followed by a comment.
const END: &[u8] = b"PK\x05\x06";
/// Fixed sizes of the archive's other records, and the compression method that gzip shares.
const ENTRY: usize = 46;
const LOCAL: usize = 30;
const DEFLATE: usize = 8;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let folder = std::env::var_os("OUT_DIR").expect("cargo names the folder");
    for name in FILES {
        let packed = gzip(name).unwrap_or_else(|| panic!("{name} is not deflated in the archive of Swagger UI"));
        std::fs::write(Path::new(&folder).join(format!("{name}.gz")), packed).expect("the folder can be written");
    }
}

/// A little-endian number of `width` bytes.
fn number(at: usize, width: usize) -> Option<usize> {
    let bytes = ARCHIVE.get(at..at + width)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}

/// The file as gzip; `None` if the archive does not contain it, or not deflated.
fn gzip(name: &str) -> Option<Vec<u8>> {
    let end = ARCHIVE.windows(END.len()).rposition(|bytes| bytes == END)?;
    let (count, mut entry) = (number(end + 10, 2)?, number(end + 16, 4)?);
    for _ in 0..count {
        let name_length = number(entry + 28, 2)?;
        let path = ARCHIVE.get(entry + ENTRY..entry + ENTRY + name_length)?;
        if path.ends_with(format!("/dist/{name}").as_bytes()) && number(entry + 10, 2)? == DEFLATE {
            let local = number(entry + 42, 4)?;
            let begin = local + LOCAL + number(local + 26, 2)? + number(local + 28, 2)?;
            let deflated = ARCHIVE.get(begin..begin + number(entry + 20, 4)?)?;
            let header = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
            // A gzip file ends with its checksum and its length, four bytes each; the archive has both.
            let (checksum, length) = (ARCHIVE.get(entry + 16..entry + 20)?, ARCHIVE.get(entry + 24..entry + 28)?);
            return Some([&header, deflated, checksum, length].concat());
        }
        entry += ENTRY + name_length + number(entry + 30, 2)? + number(entry + 32, 2)?;
    }
    None
}
