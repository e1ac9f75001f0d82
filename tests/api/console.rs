//! Is the console served as a browser needs it: compressed, cached for ever, under a strict policy, from any prefix?
use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use awc::http::Method;
use ollama_gateway::config::Config;
use serde_json::json;

use crate::harness::{ADMIN_KEY, Reply, TestApp, TestDatabase, error_of, node, spawn_app, spawn_app_with};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
    base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
const GZIP: (&str, &str) = ("accept-encoding", "gzip, br");
/// Bytes of everything, and of what is loaded before the first page shows; compressed, with the names of the files.
const WHOLE_BUDGET: usize = 80_000;
const FIRST_BUDGET: usize = 30_000;

async fn app() -> TestApp {
    spawn_app(vec![node("gone", "http://127.0.0.1:1".to_owned(), 1)]).await
}

async fn get(app: &TestApp, path: &str, headers: &[(&str, &str)]) -> Reply {
    app.send_with(Method::GET, path, headers, "").await
}

/// What the page or a module asks for by itself, as paths below `/console/<digest>/`.
fn links(text: &str, folder: &str) -> BTreeSet<String> {
    let quoted =
        ["href=\"", "src=\"", "from \"", "import \""].into_iter().flat_map(|before| text.split(before).skip(1));
    let links = quoted.filter_map(|rest| rest.split('"').next()).filter(|link| !link.starts_with('#'));
    let mut found = BTreeSet::new();
    for link in links {
        let path = match link.strip_prefix("console/") {
            Some(rest) => rest.split_once('/').unwrap().1.to_owned(),
            None => Path::new(folder).join(link.trim_start_matches("./")).to_str().unwrap().to_owned(),
        };
        found.insert(path.replace("pages/../", ""));
    }
    found
}

fn digest(page: &str) -> String {
    page.split("src=\"console/").nth(1).unwrap().split('/').next().unwrap().to_owned()
}

fn unpacked(reply: &Reply) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(&reply.body[..]).read_to_string(&mut text).unwrap();
    text
}

/// Whether a line of our own files is a comment and nothing else, which no browser needs.
fn is_comment(line: &str) -> bool {
    let line = line.trim();
    line.starts_with("//") || (line.starts_with("/*") && line.ends_with("*/"))
}

/// The paths of the files in the folder that browsers may ask for.
fn files(folder: &Path, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path(), &format!("{path}/")));
        } else if [".js", ".mjs", ".css", ".svg"].iter().any(|kind| path.ends_with(kind)) {
            found.push(path);
        }
    }
    found
}

#[actix_rt::test]
async fn the_page_comes_under_its_policy_and_is_asked_for_anew_each_time() {
    let app = app().await;
    let page = get(&app, "/console", &[]).await;

    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    for (name, value) in [
        ("content-security-policy", POLICY),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-cache"),
        ("vary", "accept-encoding"),
    ] {
        assert_eq!(page.header(name), Some(value), "{name}");
    }
    assert!(!page.text().contains("://") && !page.text().contains('@'), "{}", page.text());
    // In gzip it is the same, and whoever has it gets no second one.
    let packed = get(&app, "/console", &[GZIP]).await;
    assert_eq!((packed.header("content-encoding"), unpacked(&packed).as_str()), (Some("gzip"), page.text()));
    let tag = page.header("etag").unwrap();
    let again = get(&app, "/console", &[("if-none-match", tag)]).await;
    assert_eq!((again.status.as_u16(), again.body.len(), again.header("etag")), (304, 0, Some(tag)));
    assert_eq!(get(&app, "/console", &[("if-none-match", "W/\"other\"")]).await.status, 200);
    // Behind a prefix, only a relative address leads back.
    let slash = get(&app, "/console/", &[]).await;
    assert_eq!((slash.status.as_u16(), slash.header("location")), (307, Some("../console")));
    app.stop().await;
}

