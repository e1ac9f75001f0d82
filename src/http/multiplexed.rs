//! What does a request over HTTP/2 need that the server does by itself over HTTP/1.1? To notice that its client has left
//! or stopped reading, and a bound on the requests that one connection has open at a time.
use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, EitherBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::Version;
use actix_web::http::header::{HOST, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web::{Bytes, Data};
use actix_web::{Error, HttpMessage};
use futures_util::{Stream, StreamExt};

use super::error::ApiError;
use super::settings::ServerSettings;

/// How often a request looks whether its client is still there: HTTP/2 tells nobody who is not sending.
const LOOK: Duration = Duration::from_millis(200);
/// Requests that one connection may have open at a time. A client with more opens another connection.
const MOST_AT_ONCE: u32 = 1_000;
/// Parts of a body that nobody reads which are thrown away at each look.
const MOST_DISCARDED: usize = 64;

/// The requests that are open on one connection.
#[derive(Clone, Debug, Default)]
pub struct OpenStreams(Rc<Cell<u32>>);

impl OpenStreams {
    fn place(&self) -> Option<Place> {
        let open = self.0.get();
        (open < MOST_AT_ONCE).then(|| {
            self.0.set(open + 1);
            Place(self.0.clone())
        })
    }
}

/// A place among the open requests of a connection; freed on drop.
#[derive(Debug)]
struct Place(Rc<Cell<u32>>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Gives a request over HTTP/2 the header `Host`, which every request over HTTP/1.1 has.
pub(super) fn name_host(request: &mut ServiceRequest) {
    if request.version() != Version::HTTP_2 || request.headers().contains_key(HOST) {
        return;
    }
    let authority = request.uri().authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    if let Some(authority) = authority {
        request.headers_mut().insert(HOST, authority);
    }
}

/// The middleware that ends a request over HTTP/2 once its client has left or reads nothing.
///
/// # Errors
/// Those of the service it wraps, and if the client has left.
pub async fn watch_streams(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<EitherBody<impl MessageBody, GuardedBody>>, Error> {
    if request.version() != Version::HTTP_2 {
        return next.call(request).await.map(ServiceResponse::map_into_left_body);
    }
    let place = match request.conn_data::<OpenStreams>().map(OpenStreams::place) {
        Some(None) => {
            let refusal = ApiError::too_many_streams(MOST_AT_ONCE);
            return Ok(request
                .error_response(refusal)
                .map_into_boxed_body()
                .map_body(|_, body| EitherBody::right(GuardedBody::new(body, None))));
        }
        place => place.flatten(),
    };
    let settings = request.app_data::<Data<ServerSettings>>();
    let stall = Duration::from_secs(settings.map_or(30, |settings| settings.client_stall_seconds));
    let inbound = Inbound::new(request.take_payload());
    request.set_payload(Payload::Stream { payload: Box::pin(inbound.reader()) });
    let response = answered(next.call(request), &inbound).await?;
    Ok(response.map_body(|_, body| {
        let body = GuardedBody::new(body.boxed(), place);
        if body.size() == BodySize::Stream {
            // It ends with the body, at the latest one look later.
            tokio::task::spawn_local(guard(Rc::downgrade(&body.shared), inbound, stall));
        }
        EitherBody::right(body)
    }))
}

/// Waits for the answer, as long as the client does.
async fn answered<T>(calling: impl Future<Output = Result<T, Error>>, inbound: &Inbound) -> Result<T, Error> {
    let mut calling = std::pin::pin!(calling);
    loop {
        match tokio::time::timeout(LOOK, calling.as_mut()).await {
            Ok(answer) => return answer,
            Err(_) if inbound.is_left_alone() && inbound.has_left() => {
                return Err(PayloadError::Incomplete(None).into());
            }
            Err(_) => {}
        }
    }
}

/// What comes from the client.
#[derive(Clone)]
struct Inbound(Rc<RefCell<Arriving>>);

struct Arriving {
    payload: Payload,
    /// Whether a handler may still read it.
    is_read: bool,
}

impl Inbound {
    fn new(payload: Payload) -> Self {
        Self(Rc::new(RefCell::new(Arriving { payload, is_read: true })))
    }

    fn reader(&self) -> Reader {
        Reader(self.clone())
    }

    fn is_left_alone(&self) -> bool {
        !self.0.borrow().is_read
    }

    /// Whether the stream was reset or its connection has ended. What still comes is thrown away, so nobody else may be
    /// reading.
    fn has_left(&self) -> bool {
        // Nobody needs to be woken: the next look comes by itself.
        let mut context = Context::from_waker(Waker::noop());
        let mut arriving = self.0.borrow_mut();
        for _ in 0..MOST_DISCARDED {
            match arriving.payload.poll_next_unpin(&mut context) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_))) => return true,
                // The client has said everything, and waits.
                Poll::Ready(None) | Poll::Pending => return false,
            }
        }
        false
    }
}

