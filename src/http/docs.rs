//! Serves the OpenAPI document, and Swagger UI to try the API with; the page loads nothing from elsewhere.
use std::sync::LazyLock;

use actix_web::http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use flate2::Compression;

use super::error::ApiError;
use super::openapi;
use super::packed::{self, gzip};
use super::resource::get;

const PAGE: &str = r##"<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <title>ollama-gateway: Swagger UI</title>
    <link rel="stylesheet" href="./swagger-ui.css">
    <link rel="stylesheet" href="./page.css">
  </head>
  <body>
    <div id="swagger-ui"></div>
    <script src="./swagger-ui-bundle.js"></script>
    <script src="./swagger-ui-standalone-preset.js"></script>
    <script src="./swagger-initializer.js"></script>
  </body>
</html>
"##;

const PAGE_STYLE: &str = "body { margin: 0; background: #fafafa }\n";

/// Everything is addressed from the page: a reverse proxy may serve the gateway below a path. The document names paths from
/// the root, so those are put below it, too.
const INITIALIZER: &str = r##"const base = new URL("..", window.location.href);
window.ui = SwaggerUIBundle({
  url: "../openapi.json",
  requestInterceptor: (request) => {
    const url = new URL(request.url, base);
    if (url.origin === base.origin && !url.pathname.startsWith(base.pathname)) {
      request.url = new URL("." + url.pathname + url.search, base).href;
    }
    return request;
  },
  dom_id: "#swagger-ui",
  deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIStandalonePreset],
  layout: "StandaloneLayout",
});
"##;

/// Files of Swagger UI, compressed by `build.rs`.
const STYLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui.css.gz"));
const BUNDLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui-bundle.js.gz"));
const PRESET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui-standalone-preset.js.gz"));

/// Nothing from elsewhere and in no frame. Swagger UI gives its elements styles and pictures of its own.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; \
    img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The OpenAPI document as JSON, made and compressed once: it does not change while the program runs.
static DOCUMENT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    gzip(openapi::document().to_json().unwrap_or_default().as_bytes(), Compression::best()).unwrap_or_default()
});

pub(super) fn routes(config: &mut ServiceConfig) {
    config
        .service(get("/openapi.json").route(web::get().to(document)))
        .service(get("/docs").route(web::get().to(async || web::Redirect::to("docs/"))))
        .service(get("/docs/{file:.*}").route(web::get().to(file)));
}

async fn document(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let mut response = HttpResponse::Ok();
    response.insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"));
    packed::send(response.content_type("application/json"), &DOCUMENT, request.headers())
}

async fn file(name: web::Path<String>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    const STYLES: &str = "text/css; charset=utf-8";
    let mut response = HttpResponse::Ok();
    response
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((REFERRER_POLICY, "no-referrer"));
    let (content_type, content) = match name.as_str() {
        "" | "index.html" => return Ok(response.content_type("text/html; charset=utf-8").body(PAGE)),
        "page.css" => return Ok(response.content_type(STYLES).body(PAGE_STYLE)),
        "swagger-initializer.js" => return Ok(response.content_type(SCRIPT).body(INITIALIZER)),
        "swagger-ui.css" => (STYLES, STYLE),
        "swagger-ui-bundle.js" => (SCRIPT, BUNDLE),
        "swagger-ui-standalone-preset.js" => (SCRIPT, PRESET),
        _ => return Err(ApiError::not_found("There is nothing at this path.")),
    };
    packed::send(response.content_type(content_type), content, request.headers())
}