#[actix_rt::test]
async fn files_are_kept_for_ever_below_the_digest_of_all_of_them() {
    let app = app().await;
    let digest = digest(get(&app, "/console", &[]).await.text());

    for file in files(Path::new("console"), "") {
        let path = format!("/console/{digest}/{file}");
        let plain = get(&app, &path, &[]).await;
        assert_eq!((plain.status.as_u16(), plain.header("content-encoding")), (200, None), "{file}");
        let source = std::fs::read_to_string(Path::new("console").join(&file)).unwrap();
        let is_theirs = file.starts_with("vendor/");
        let expected: Vec<&str> = source.lines().filter(|line| is_theirs || !is_comment(line)).collect();
        assert_eq!(plain.text().lines().collect::<Vec<_>>(), expected, "{file}");
        let packed = get(&app, &path, &[GZIP]).await;
        assert_eq!(packed.header("content-encoding"), Some("gzip"), "{file}");
        assert_eq!(unpacked(&packed), plain.text(), "{file}");
        assert_eq!(packed.header("cache-control"), Some("public, max-age=31536000, immutable"), "{file}");
        assert_eq!(packed.header("x-content-type-options"), Some("nosniff"), "{file}");
        let content_type = packed.header("content-type").unwrap();
        assert!(["text/javascript; charset=utf-8", "text/css; charset=utf-8", "image/svg+xml"].contains(&content_type));
    }
    for path in ["app.js", "../Cargo.toml", "%2e%2e/Cargo.toml", "vendor", "vendor/README.md", "index.html"] {
        let wrong = if path == "app.js" { "0123456789abcdef" } else { &digest };
        error_of(&get(&app, &format!("/console/{wrong}/{path}"), &[]).await, 404);
    }
    app.stop().await;
}

#[actix_rt::test]
async fn the_console_stays_within_its_budget() {
    let app = app().await;
    let page = get(&app, "/console", &[GZIP]).await;
    let text = unpacked(&page);
    let digest = digest(&text);
    let mut sizes = std::collections::BTreeMap::new();
    for file in files(Path::new("console"), "") {
        let reply = get(&app, &format!("/console/{digest}/{file}"), &[GZIP]).await;
        sizes.insert(file, (reply.body.len(), unpacked(&reply)));
    }

    // Whatever is imported by name comes before the first page; `import()` comes later.
    let mut first = links(&text, "");
    loop {
        let further: BTreeSet<String> = first
            .iter()
            .filter_map(|file| Some((file, &sizes.get(file)?.1)))
            .flat_map(|(file, text)| links(text, file.rsplit_once('/').map_or("", |(folder, _)| folder)))
            .filter(|file| sizes.contains_key(file))
            .collect();
        let before = first.len();
        first.extend(further);
        if first.len() == before {
            break;
        }
    }
    let whole = page.body.len() + sizes.values().map(|(size, _)| size).sum::<usize>();
    let first_paint = page.body.len() + first.iter().map(|file| sizes[file].0).sum::<usize>();

    println!("{whole} bytes in all, {first_paint} to the first paint: {first:?}");
    assert!(first.contains("vendor/hooks.mjs") && first.contains("signin.js"), "{first:?}");
    assert!(!first.contains("vendor/uplot.js") && !first.iter().any(|file| file.starts_with("pages/")), "{first:?}");
    assert!(whole <= WHOLE_BUDGET, "{whole} bytes in all");
    assert!(first_paint <= FIRST_BUDGET, "{first_paint} bytes to the first paint");
    app.stop().await;
}

#[actix_rt::test]
async fn only_the_demo_has_the_demos_traffic() {
    let app = app().await;
    for method in [Method::GET, Method::PUT] {
        let key = format!("Bearer {ADMIN_KEY}");
        let headers = [("authorization", key.as_str())];
        error_of(&app.send_with(method, "/admin/demo", &headers, json!({"traffic": true}).to_string()).await, 404);
    }
    app.stop().await;
}

#[actix_rt::test]
async fn the_console_can_be_switched_off() {
    let nodes = vec![node("gone", "http://127.0.0.1:1".to_owned(), 1)];
    let change = |config: &mut Config| config.server.console = false;
    let app = spawn_app_with(nodes, TestDatabase::sqlite(), change).await;

    for path in ["/console", "/console/", "/console/session", "/console/0123456789abcdef/app.js"] {
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
            let body = json!({"api_key": ADMIN_KEY}).to_string();
            let error = error_of(&app.send_with(method.clone(), path, &[], body).await, 404);
            // As of any path that there is not.
            assert!(error["message"].as_str().unwrap().starts_with("There is nothing at this path"), "{method} {path}");
        }
    }
    app.stop().await;
}
