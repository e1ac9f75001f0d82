//! How does one generation or embedding request get through the node, from arrival to the last byte?

use std::future::pending;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use tokio::task::yield_now;

use crate::ask::answer;
use crate::clock;
use crate::dialect::embeddings::Embed;
use crate::dialect::work::{Generate, Residence, Work};
use crate::dialect::{
    Timings, anthropic, embeddings_request, native_request, openai_request, openai_text, responses_request,
};
use crate::error::{ApiError, Wire, json_type};
use crate::fault::{Break, Fault};
use crate::generation::{Died, Generation, Pace, Start, Whole};
use crate::ledger::{SeenRequest, Visit};
use crate::model::SimModel;
use crate::state::NodeData;

/// One inference request. Whatever is dropped here when the client hangs up gives its place back at once.
pub(crate) async fn infer(node: NodeData, request: HttpRequest, body: Bytes) -> HttpResponse {
    let path = request.path();
    let wire = Wire::of(path);
    let fault = node.faults.take();
    let mut visit = node.ledger.enter(SeenRequest::new(&request, body.clone()));
    if let Some(response) = at_the_door(fault.as_ref(), wire, &body, &visit) {
        visit.reject();
        return response;
    }
    let work = match read(path, &body) {
        Ok(work) => work,
        Err(error) => {
            visit.reject();
            return error.response(wire);
        }
    };
    let job = Job { node: &node, visit, fault };
    let answered = match work {
        Work::Generate(generate) => job.generate(wire, generate).await,
        Work::Embed(embed) => job.embed(wire, embed).await,
        Work::Load(residence) => job.load(residence).await,
        Work::Unload(residence) => job.unload(&residence),
    };
    answered.unwrap_or_else(|error| error.response(wire))
}

fn read(path: &str, body: &[u8]) -> Result<Work, ApiError> {
    match path {
        "/api/chat" => native_request::chat(body),
        "/api/generate" => native_request::generate(body),
        "/api/embed" => embeddings_request::native(body),
        "/api/embeddings" => embeddings_request::native_old(body),
        "/v1/chat/completions" => openai_request::chat(body),
        "/v1/completions" => openai_text::complete(body),
        "/v1/embeddings" => embeddings_request::openai(body),
        "/v1/responses" => responses_request::respond(body),
        _ => anthropic::messages(body),
    }
}

/// The faults that strike before the request is understood.
fn at_the_door(fault: Option<&Fault>, wire: Wire, body: &[u8], visit: &Visit) -> Option<HttpResponse> {
    let response = match fault? {
        // A body that breaks before its first byte takes the head with it.
        Fault::Refuse => HttpResponse::Ok().streaming(stream::iter([Err::<Bytes, Died>(Died)])),
        Fault::Status(status) => {
            let model = serde_json::from_slice::<serde_json::Value>(body).ok();
            let model = model.as_ref().and_then(|body| body.get("model")?.as_str()).unwrap_or_default();
            ApiError::of_status(*status, model).response(wire)
        }
        Fault::Redirect(url) => {
            HttpResponse::TemporaryRedirect().insert_header((header::LOCATION, url.as_str())).finish()
        }
        _ => return None,
    };
    visit.fault();
    Some(response)
}

/// A request that was understood, on its way through the node.
struct Job<'a> {
    node: &'a NodeData,
    visit: Visit,
    fault: Option<Fault>,
}

