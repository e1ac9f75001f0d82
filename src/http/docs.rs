//! Serves the OpenAPI document, and Swagger UI to try the API with; the page loads nothing from elsewhere.
use std::sync::LazyLock;

use actix_web::http::header::{CONTENT_ENCODING, ContentEncoding};
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpResponse, Responder};

use super::error::ApiError;
use super::openapi;
use super::resource::get;

const PAGE: &str = r##"<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <title>ollama-gateway: Swagger UI</title>
    <link rel="stylesheet" href="./swagger-ui.css">
    <style>body { margin: 0; background: #fafafa }</style>
  </head>
  <body>
    <div id="swagger-ui"></div>
    <script src="./swagger-ui-bundle.js"></script>
    <script src="./swagger-ui-standalone-preset.js"></script>
    <script src="./swagger-initializer.js"></script>
  </body>
</html>
"##;

const INITIALIZER: &str = r##"window.ui = SwaggerUIBundle({
  url: "/openapi.json",
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

/// The OpenAPI document as JSON, made once: it does not change while the program runs.
static DOCUMENT: LazyLock<String> = LazyLock::new(|| openapi::document().to_json().unwrap_or_default());

pub(super) fn routes(config: &mut ServiceConfig) {
    config
        .service(get("/openapi.json").route(web::get().to(document)))
        .service(get("/docs").route(web::get().to(async || web::Redirect::to("/docs/"))))
        .service(get("/docs/{file:.*}").route(web::get().to(file)));
}

async fn document() -> impl Responder {
    HttpResponse::Ok().content_type("application/json").body(DOCUMENT.as_str())
}

async fn file(name: web::Path<String>) -> Result<HttpResponse, ApiError> {
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    let (content_type, content) = match name.as_str() {
        "" | "index.html" => return Ok(HttpResponse::Ok().content_type("text/html; charset=utf-8").body(PAGE)),
        "swagger-initializer.js" => return Ok(HttpResponse::Ok().content_type(SCRIPT).body(INITIALIZER)),
        "swagger-ui.css" => ("text/css; charset=utf-8", STYLE),
        "swagger-ui-bundle.js" => (SCRIPT, BUNDLE),
        "swagger-ui-standalone-preset.js" => (SCRIPT, PRESET),
        _ => return Err(ApiError::not_found("There is nothing at this path.")),
    };
    // Every browser takes gzip, so there is no uncompressed copy.
    let encoding = (CONTENT_ENCODING, ContentEncoding::Gzip);
    Ok(HttpResponse::Ok().content_type(content_type).insert_header(encoding).body(content))
}
