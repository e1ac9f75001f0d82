//! Which handler answers which path?
use actix_web::HttpRequest;
use actix_web::web::{self, Data, ServiceConfig};

use super::admin::demo::DemoTraffic;
use super::error::ApiError;
use super::resource::{get, post, resource};
use super::settings::ServerSettings;
use super::{admin, console, docs, inference, me, models, native, ops, own_keys, plain_words, usage};

/// Every route that these settings ask for, and the demo's where it is one. Anything else is a 404, and a wrong method a 405, both
/// as JSON.
pub fn routes(settings: &ServerSettings, demo: Option<&DemoTraffic>, config: &mut ServiceConfig) {
    config.configure(always);
    if settings.console {
        config.configure(console::routes);
    }
    if let Some(traffic) = demo {
        config.app_data(Data::new(traffic.clone())).configure(admin::demo::routes);
    }
}

fn always(config: &mut ServiceConfig) {
    config
        .app_data(
            web::QueryConfig::default().error_handler(|error, _| plain_words::of_query(&error.to_string()).into()),
        )
        .app_data(
            web::PathConfig::default()
                .error_handler(|_, _| ApiError::not_found("There is nothing at this path.").into()),
        )
        .service(post("/v1/chat/completions").route(web::post().to(inference::chat_completions)))
        .service(post("/v1/completions").route(web::post().to(inference::completions)))
        .service(post("/v1/embeddings").route(web::post().to(inference::embeddings)))
        .service(post("/v1/responses").route(web::post().to(inference::responses)))
        .service(post("/v1/messages").route(web::post().to(inference::messages)))
        .service(post("/v1/messages/count_tokens").route(web::post().to(inference::count_tokens)))
        .service(post("/api/chat").route(web::post().to(inference::chat)))
        .service(post("/api/generate").route(web::post().to(inference::generate)))
        .service(post("/api/embed").route(web::post().to(inference::embed)))
        .service(post("/api/embeddings").route(web::post().to(inference::embed_one)))
        .service(get("/api/tags").route(web::get().to(native::tags)))
        .service(get("/api/ps").route(web::get().to(native::ps)))
        .service(get("/api/version").route(web::get().to(native::version)))
        .service(get("/api/status").route(web::get().to(native::status)))
        .service(post("/api/show").route(web::post().to(native::show)))
        .configure(refused)
        .service(get("/v1/models").route(web::get().to(models::list)))
        // A model's name may hold slashes.
        .service(get("/v1/models/{id:.+}").route(web::get().to(models::retrieve)))
        .service(get("/v1/usage").route(web::get().to(usage::own_rows)))
        .service(get("/v1/usage/summary").route(web::get().to(usage::own_summary)))
        .service(get("/v1/me").route(web::get().to(me::retrieve)))
        .service(
            resource("/v1/me/keys", "GET, HEAD, POST")
                .route(web::get().to(own_keys::list))
                .route(web::post().to(own_keys::create)),
        )
        .service(resource("/v1/me/keys/{key_id}", "DELETE").route(web::delete().to(own_keys::revoke)))
        .service(get("/v1/me/requests").route(web::get().to(me::requests)))
        .service(resource("/v1/me/requests/{request_id}", "DELETE").route(web::delete().to(me::stop)))
        .configure(admin::routes)
        .service(get("/").route(web::get().to(ops::root)))
        .service(get("/health").route(web::get().to(ops::health)))
        .service(get("/health/live").route(web::get().to(ops::live)))
        .service(get("/health/ready").route(web::get().to(ops::ready)))
        .service(get("/metrics").route(web::get().to(ops::metrics)))
        .configure(docs::routes)
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

async fn unknown_path(request: HttpRequest) -> Result<&'static str, ApiError> {
    let method = request.method();
    let meant = protocol::likely(request.path()).map(|route| format!(" Did you mean {route}?")).unwrap_or_default();
    Err(ApiError::not_found(format!("There is nothing at this path ({method}).{meant} GET /docs lists what there is.")))
}
