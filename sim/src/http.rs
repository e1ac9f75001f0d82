//! Which handler answers a request? The routes, the key, and everything that is answered at once.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header;
use actix_web::middleware::Next;
use actix_web::{Error, HttpRequest, HttpResponse, web};
use bytes::Bytes;

use crate::config::SimKind;
use crate::dialect::work::Work;
use crate::error::{ApiError, Wire, json_type};
use crate::inference;
use crate::info;
use crate::ledger::SeenRequest;
use crate::library;
use crate::served::{self, Page};
use crate::state::NodeData;

/// The largest request body in bytes. Ollama itself has no limit.
const BODY_LIMIT: usize = 1 << 30;

/// All routes of a node of this kind.
pub(crate) fn routes(kind: SimKind, config: &mut web::ServiceConfig) {
    config.app_data(web::PayloadConfig::new(BODY_LIMIT));
    match kind {
        SimKind::Ollama => ollama_routes(config),
        SimKind::LlamaServer | SimKind::Vllm => foreign_routes(kind, config),
    }
    config.default_service(web::to(not_found));
}

fn foreign_routes(kind: SimKind, config: &mut web::ServiceConfig) {
    for &(path, page) in served::pages(kind) {
        config.route(path, web::get().to(move |node: NodeData| foreign_page(node, page)));
    }
    for path in ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"] {
        config.route(path, web::post().to(infer));
    }
    config.route("/v1/messages/count_tokens", web::post().to(count_tokens));
}

fn ollama_routes(config: &mut web::ServiceConfig) {
    for (path, answer) in [
        ("/", Probe::Health),
        ("/api/version", Probe::Version),
        ("/api/tags", Probe::Tags),
        ("/api/ps", Probe::Ps),
        ("/api/status", Probe::Status),
        ("/api/experimental/model-recommendations", Probe::Recommendations),
    ] {
        let handler = move |node: NodeData| probe(node, answer);
        let mut resource = web::resource(path).route(web::get().to(handler));
        if matches!(answer, Probe::Health | Probe::Version | Probe::Tags) {
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
        config.service(web::resource(path).route(web::post().to(infer)).default_service(web::to(method_not_allowed)));
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
        );
}

/// Holds requests while the node is frozen, and refuses those without the node's key, if it has one.
pub(crate) async fn admit(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let node = request.app_data::<NodeData>().cloned();
    if let Some(node) = &node {
        node.engine.pauses().frozen.until_off().await;
    }
    let config = node.as_ref().map(|node| node.engine.config());
    let kind = config.map_or(SimKind::Ollama, |config| config.kind);
    let key = config.and_then(|config| config.api_key.as_deref()).filter(|_| !served::is_open(kind, request.path()));
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let allowed = key.is_none_or(|key| given.and_then(|given| given.strip_prefix("Bearer ")) == Some(key));
    if allowed {
        return Ok(next.call(request).await?.map_into_boxed_body());
    }
    let refused = match kind {
        SimKind::LlamaServer => ApiError { status: 401, message: "Invalid API Key".to_owned() },
        SimKind::Ollama | SimKind::Vllm => ApiError::of_status(401, ""),
    };
    // Ollama itself has no keys. The proxy that checks them answers in the native dialect on every route.
    Ok(request.into_response(refused.response(Wire::of(kind, "/"))))
}

#[derive(Clone, Copy, PartialEq)]
enum Probe {
    Health,
    Version,
    Tags,
    Ps,
    Status,
    Recommendations,
}

async fn probe(node: NodeData, probe: Probe) -> HttpResponse {
    if probe == Probe::Health {
        return HttpResponse::Ok().content_type("text/plain; charset=utf-8").body("Ollama is running");
    }
    if matches!(probe, Probe::Version | Probe::Tags | Probe::Ps) {
        node.engine.pauses().probes_frozen.until_off().await;
    }
    let body = match probe {
        Probe::Ps => node.listings.answer(info::ps(&node.engine.loaded())).await,
        Probe::Tags => node.listings.answer(info::tags(&node.engine.disk().models())).await,
        Probe::Status => info::status(),
        Probe::Recommendations => info::recommendations(),
        Probe::Version | Probe::Health => info::version(&node.engine.config().version),
    };
    HttpResponse::Ok().content_type(json_type(Wire::Native)).body(body)
}

async fn foreign_page(node: NodeData, page: Page) -> HttpResponse {
    node.engine.pauses().probes_frozen.until_off().await;
    let body = served::page(&node.engine, &node.ledger.stats(), page);
    let (content_type, body) = match page {
        Page::Metrics => ("text/plain; version=0.0.4", body),
        Page::Models => (json_type(Wire::LlamaServer), node.listings.answer(body).await),
        _ => (json_type(Wire::LlamaServer), body),
    };
    HttpResponse::Ok().content_type(content_type).body(body)
}

async fn count_tokens(node: NodeData, request: HttpRequest, body: Bytes) -> HttpResponse {
    node.ledger.note(SeenRequest::new(&request, body.clone()));
    let wire = Wire::of(node.engine.config().kind, request.path());
    match inference::read("/v1/messages", &body) {
        Ok(Work::Generate(generate)) => {
            HttpResponse::Ok().json(serde_json::json!({"input_tokens": generate.ask.prompt_tokens()}))
        }
        Ok(_) => ApiError::bad_request("messages is required").response(wire),
        Err(error) => error.response(wire),
    }
}

async fn infer(node: NodeData, request: HttpRequest, body: Bytes) -> HttpResponse {
    if node.engine.config().has_route(request.path()) {
        inference::infer(node, request, body).await
    } else {
        not_found(node, request, body).await
    }
}

async fn not_found(node: NodeData, request: HttpRequest, body: Bytes) -> HttpResponse {
    node.ledger.note(SeenRequest::new(&request, body));
    match node.engine.config().kind {
        SimKind::Ollama => HttpResponse::NotFound().content_type("text/plain").body("404 page not found"),
        SimKind::LlamaServer => {
            ApiError { status: 404, message: "File Not Found".to_owned() }.response(Wire::LlamaServer)
        }
        SimKind::Vllm => HttpResponse::NotFound().json(serde_json::json!({"detail": "Not Found"})),
    }
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
    let body = node.listings.answer(info::openai_models(&node.engine.disk().models())).await;
    HttpResponse::Ok().content_type(json_type(Wire::OpenAi)).body(body)
}

async fn model(node: NodeData, request: HttpRequest, name: web::Path<String>, body: Bytes) -> HttpResponse {
    node.ledger.note(SeenRequest::new(&request, body));
    match node.engine.disk().find(&name) {
        Some(_) => HttpResponse::Ok().content_type(json_type(Wire::OpenAi)).body(info::openai_model(&name)),
        None => ApiError::model_not_found(&name).response(Wire::OpenAi),
    }
}
