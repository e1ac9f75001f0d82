//! What may a client say, and what does it hear? The only module with handlers, status codes and the OpenAPI document.
pub mod admin;
mod auth;
mod body;
mod error;
mod inference;
mod models;
mod observe;
pub mod openapi;
mod ops;
mod usage;

use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, Resource};
use serde::{Deserialize, Serialize};
use utoipa_swagger_ui::SwaggerUi;

pub use auth::AdminKey;
pub use error::ApiError;
pub use inference::Inference;
pub use observe::observe;
pub use ops::Lifecycle;

/// What is taken from clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where to listen. Anything but loopback needs a strong admin key. Default `127.0.0.1:8000`.
    pub bind: String,
    /// Threads that serve requests; 0 = one for each core. Default 0.
    pub workers: usize,
    /// Largest request body, bytes. Default 67108864 (64 MiB).
    pub max_body_bytes: usize,
    /// Longest time for a request's body to arrive, seconds. Default 60.
    pub body_seconds: u64,
    /// How long an idle connection is kept, seconds. Default 75.
    pub keep_alive_seconds: u64,
    /// How long a client may leave what was sent to it unread before its connection is closed, seconds. Default 30.
    pub client_stall_seconds: u64,
    /// How long running requests may go on after SIGTERM, seconds. Default 120.
    pub drain_seconds: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            bind: "127.0.0.1:8000".to_owned(),
            workers: 0,
            max_body_bytes: 64 * 1024 * 1024,
            body_seconds: 60,
            keep_alive_seconds: 75,
            client_stall_seconds: 30,
            drain_seconds: 120,
        }
    }
}

/// Every route. Anything else is a 404, and a wrong method a 405, both as JSON.
pub fn routes(config: &mut ServiceConfig) {
    let invalid = |error: &dyn std::fmt::Display| ApiError::invalid(error.to_string());
    config
        .app_data(web::QueryConfig::default().error_handler(move |error, _| invalid(&error).into()))
        .app_data(
            web::PathConfig::default()
                .error_handler(|_, _| ApiError::not_found("There is nothing at this path.").into()),
        )
        .service(post("/v1/chat/completions").route(web::post().to(inference::chat_completions)))
        .service(post("/v1/completions").route(web::post().to(inference::completions)))
        .service(post("/v1/embeddings").route(web::post().to(inference::embeddings)))
        .service(get("/v1/models").route(web::get().to(models::list)))
        // A model's name may hold slashes.
        .service(get("/v1/models/{id:.+}").route(web::get().to(models::retrieve)))
        .service(get("/v1/usage").route(web::get().to(usage::own_rows)))
        .service(get("/v1/usage/summary").route(web::get().to(usage::own_summary)))
        .configure(admin::routes)
        .service(get("/").route(web::get().to(ops::root)).route(web::head().to(ops::root)))
        .service(get("/health").route(web::get().to(ops::health)).route(web::head().to(ops::health)))
        .service(get("/health/live").route(web::get().to(ops::live)).route(web::head().to(ops::live)))
        .service(get("/health/ready").route(web::get().to(ops::ready)).route(web::head().to(ops::ready)))
        .service(get("/metrics").route(web::get().to(ops::metrics)))
        .service(web::redirect("/docs", "/docs/"))
        .service(SwaggerUi::new("/docs/{_:.*}").url("/openapi.json", openapi::document()))
        .default_service(web::to(unknown_path));
}

fn get(path: &str) -> Resource {
    resource(path, "GET")
}

fn post(path: &str) -> Resource {
    resource(path, "POST")
}

/// A path that answers any method but those in `allow` with 405.
fn resource(path: &str, allow: &'static str) -> Resource {
    web::resource(path)
        .default_service(web::to(move || async move { Err::<&str, _>(ApiError::method_not_allowed(allow)) }))
}

async fn unknown_path(request: HttpRequest) -> Result<&'static str, ApiError> {
    let method = request.method();
    Err(ApiError::not_found(format!("There is nothing at this path ({method}). GET /docs lists what there is.")))
}
