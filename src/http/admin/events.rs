//! The operator listens to what happens.
use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::web::Data;

use crate::http::answers;
use crate::http::auth::Admin;
use crate::http::error::ApiError;
use crate::http::events::EventFeed;
use crate::http::ops::Lifecycle;

/// Listen to events
///
/// Server-sent events. `snapshot` (a `LiveSnapshot`) comes first: the nodes, the open requests, and the last changes. Then
/// `tick` (a `LiveFleet`) comes once a second, and `change` (a `ChangeRecord`) whenever something happens. A comment comes
/// where nothing else does for 15 seconds. `end` (an `EndRecord`) is the last one. At most 32 may listen to a gateway. The
/// nodes and the places in the queue are those of the gateway that schedules for all; the requests and the changes are this
/// gateway's own.
#[utoipa::path(
    get, path = "/admin/events", tag = "admin", security(("admin_key" = [])),
    responses(
        (status = 200, description = "Events until the client leaves.", content_type = "text/event-stream", body = String),
        (status = 503, description = "Too many clients are listening already, or the gateway stops.", body = answers::ErrorBody),
        answers::AdminResponses,
    ),
)]
pub async fn listen(_: Admin, lifecycle: Data<Lifecycle>, feed: Data<EventFeed>) -> Result<HttpResponse, ApiError> {
    if lifecycle.draining.is_cancelled() {
        return Err(ApiError::stopping());
    }
    let listener = feed.listen().await.ok_or_else(ApiError::too_many_listeners)?;
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/event-stream; charset=utf-8"))
        .insert_header((CACHE_CONTROL, "no-store"))
        // Tells nginx in front of us to pass each event on at once.
        .insert_header(("x-accel-buffering", "no"))
        .streaming(listener.stream()))
}
