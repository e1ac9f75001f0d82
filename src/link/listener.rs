//! Who calls this gateway? The server of `cluster.bind`, which knows one route and answers only those who know the
//! cluster's secret.
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::web::{Data, Payload, get};
use actix_web::{App, Error, HttpRequest, HttpResponse, HttpServer};
use actix_ws::{Message, MessageStream, Session};

use super::context::LinkContext;
use super::conversation::{Conversation, MOST_BYTES, PATIENCE};
use super::handshake::{Hello, Purpose, Secret};
use cluster::{Candidate, LeaseNews};

/// The path of the link.
const PATH: &str = "/link";
/// The most bytes of a message from somebody who has not proved to know the secret.
const STRANGERS_BYTES: usize = 4096;
/// Connections at a time: far more than there are gateways, and few enough to bound what strangers can hold.
const MOST_CONNECTIONS: usize = 256;

/// Serves the other gateways on this listener.
///
/// # Errors
/// The listener cannot be used.
pub fn listen(context: LinkContext, listener: TcpListener) -> io::Result<Server> {
    let data = Data::new(context);
    let server = HttpServer::new(move || App::new().app_data(data.clone()).route(PATH, get().to(answer)))
        .workers(1)
        .max_connections(MOST_CONNECTIONS)
        .client_request_timeout(Duration::from_secs(2))
        .tcp_nodelay(true)
        .shutdown_timeout(1)
        .disable_signals()
        .listen(listener)?;
    Ok(server.run())
}

async fn answer(request: HttpRequest, body: Payload, context: Data<LinkContext>) -> Result<HttpResponse, Error> {
    let (response, session, stream) = actix_ws::handle(&request, body)?;
    let stream = stream.max_frame_size(STRANGERS_BYTES);
    actix_rt::spawn(async move {
        let closing = session.clone();
        serve(session, stream, &context).await;
        let _ = tokio::time::timeout(PATIENCE, closing.close(None)).await;
    });
    Ok(response)
}

async fn serve(mut session: Session, mut stream: MessageStream, context: &LinkContext) {
    let shaking = tokio::time::timeout(PATIENCE, shake(&mut session, &mut stream, context));
    let Ok(Some(mut conversation)) = shaking.await else { return };
    // Only who has proved to know the secret may send as much as gateways do.
    let mut stream = stream.max_frame_size(MOST_BYTES);
    let silence = tokio::time::sleep(PATIENCE);
    tokio::pin!(silence);
    loop {
        tokio::select! {
            message = stream.recv() => {
                match message {
                    Some(Ok(Message::Text(text))) if conversation.hear(text.as_bytes()) => {}
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    _ => return,
                }
                silence.set(tokio::time::sleep(PATIENCE));
            }
            message = conversation.next() => {
                let Some(message) = message else { return };
                let sending = tokio::time::timeout(PATIENCE, session.text(message));
                if !matches!(sending.await, Ok(Ok(()))) {
                    return;
                }
            }
            () = &mut silence => return,
        }
    }
}

/// Lets in who knows the secret and wants what this gateway can give.
async fn shake(session: &mut Session, stream: &mut MessageStream, context: &LinkContext) -> Option<Conversation> {
    let challenge = Secret::challenge();
    session.text(serde_json::to_string(&challenge).ok()?).await.ok()?;
    let Some(Ok(Message::Text(text))) = stream.recv().await else { return None };
    let hello: Hello = serde_json::from_slice(text.as_bytes()).ok()?;
    if !context.secret.accepts_hello(&hello, &challenge) {
        context.warn_of_stranger();
        return None;
    }
    match &hello.purpose {
        Purpose::Summon { address, epoch } => {
            let gateway = hello.gateway.as_str().into();
            let candidate = Candidate { gateway, address: address.as_str().into(), epoch: *epoch };
            context.dispatcher.lease(LeaseNews::Taken(candidate));
            None
        }
        Purpose::Look { question } => {
            let answer = context.dispatcher.answer(question).filter(|answer| answer.len() <= MOST_BYTES)?;
            let welcome = context.secret.welcome(&context.own, context.dispatcher.welcomes()?, &hello);
            session.text(serde_json::to_string(&welcome).ok()?).await.ok()?;
            session.text(answer).await.ok()?;
            // The caller hangs up when it has read the answer.
            drop(stream.recv().await);
            None
        }
        Purpose::Follow => {
            let epoch = context.dispatcher.welcomes()?;
            let welcome = context.secret.welcome(&context.own, epoch, &hello);
            let gateway: Arc<str> = hello.gateway.as_str().into();
            // The link stands before the welcome goes out: the follower's report comes right after it.
            let link = context.dispatcher.accept(gateway.clone());
            let conversation = Conversation::new(context.dispatcher.clone(), gateway, link);
            session.text(serde_json::to_string(&welcome).ok()?).await.ok()?;
            Some(conversation)
        }
    }
}
