//! Which handler answers a request? The routes, the key, and everything that is answered at once.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header;
use actix_web::middleware::Next;
use actix_web::{Error, HttpRequest, HttpResponse, web};
use bytes::Bytes;

use crate::error::{ApiError, Wire, json_type};
use crate::inference;
use crate::info;
use crate::ledger::SeenRequest;
use crate::library;
use crate::state::NodeData;

/// The largest request body in bytes. Ollama itself has no limit.
const BODY_LIMIT: usize = 1 << 30;

/// All routes of the node.
pub(crate) fn routes(config: &mut web::ServiceConfig) {
    config.app_data(web::PayloadConfig::new(BODY_LIMIT));
    for (path, answer) in
        [("/", Probe::Health), ("/api/version", Probe::Version), ("/api/tags", Probe::Tags), ("/api/ps", Probe::Ps)]
    {
        let handler = move |node: NodeData| probe(node, answer);
        let mut resource = web::resource(path).route(web::get().to(handler));
        if answer != Probe::Ps {
            resource = resource.route(web::head().to(handler));
        }
        config.service(resource.default_service(web::to(method_not_allowed)));
    }
    for path in [
        "/api/chat",
        "/api/generate",
        "/api/embed",
        "/api/embeddings",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
    ] {
        config.service(
            web::resource(path).route(web::post().to(inference::infer)).default_service(web::to(method_not_allowed)),
        );
    }
    config
        .service(web::resource("/api/show").route(web::post().to(show)).default_service(web::to(method_not_allowed)))
        .service(web::resource("/api/pull").route(web::post().to(pull)).default_service(web::to(method_not_allowed)))
        .service(
            web::resource("/api/delete").route(web::delete().to(delete)).default_service(web::to(method_not_allowed)),
        )
        .service(web::resource("/v1/models").route(web::get().to(models)).default_service(web::to(method_not_allowed)))
        .service(
            web::resource("/v1/models/{model}")
                .route(web::get().to(model))
                .default_service(web::to(method_not_allowed)),
        )
        .default_service(web::to(not_found));
}

/// Refuses requests without the node's key, if it has one.
pub(crate) async fn authorize(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let node = request.app_data::<NodeData>().cloned();
    let key = node.as_ref().and_then(|node| node.engine.config().api_key.as_deref());
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let allowed = key.is_none_or(|key| given.and_then(|given| given.strip_prefix("Bearer ")) == Some(key));
    if allowed {
        return Ok(next.call(request).await?.map_into_boxed_body());
    }
    Ok(request.into_response(ApiError::of_status(401, "").response(Wire::Native)))
}

#[derive(Clone, Copy, PartialEq)]
enum Probe {
    Health,
    Version,
    Tags,
    Ps,
}

async fn probe(node: NodeData, probe: Probe) -> HttpResponse {
    if probe == Probe::Health {
        return HttpResponse::Ok().content_type("text/plain; charset=utf-8").body("Ollama is running");
    }
    node.probes_thawed().await;
    let body = match probe {
        Probe::Ps => info::ps(&node.engine.loaded()),
        Probe::Tags => info::tags(&node.engine.disk().models()),
        Probe::Version | Probe::Health => info::version(),
    };
    HttpResponse::Ok().content_type(json_type(Wire::Native)).body(body)
}

async fn not_found(node: NodeData, request: HttpRequest, body: Bytes) -> HttpResponse {
    node.ledger.note(SeenRequest::new(&request, body));
    HttpResponse::NotFound().content_type("text/plain").body("404 page not found")
}

async fn method_not_allowed(node: NodeData, request: HttpRequest, body: Bytes) -> HttpResponse {
    node.ledger.note(SeenRequest::new(&request, body));
    HttpResponse::MethodNotAllowed().content_type("text/plain").body("405 method not allowed")
}

async fn show(node: NodeData, request: HttpRequest, body: Bytes) -> HttpResponse {
    node.ledger.note(SeenRequest::new(&request, body.clone()));
    match info::show(node.engine.disk(), &body) {
        Ok(body) => HttpResponse::Ok().content_type(json_type(Wire::Native)).body(body),
        Err(error) => error.response(Wire::Native),
    }
}

async fn pull(node: NodeData, request: HttpRequest, body: Bytes) -> HttpResponse {
    node.ledger.note(SeenRequest::new(&request, body.clone()));
    library::pull(&node, &body).unwrap_or_else(|error| error.response(Wire::Native))
}

async fn delete(node: NodeData, request: HttpRequest, body: Bytes) -> HttpResponse {
    node.ledger.note(SeenRequest::new(&request, body.clone()));
    library::delete(&node, &body).unwrap_or_else(|error| error.response(Wire::Native))
}

async fn models(node: NodeData, request: HttpRequest, body: Bytes) -> HttpResponse {
    node.ledger.note(SeenRequest::new(&request, body));
    HttpResponse::Ok().content_type(json_type(Wire::OpenAi)).body(info::openai_models(&node.engine.disk().models()))
}

async fn model(node: NodeData, request: HttpRequest, name: web::Path<String>, body: Bytes) -> HttpResponse {
    node.ledger.note(SeenRequest::new(&request, body));
    match node.engine.disk().find(&name) {
        Some(_) => HttpResponse::Ok().content_type(json_type(Wire::OpenAi)).body(info::openai_model(&name)),
        None => ApiError::model_not_found(&name).response(Wire::OpenAi),
    }
}
