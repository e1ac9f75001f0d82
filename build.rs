//! Packs what browsers load, as gzip, which they accept directly.
//!
//! Swagger UI: the files that the page at `/docs` loads come out of their zip archive, still deflated. Unpacked, they would
//! be a tenth of the binary. The console: every file in `console/` that a browser may ask for, and a list of them for
//! `src/http/console.rs`. The same files always give the same bytes.
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::{Compression, write::GzEncoder};

use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED as ARCHIVE;

/// Where the console's files are, and what kinds of them there are.
const CONSOLE: &str = "console";
const VENDORED: &str = "vendor/";
const KINDS: [(&str, &str); 4] = [
    ("js", "text/javascript; charset=utf-8"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("css", "text/css; charset=utf-8"),
    ("svg", "image/svg+xml"),
];
/// The page, and what stands in it for the path of the files.
const PAGE: &str = "index.html";
const BASE: &str = "@BASE@";

/// The files that the page at `/docs` loads and that are worth packing.
const FILES: [&str; 3] = ["swagger-ui.css", "swagger-ui-bundle.js", "swagger-ui-standalone-preset.js"];

/// A zip archive ends with a record that begins like this, followed by a comment.
const END: &[u8] = b"PK\x05\x06";
/// Fixed sizes of the archive's other records, and the compression method that gzip shares.
const ENTRY: usize = 46;
const LOCAL: usize = 30;
const DEFLATE: usize = 8;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={CONSOLE}");
    let folder = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo names the folder"));
    for name in FILES {
        let packed = gzip(name).unwrap_or_else(|| panic!("{name} is not deflated in the archive of Swagger UI"));
        std::fs::write(folder.join(format!("{name}.gz")), packed).expect("the folder can be written");
    }
    pack_console(&folder).expect("the console's files can be read, and the folder written");
}

fn pack_console(folder: &Path) -> std::io::Result<()> {
    let mut files = Vec::new();
    collect(Path::new(CONSOLE), "", &mut files)?;
    files.sort();
    let page = std::fs::read_to_string(Path::new(CONSOLE).join(PAGE))?;
    let digest = digest(files.iter().flat_map(|(path, content)| [path.as_bytes(), content]).chain([page.as_bytes()]));
    let page = page.replace(BASE, &format!("{CONSOLE}/{digest}"));

    let mut list = format!("const DIGEST: &str = {digest:?};\n");
    let page = packed(folder, PAGE, "text/html; charset=utf-8", page.as_bytes())?;
    let _ = writeln!(list, "static PAGE: Packed = {page};\nstatic FILES: [Packed; {}] = [", files.len());
    for (path, content) in &files {
        let kind = kind_of(path).expect("only files of a known kind are collected");
        let _ = writeln!(list, "{},", packed(folder, path, kind, content)?);
    }
    list.push_str("];\n");
    std::fs::write(folder.join("console.rs"), list)
}

/// Compresses a file, and names it in Rust.
fn packed(folder: &Path, path: &str, content_type: &str, content: &[u8]) -> std::io::Result<String> {
    let target = folder.join(format!("console-{}.gz", path.replace('/', "-")));
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content)?;
    std::fs::write(&target, encoder.finish()?)?;
    Ok(format!("Packed {{ path: {path:?}, content_type: {content_type:?}, gzip: include_bytes!({target:?}) }}"))
}

/// Every file below a folder that a browser may ask for, by its path there.
fn collect(folder: &Path, prefix: &str, files: &mut Vec<(String, Vec<u8>)>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &format!("{path}/"), files)?;
        } else if kind_of(&path).is_some() {
            let content = std::fs::read(entry.path())?;
            // Others' files stay as they are, with their licences.
            let content = if path.starts_with(VENDORED) { content } else { without_comments(&content) };
            files.push((path, content));
        }
    }
    Ok(())
}

/// Without the lines that are a comment and nothing else, a tenth of what a browser would load.
fn without_comments(content: &[u8]) -> Vec<u8> {
    let lines = content.split_inclusive(|byte| *byte == b'\n');
    lines.filter(|line| !is_comment(line.trim_ascii())).flatten().copied().collect()
}

fn is_comment(line: &[u8]) -> bool {
    line.starts_with(b"//") || (line.starts_with(b"/*") && line.ends_with(b"*/"))
}

fn kind_of(path: &str) -> Option<&'static str> {
    let (_, extension) = path.rsplit_once('.')?;
    KINDS.iter().find(|(name, _)| *name == extension).map(|(_, kind)| *kind)
}

/// FNV-1a over all parts, which is enough to tell one version from another.
fn digest<'a>(parts: impl Iterator<Item = &'a [u8]>) -> String {
    let bytes = parts.flat_map(|part| part.iter().chain(&[0]));
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
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
