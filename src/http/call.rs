//! A request for a node before its body is read: whose it is, its id, and whether there is room for the body.
use std::future::{Ready, ready};
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::web::{Bytes, Data};
use actix_web::{FromRequest, HttpMessage, HttpRequest, HttpResponse};

use super::auth::{Caller, caller};
use super::awake::within;
use super::body::{self, Promise};
use super::body_memory::Hold;
use super::error::ApiError;
use super::observe::RequestId;
use super::serve::Inference;
use super::settings::ServerSettings;
use protocol::{Endpoint, TokenCount};

/// Bodies up to this size, bytes, are read before any limit is checked, so that a refusal can name the model.
const SMALL: usize = 64 * 1024;

/// A request for a node, with its body still to come.
pub struct Call {
    inference: Data<Inference>,
    settings: Data<ServerSettings>,
    id: RequestId,
    caller: Caller,
    http: HttpRequest,
    payload: Payload,
}

impl FromRequest for Call {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        ready(Self::new(request, payload))
    }
}

impl Call {
    fn new(request: &HttpRequest, payload: &mut Payload) -> Result<Self, ApiError> {
        let inference = request.app_data::<Data<Inference>>().cloned();
        let settings = request.app_data::<Data<ServerSettings>>().cloned();
        let id = request.extensions().get::<RequestId>().copied();
        let (Some(inference), Some(settings), Some(id)) = (inference, settings, id) else {
            return Err(ApiError::internal("The service is not set up completely."));
        };
        let began = inference.meters.clock.now();
        let caller = caller(request);
        let ended = inference.meters.clock.uptime();
        inference.meters.metrics.overhead("auth", ended.saturating_sub(began.uptime));
        inference.begin_trace(request, began, ended);
        Ok(Self { inference, settings, id, caller: caller?, http: request.clone(), payload: payload.take() })
    }

    /// Reads the body and answers the request.
    pub(super) async fn serve(mut self, endpoint: Endpoint) -> Result<HttpResponse, ApiError> {
        if !self.inference.intake.takes(&self.http) {
            self.inference.meters.metrics.queue_rejected("stopping");
            return Err(ApiError::stopping());
        }
        let body = self.receive(endpoint).await?;
        self.inference.serve(endpoint, self.id, self.caller, &self.http, body).await
    }

    /// Estimates the tokens of a prompt. No node is asked, nothing is charged and no row is written.
    pub(super) async fn count_tokens(mut self) -> Result<TokenCount, ApiError> {
        let (body, _hold) = self.receive(Endpoint::Messages).await?;
        let count = protocol::count_tokens(&protocol::repaired(body)?)?;
        self.inference.resolve(&count.model, &self.caller.0)?;
        Ok(count)
    }

    /// Reads the body, if the user may send one more request and there is memory for it.
    async fn receive(&mut self, endpoint: Endpoint) -> Result<(Bytes, Hold), ApiError> {
        let access = &self.caller.0;
        let limit = self.settings.max_body_bytes;
        let promise = Promise::of(&self.http, limit)?;
        let refuse = |error| self.inference.refuse_unread(error, endpoint, self.id, access, &self.http);
        if promise.is_more_than(SMALL) {
            let now = self.inference.meters.clock.now();
            let arriving = self.inference.memory.arriving(access.user().as_str());
            if let Err(over) = access.has_room(arriving, now) {
                return Err(refuse(ApiError::over(&over, access.headroom(now))));
            }
        }
        let user = access.user().shared();
        let mut hold =
            self.inference.memory.hold(&user, promise.bytes()).map_err(|full| refuse(ApiError::no_room(Some(full))))?;
        let deadline = Duration::from_secs(self.settings.body_seconds);
        let reading = body::read(self.payload.take(), limit, promise, |bytes| {
            hold.grow_to(bytes).map_err(|full| ApiError::no_room(Some(full)))
        });
        let body = within(deadline, reading).await.ok_or_else(ApiError::body_too_slow)??;
        hold.arrived(body.len());
        Ok((body, hold))
    }
}
