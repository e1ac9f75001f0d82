//! How does one generation or embedding request get through the node, from arrival to the last byte?

use std::future::pending;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use tokio::task::yield_now;

use crate::ask::answer;
use crate::config::SimKind;
use crate::dialect::embeddings::Embed;
use crate::dialect::work::{Generate, Residence, Work};
use crate::dialect::{
    Timings, anthropic, embeddings_request, native_request, openai_request, openai_text, responses_request,
};
use crate::error::{ApiError, Wire, json_type};
use crate::fault::{Break, Fault};
use crate::generation::{Died, Generation, RepeatGuard, Start, Whole};
use crate::ledger::{SeenRequest, Visit};
use crate::model::SimModel;
use crate::names::ModelName;
use crate::options::LoadOptions;
use crate::pace::Pace;
use crate::state::NodeData;
use crate::{clock, served};

/// Answers one generation or embedding request. Everything held here is released when the client hangs up.
pub(crate) async fn infer(node: NodeData, request: HttpRequest, body: Bytes) -> HttpResponse {
    let (kind, path) = (node.engine.config().kind, request.path());
    let wire = Wire::of(kind, path);
    let fault = node.faults.take(&body);
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
    let job = Job { node: &node, kind, visit, fault };
    let answered = match work {
        Work::Generate(generate) => job.generate(path, wire, generate).await,
        Work::Embed(embed) => job.embed(wire, embed).await,
        Work::Load(residence) => job.load(residence).await,
        Work::Unload(residence) => job.unload(&residence),
    };
    answered.unwrap_or_else(|error| error.response(wire))
}

/// What the body of a request on this path wants.
pub(crate) fn read(path: &str, body: &[u8]) -> Result<Work, ApiError> {
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

/// Handles faults that strike before the request is parsed.
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

/// A parsed request on its way through the node.
struct Job<'a> {
    node: &'a NodeData,
    kind: SimKind,
    visit: Visit,
    fault: Option<Fault>,
}

