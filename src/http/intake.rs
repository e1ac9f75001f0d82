//! Does a gateway that was told to stop take one more request?
//!
//! | phase | begins | not ready, closes connections after an answer | takes requests |
//! |---|---|---|---|
//! | serving | | no | all |
//! | leaving | with SIGTERM | yes | all: a balancer may not have noticed yet |
//! | closing | after `server.lame_duck_seconds` | yes | on connections that were open before |
//! | refusing | when nothing runs any more, or half of `server.drain_seconds` is over | yes | none |
//!
//! A client that keeps connections open learns of the stop by an answer only, so one more request on each of them is
//! served. No phase comes back.

use actix_web::HttpRequest;
use actix_web::dev::Extensions;
use tokio_util::sync::CancellationToken;

use super::newcomers::Newcomers;

/// Which requests for nodes a gateway takes. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Intake {
    /// Cancelled once the gateway was told to stop.
    pub draining: CancellationToken,
    closing: CancellationToken,
    refusing: CancellationToken,
    /// Clients that have sent no request yet.
    pub newcomers: Newcomers,
}

/// Marks a connection that came when the gateway was closing.
struct CameLate;

impl Intake {
    /// From now on the gateway is not ready.
    pub fn leave(&self) {
        self.draining.cancel();
    }

    /// From now on requests on new connections are refused.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// From now on every request is refused.
    pub fn refuse(&self) {
        self.refusing.cancel();
    }

    /// A client has connected; `data` is the connection's.
    pub fn connected(&self, data: &mut Extensions) {
        if self.closing.is_cancelled() {
            data.insert(CameLate);
        }
    }

    pub(super) fn takes(&self, request: &HttpRequest) -> bool {
        !self.refusing.is_cancelled() && request.conn_data::<CameLate>().is_none()
    }
}
