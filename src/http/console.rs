//! The web console's page and files, as `build.rs` packed them from the folder `console/`.
//!
//! All files are below a path with the digest of all of them, so that modules can import each other by relative paths, and a
//! browser never asks for one twice. The page links to them relative to itself: a reverse proxy may put it under any prefix.
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, HeaderMap, IF_NONE_MATCH, REFERRER_POLICY, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};

use super::error::ApiError;
use super::packed;
use super::resource::{get, resource};
use super::sign_in;

/// A file of the console, compressed.
struct Packed {
    /// Below the folder `console/`.
    path: &'static str,
    content_type: &'static str,
    gzip: &'static [u8],
}

// `DIGEST`, `PAGE` and `FILES`, the latter by path.
include!(concat!(env!("OUT_DIR"), "/console.rs"));

/// Nothing from elsewhere, nothing inline, in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
    base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
/// A year, the longest that is taken seriously.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// The console with its session: without these routes, nothing of it answers.
pub(super) fn routes(config: &mut ServiceConfig) {
    config
        .service(
            resource("/console/session", "GET, HEAD, POST, DELETE")
                .route(web::get().to(sign_in::retrieve))
                .route(web::post().to(sign_in::begin))
                .route(web::delete().to(sign_in::end)),
        )
        .service(get("/console").route(web::get().to(page)))
        // Its links are relative to the path without the slash.
        .service(get("/console/").route(web::get().to(async || web::Redirect::to("../console"))))
        .service(get("/console/{digest}/{file:.+}").route(web::get().to(file)));
}

async fn page(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    // Weak, as it means the page in either coding.
    let tag = format!("W/\"{DIGEST}\"");
    let known = request.headers().get_all(IF_NONE_MATCH).filter_map(|value| value.to_str().ok());
    let is_known = known
        .flat_map(|tags| tags.split(','))
        .any(|known| matches!(known.trim(), known if known == tag || known == "*"));
    let mut response = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response.insert_header((ETAG, tag)).insert_header((CACHE_CONTROL, "no-cache"));
    if is_known {
        return Ok(secured(&mut response).finish());
    }
    send(&mut response, &PAGE, request.headers())
}

async fn file(request: HttpRequest, path: web::Path<(String, String)>) -> Result<HttpResponse, ApiError> {
    let (digest, path) = path.into_inner();
    let found = FILES.binary_search_by(|file| file.path.cmp(&path)).ok().filter(|_| digest == DIGEST);
    let file = found.and_then(|index| FILES.get(index));
    let file = file.ok_or_else(|| ApiError::not_found("The console has no such file; reload the page."))?;
    let mut response = HttpResponse::Ok();
    response.insert_header((CACHE_CONTROL, FOR_EVER));
    send(&mut response, file, request.headers())
}

fn secured(response: &mut HttpResponseBuilder) -> &mut HttpResponseBuilder {
    response
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .insert_header((VARY, "accept-encoding"))
}

fn send(response: &mut HttpResponseBuilder, file: &Packed, headers: &HeaderMap) -> Result<HttpResponse, ApiError> {
    secured(response).content_type(file.content_type);
    packed::send(response, file.gzip, headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_by_their_paths() {
        assert!(FILES.is_sorted_by_key(|file| file.path), "they are searched by halves");
        for path in ["app.js", "pages/now.js", "vendor/preact.mjs", "style.css"] {
            assert!(FILES.iter().any(|file| file.path == path), "{path}");
        }
        assert!(FILES.iter().all(|file| !file.content_type.is_empty() && file.gzip.starts_with(&[0x1f, 0x8b])));
    }
}