impl Job<'_> {
    /// The model on disk, or Ollama's 404.
    fn model(&mut self, name: &str, missing: impl FnOnce(&str) -> ApiError) -> Result<SimModel, ApiError> {
        let model = self.node.engine.disk().find(name);
        model.ok_or_else(|| missing(name)).inspect_err(|_| self.visit.reject())
    }

    async fn generate(mut self, wire: Wire, generate: Generate) -> Result<HttpResponse, ApiError> {
        let started = clock::now();
        let Generate { ask, stream, keep_alive, options, dialect } = generate;
        let model = self.model(&ask.model, ApiError::model_not_found)?;
        ask.check(&model).inspect_err(|_| self.visit.reject())?;
        let prompt_tokens = ask.prompt_tokens();
        self.visit.set_prompt_tokens(prompt_tokens);
        self.visit.set_queued(true);
        let engine = &self.node.engine;
        self.visit.set_found_loaded(engine.has(&model, &options));
        let hold = engine.hold(&model, keep_alive, &options).await.inspect_err(|_| self.visit.reject())?;
        let load = clock::now() - started;
        let slot = hold.slot().await;
        self.visit.set_queued(false);
        let pace = Pace::new(engine, engine.config().solo_speed(&model), self.fault.as_ref());
        let mut generation = Generation::new(Start {
            dialect,
            answer: answer(&ask, &model),
            prompt_tokens,
            pace,
            slot,
            visit: self.visit,
            fault: self.fault,
            started,
            load,
        });
        generation.prefill().await;
        if stream { Ok(streamed(generation).await) } else { Ok(whole(generation.whole().await?, wire)) }
    }

    async fn embed(mut self, wire: Wire, embed: Embed) -> Result<HttpResponse, ApiError> {
        let started = clock::now();
        let missing =
            |name: &str| ApiError { status: 404, message: format!("model \"{name}\" not found, try pulling it first") };
        let model = self.model(&embed.model, missing)?;
        if !model.can("embedding") {
            self.visit.reject();
            return Err(ApiError::bad_request("this model does not support embeddings"));
        }
        let prompt_tokens = embed.prompt_tokens();
        self.visit.set_prompt_tokens(prompt_tokens);
        self.visit.set_queued(true);
        let engine = &self.node.engine;
        self.visit.set_found_loaded(engine.has(&model, &embed.options));
        let hold = engine.hold(&model, embed.keep_alive, &embed.options).await.inspect_err(|_| self.visit.reject())?;
        let timings = Timings::new(started, clock::now() - started);
        let slot = hold.slot().await;
        self.visit.set_queued(false);
        let speed = engine.config().solo_speed(&model);
        Pace::new(engine, speed, self.fault.as_ref()).prefill(prompt_tokens).await;
        let how = self.fault.as_ref().and_then(Fault::in_stream).map(|(_, how)| how);
        let silent = self.fault == Some(Fault::NoUsage) || how == Some(Break::End);
        if how.is_some() || silent || self.fault == Some(Fault::HangBeforeHead) {
            self.visit.fault();
        }
        if how == Some(Break::Hang) || self.fault == Some(Fault::HangBeforeHead) {
            pending::<()>().await;
        }
        drop(slot);
        self.visit.complete();
        match how {
            Some(Break::Error) => Err(ApiError::runner_stopped()),
            Some(Break::Garbage) => Ok(whole(Whole { body: "this is not json".to_owned(), dies: false }, wire)),
            _ => {
                let body = embed.body(&timings, (!silent).then_some(prompt_tokens));
                Ok(whole(Whole { body, dies: how == Some(Break::Die) }, wire))
            }
        }
    }

    async fn load(mut self, residence: Residence) -> Result<HttpResponse, ApiError> {
        let model = self.model(&residence.model, ApiError::model_not_found)?;
        if !model.can("completion") {
            self.visit.reject();
            let message = format!("\"{}\" does not support {}", residence.model, residence.purpose);
            return Err(ApiError::bad_request(message));
        }
        self.visit.set_queued(true);
        self.visit.set_found_loaded(self.node.engine.has(&model, &residence.options));
        let held = self.node.engine.hold(&model, residence.keep_alive, &residence.options).await;
        let _hold = held.inspect_err(|_| self.visit.reject())?;
        let hangs = |fault: &Fault| matches!(fault, Fault::HangBeforeHead | Fault::HangAfter(_));
        if self.fault.as_ref().is_some_and(hangs) {
            self.visit.fault();
            pending::<()>().await;
        }
        self.visit.complete();
        Ok(json_response((residence.reply)(&residence.model, "load"), Wire::Native))
    }

    fn unload(mut self, residence: &Residence) -> Result<HttpResponse, ApiError> {
        let model = self.model(&residence.model, ApiError::model_not_found)?;
        self.node.engine.unload(&model);
        self.visit.complete();
        Ok(json_response((residence.reply)(&residence.model, "unload"), Wire::Native))
    }
}

/// The head leaves with the first chunk, not before.
async fn streamed(mut generation: Generation) -> HttpResponse {
    let content_type = generation.dialect.stream_type();
    let first = if generation.breaks_at_once() { None } else { generation.next_chunk().await };
    let rest = stream::unfold(generation, |mut generation| async move {
        generation.next_chunk().await.map(|chunk| (chunk, generation))
    });
    HttpResponse::Ok().content_type(content_type).streaming(stream::iter(first).chain(rest))
}

fn whole(whole: Whole, wire: Wire) -> HttpResponse {
    if !whole.dies {
        return json_response(whole.body, wire);
    }
    let length = whole.body.len();
    let mut start = Bytes::from(whole.body);
    start.truncate(length / 2);
    let start = stream::iter([Ok(start)]);
    let end = stream::once(async {
        // The half before leaves for the client while this yields.
        yield_now().await;
        Err(Died)
    });
    let mut response = HttpResponse::Ok();
    response.content_type(json_type(wire)).no_chunking(length as u64).streaming(start.chain(end))
}

fn json_response(body: String, wire: Wire) -> HttpResponse {
    HttpResponse::Ok().content_type(json_type(wire)).body(body)
}