impl Job<'_> {
    /// Ends the request with an error that is its own fault.
    fn refuse<T>(&mut self, error: ApiError) -> Result<T, ApiError> {
        self.visit.reject();
        Err(error)
    }

    /// The model on disk, or the server's 404.
    fn model(&mut self, name: &str, missing: impl FnOnce(&str) -> ApiError) -> Result<SimModel, ApiError> {
        let disk = self.node.engine.disk();
        let found = match self.kind {
            SimKind::Ollama if !name.is_empty() && ModelName::parse(name).is_none() => {
                Err(ApiError::bad_request("invalid model name"))
            }
            SimKind::Ollama => disk.find(name).ok_or_else(|| missing(name)),
            SimKind::LlamaServer | SimKind::Vllm => served::model(self.kind, &disk.models(), name),
        };
        found.or_else(|error| self.refuse(error))
    }

    async fn generate(mut self, path: &str, wire: Wire, generate: Generate) -> Result<HttpResponse, ApiError> {
        let started = clock::now();
        let Generate { ask, stream, keep_alive, options, truncates, format_error, .. } = &generate;
        let model = self.model(&ask.model, ApiError::model_not_found)?;
        let able = if self.kind == SimKind::Ollama { ask.check(&model) } else { served::check(self.kind, ask, &model) };
        able.or_else(|error| self.refuse(error))?;
        let options = options.clone().or_else(|error| self.refuse(error))?;
        let prompt_tokens = ask.prompt_tokens();
        self.visit.set_prompt_tokens(prompt_tokens);
        self.visit.set_queued(true);
        let engine = &self.node.engine;
        self.visit.set_found_loaded(engine.has(&model, &options));
        let hold = engine.hold(&model, *keep_alive, &options).await.inspect_err(|_| self.visit.reject())?;
        let load = clock::now() - started;
        let slot = hold.slot().await;
        self.visit.set_queued(false);
        let too_long = self.too_long(prompt_tokens, &options, *truncates);
        if let Some(error) = format_error.clone().or(too_long) {
            return self.refuse(error);
        }
        let cached = if self.kind == SimKind::LlamaServer { self.node.prompts.reuse(&ask.transcript()) } else { 0 };
        let (answer, stream) = (answer(ask, &model), *stream);
        let mut generation = Generation::new(Start {
            answer,
            prompt_tokens,
            cached_tokens: cached.min(prompt_tokens.saturating_sub(1)),
            guard: (self.kind == SimKind::Ollama).then(RepeatGuard::default),
            pace: Pace::new(engine, engine.config().solo_speed(&model), self.fault.as_ref()),
            dialect: served::dialect(self.kind, path, &model, generate),
            slot,
            visit: self.visit,
            fault: self.fault,
            started,
            load,
        });
        generation.prefill().await;
        if stream { Ok(streamed(generation).await) } else { Ok(whole(generation.whole().await?, wire)) }
    }

    /// The error for a prompt that does not fit the context and may not be shortened.
    fn too_long(&self, tokens: u64, options: &LoadOptions, truncates: bool) -> Option<ApiError> {
        let limit = options.context_length();
        if self.kind != SimKind::Ollama || tokens <= limit || (truncates && options.shifts_context()) {
            return None;
        }
        Some(if options.shifts_context() { ApiError::exceeds_context(tokens, limit) } else { ApiError::too_long() })
    }

    async fn embed(mut self, wire: Wire, embed: Embed) -> Result<HttpResponse, ApiError> {
        let started = clock::now();
        let missing =
            |name: &str| ApiError { status: 404, message: format!("model \"{name}\" not found, try pulling it first") };
        let model = self.model(&embed.model, missing)?;
        let options = embed.options.clone().or_else(|error| self.refuse(error))?;
        let prompt_tokens = embed.prompt_tokens();
        self.visit.set_prompt_tokens(prompt_tokens);
        self.visit.set_queued(true);
        let engine = &self.node.engine;
        self.visit.set_found_loaded(engine.has(&model, &options));
        let hold = engine.hold(&model, embed.keep_alive, &options).await.inspect_err(|_| self.visit.reject())?;
        let timings = Timings::new(started, clock::now() - started);
        let slot = hold.slot().await;
        self.visit.set_queued(false);
        if !embed.is_empty() && !model.can("embedding") {
            return self.refuse(embed.unsupported());
        }
        let speed = engine.config().solo_speed(&model);
        Pace::new(engine, speed, self.fault.as_ref()).prefill(prompt_tokens).await;
        let fault = self.fault.take();
        let how = fault.as_ref().and_then(Fault::in_stream).map(|(_, how)| how);
        let hangs = how == Some(Break::Hang) || fault == Some(Fault::HangBeforeHead);
        if how.is_some() || hangs || fault.as_ref().is_some_and(Fault::distorts) {
            self.visit.fault();
        }
        if hangs {
            pending::<()>().await;
        }
        if let Some(Break::Pause(pause)) = how {
            tokio::time::sleep(pause).await;
        }
        drop(slot);
        self.visit.complete();
        match how {
            Some(Break::Error) => Err(ApiError::runner_stopped()),
            Some(Break::Garbage) => Ok(whole(Whole { body: "this is not json".into(), dies: false }, wire)),
            _ => {
                let is_silent = how == Some(Break::End) || fault.as_ref().is_some_and(Fault::hides_usage);
                let body = Bytes::from(embed.body(&timings, (!is_silent).then_some(prompt_tokens)));
                let claim = fault.as_ref().and_then(Fault::usage_claim);
                let body = claim.map_or(body.clone(), |claim| claim.write(&body));
                Ok(whole(Whole { body, dies: how == Some(Break::Die) }, wire))
            }
        }
    }

    async fn load(mut self, residence: Residence) -> Result<HttpResponse, ApiError> {
        let model = self.model(&residence.model, ApiError::model_not_found)?;
        if !model.can("completion") {
            let message = format!("\"{}\" does not support {}", residence.model, residence.purpose);
            return self.refuse(ApiError::bad_request(message));
        }
        let options = residence.options.or_else(|error| self.refuse(error))?;
        self.visit.set_queued(true);
        self.visit.set_found_loaded(self.node.engine.has(&model, &options));
        let held = self.node.engine.hold(&model, residence.keep_alive, &options).await;
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

/// The head is sent with the first chunk, not before.
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
    let mut start = whole.body;
    start.truncate(length / 2);
    let start = stream::iter([Ok(start)]);
    let end = stream::once(async {
        // The first half is sent while this yields.
        yield_now().await;
        Err(Died)
    });
    let mut response = HttpResponse::Ok();
    response.content_type(json_type(wire)).no_chunking(length as u64).streaming(start.chain(end))
}

fn json_response(body: impl Into<Bytes>, wire: Wire) -> HttpResponse {
    HttpResponse::Ok().content_type(json_type(wire)).body(body.into())
}