/// The body, for the handler; once it is dropped, nobody needs what may still come.
struct Reader(Inbound);

impl Stream for Reader {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.0.borrow_mut().payload.poll_next_unpin(context)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.0.borrow_mut().is_read = false;
    }
}

/// The body of an answer, which can be taken away from a client that does not read it.
pub struct GuardedBody {
    shared: Rc<RefCell<Answering>>,
    size: BodySize,
    _place: Option<Place>,
}

struct Answering {
    /// `None` once it was taken away.
    body: Option<BoxBody>,
    /// Asks for the next part again.
    waker: Option<Waker>,
    /// Whether the client has taken all that was handed out, so that it is the node that is waited for.
    is_asked_for: bool,
    /// Looks since a part was handed out and no other asked for.
    looks: u32,
}

impl GuardedBody {
    fn new(body: BoxBody, place: Option<Place>) -> Self {
        let size = body.size();
        let answering = Answering { body: Some(body), waker: None, is_asked_for: true, looks: 0 };
        Self { shared: Rc::new(RefCell::new(answering)), size, _place: place }
    }
}

impl MessageBody for GuardedBody {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let mut answering = self.shared.borrow_mut();
        answering.is_asked_for = true;
        let Some(body) = &mut answering.body else {
            // Resets the stream: an answer that was cut short must not look complete.
            return Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::BrokenPipe).into())));
        };
        let polled = Pin::new(body).poll_next(context);
        match polled {
            Poll::Ready(_) => (answering.is_asked_for, answering.looks) = (false, 0),
            Poll::Pending => answering.waker = Some(context.waker().clone()),
        }
        polled
    }
}

/// Takes the body away, and with it the slot, once the client has left or has read nothing for `stall`.
async fn guard(answering: Weak<RefCell<Answering>>, inbound: Inbound, stall: Duration) {
    let mut looking = tokio::time::interval(LOOK);
    let patience = u32::try_from(stall.as_millis() / LOOK.as_millis()).unwrap_or(u32::MAX);
    loop {
        looking.tick().await;
        let Some(shared) = answering.upgrade() else { return };
        let mut answering = shared.borrow_mut();
        answering.looks = if answering.is_asked_for { 0 } else { answering.looks.saturating_add(1) };
        if !inbound.has_left() && answering.looks <= patience {
            continue;
        }
        let (body, waker) = (answering.body.take(), answering.waker.take());
        drop(answering);
        // Outside of the borrow, as either may look at the answer once more.
        drop(body);
        waker.iter().for_each(Waker::wake_by_ref);
        return;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_has_so_many_requests_open_and_no_more() {
        let streams = OpenStreams::default();
        let mut places: Vec<Place> = std::iter::from_fn(|| streams.place()).collect();
        assert_eq!(places.len(), MOST_AT_ONCE as usize);
        assert!(streams.place().is_none());
        places.pop();
        assert!(streams.place().is_some());
    }
}
