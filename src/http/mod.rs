//! What may a client say, and what does it hear? The only module with handlers, status codes and the OpenAPI document.
mod address;
pub mod admin;
mod auth;
mod body;
mod cors;
mod error;
pub mod error_kind;
mod guesses;
mod inference;
mod live;
mod models;
mod native;
mod observe;
pub mod openapi;
mod ops;
mod requests;
mod usage;
mod waiting;

use actix_web::web::{self, ServiceConfig};
use actix_web::{FromRequest, Handler, HttpRequest, Resource, Responder};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa_swagger_ui::SwaggerUi;

pub use admin::reload::{Reload, ReloadReport};
pub use auth::AdminKey;
pub use error::ApiError;
pub use guesses::Guesses;
pub use inference::Inference;
pub use live::Live;
pub use models::ModelNames;
pub use observe::observe;
pub use ops::Lifecycle;

/// What the gateway accepts from clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Address and port to listen on. Any address other than loopback requires a strong admin key. Default
    /// `127.0.0.1:8000`.
    pub bind: String,
    /// Threads that serve requests; 0 = one per core. Default `0`.
    pub workers: usize,
    /// Largest request body, bytes; a larger one gets 413. The default is 64 MiB. Default `67108864`.
    pub max_body_bytes: usize,
    /// Time a request's body may take to arrive, seconds; a slower one gets 408. Default `60`.
    pub body_seconds: u64,
    /// How long an idle client connection is kept open, seconds. Default `75`.
    pub keep_alive_seconds: u64,
    /// How long a client may leave its answer unread before its connection is closed, seconds. Default `30`.
    pub client_stall_seconds: u64,
    /// Networks whose clients need no key, for programs that cannot send one: `[{cidr: 10.1.0.0/16, user: lab}]`.
    /// The user must exist. Do not list a reverse proxy's address: every client would appear to come from it.
    /// Default none.
    pub trusted_networks: Vec<TrustedNetwork>,
    /// Wrong keys that one network (an IPv4 address or an IPv6 /64) may send per minute before it gets 429. A valid
    /// key is never throttled. Behind a reverse proxy, all clients share one allowance. Default `10`.
    pub guesses_per_minute: u32,
    /// Origins whose pages may call the API from a browser; `"*"` = any, `[]` = none. `/admin` is never open to
    /// them. Default `["*"]`.
    pub cors_origins: Vec<String>,
    /// How long running requests may continue after SIGTERM, seconds; 0 = they are ended at once. Default `120`.
    pub drain_seconds: u64,
}

/// A network that stands for a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustedNetwork {
    /// Such as `10.1.0.0/16` or `fd00::/8`.
    pub cidr: IpNet,
    /// The user whose limits and usage its requests count towards.
    pub user: String,
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
            trusted_networks: Vec::new(),
            guesses_per_minute: 10,
            cors_origins: vec!["*".to_owned()],
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
        .service(post("/v1/responses").route(web::post().to(inference::responses)))
        .service(post("/v1/messages").route(web::post().to(inference::messages)))
        .service(post("/api/chat").route(web::post().to(inference::chat)))
        .service(post("/api/generate").route(web::post().to(inference::generate)))
        .service(post("/api/embed").route(web::post().to(inference::embed)))
        .service(post("/api/embeddings").route(web::post().to(inference::embed_one)))
        .service(readable("/api/tags", native::tags))
        .service(get("/api/ps").route(web::get().to(native::ps)))
        .service(readable("/api/version", native::version))
        .service(post("/api/show").route(web::post().to(native::show)))
        .configure(refused)
        .service(get("/v1/models").route(web::get().to(models::list)))
        // A model's name may hold slashes.
        .service(get("/v1/models/{id:.+}").route(web::get().to(models::retrieve)))
        .service(get("/v1/usage").route(web::get().to(usage::own_rows)))
        .service(get("/v1/usage/summary").route(web::get().to(usage::own_summary)))
        .configure(admin::routes)
        .service(readable("/", ops::root))
        .service(readable("/health", ops::health))
        .service(readable("/health/live", ops::live))
        .service(readable("/health/ready", ops::ready))
        .service(get("/metrics").route(web::get().to(ops::metrics)))
        .service(get("/docs").route(web::get().to(async || web::Redirect::to("/docs/"))))
        .service(SwaggerUi::new("/docs/{_:.*}").url("/openapi.json", openapi::document()))
        // Swagger UI takes GET and lets anything else pass.
        .service(get("/openapi.json"))
        .service(get("/docs/{_:.*}"))
        .default_service(web::to(unknown_path));
}

/// What a client may well ask for and gets a clear no to, whatever the method.
fn refused(config: &mut ServiceConfig) {
    for path in ["pull", "push", "create", "copy", "delete", "blobs/{digest}"] {
        config.service(web::resource(format!("/api/{path}")).default_service(web::to(native::managed)));
    }
    for path in ["transcriptions", "translations", "speech"] {
        config.service(web::resource(format!("/v1/audio/{path}")).default_service(web::to(inference::unmetered_audio)));
    }
}

/// A path for GET and HEAD.
fn readable<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args> + Clone,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    resource(path, "GET, HEAD").route(web::get().to(handler.clone())).route(web::head().to(handler))
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
