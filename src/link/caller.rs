//! Whom does this gateway call? The leader that it is to follow; and, while it leads, those that it misses: to see whether
//! they still listen, and to tell them whom to follow.
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use actix_rt::net::TcpStream;
use actix_service::{Service, fn_service};
use actix_tls::connect::{ConnectError, ConnectInfo, Connection};
use awc::BoxedSocket;
use awc::http::Uri;
use awc::ws::{Codec, Frame, Message};
use futures_util::stream::unfold;
use futures_util::{SinkExt, StreamExt};
use tokio_util::sync::CancellationToken;

use super::context::LinkContext;
use super::conversation::{Conversation, MOST_BYTES, PATIENCE};
use super::handshake::{Challenge, Purpose, Welcome};
use super::settings::host_and_port;
use crate::dispatch::Asking;
use cluster::{Candidate, Neighbour};

/// The path of the link at the other gateway.
const PATH: &str = "/link";
/// The pause before a gateway looks again whom to call.
const PAUSE: Duration = Duration::from_millis(50);
/// Questions that are asked at a time.
const QUESTIONS: usize = 4;
/// The time between two calls of one that is missed.
const SUMMON: Duration = Duration::from_millis(200);

type Socket = actix_codec::Framed<BoxedSocket, Codec>;

/// Calls whom it must, until `stop`.
pub async fn call(context: LinkContext, stop: CancellationToken) {
    let client = client();
    let working = async {
        tokio::join!(follow(&client, &context), summon(&client, &context), look(&client, &context), tick(&context));
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = working => {}
    }
}

/// Lets time pass for the member.
async fn tick(context: &LinkContext) {
    for count in 0_u64.. {
        tokio::time::sleep(Duration::from_millis(200)).await;
        // Every fifth of these ticks ends a whole second.
        context.dispatcher.tick_member(count.is_multiple_of(5));
    }
}

/// Follows a leader, whenever there is one.
async fn follow(client: &awc::Client, context: &LinkContext) {
    loop {
        if let Some(candidate) = context.dispatcher.target()
            && let Some((socket, conversation)) = dial(client, context, &candidate).await
        {
            converse(socket, conversation).await;
            continue;
        }
        // A new leader is called at once; the pause bounds how often one that does not answer is called.
        let _ = tokio::time::timeout(PAUSE, context.dispatcher.roles.notified()).await;
    }
}

async fn converse(mut socket: Socket, mut conversation: Conversation) {
    let silence = tokio::time::sleep(PATIENCE);
    tokio::pin!(silence);
    loop {
        tokio::select! {
            frame = socket.next() => {
                match frame {
                    Some(Ok(Frame::Text(text))) if conversation.hear(&text) => {}
                    Some(Ok(Frame::Ping(_) | Frame::Pong(_))) => {}
                    _ => return,
                }
                // Whatever was heard, the other side is there: its pings come more often than this.
                silence.set(tokio::time::sleep(PATIENCE));
            }
            message = conversation.next() => {
                let Some(message) = message else { return };
                let sending = tokio::time::timeout(PATIENCE, socket.send(Message::Text(message.into())));
                if !matches!(sending.await, Ok(Ok(()))) {
                    return;
                }
            }
            () = &mut silence => return,
        }
    }
}

/// Makes the link with a leader.
async fn dial(client: &awc::Client, context: &LinkContext, candidate: &Candidate) -> Option<(Socket, Conversation)> {
    let shaking = async {
        let mut socket = connect(client, &candidate.address).await.ok()?;
        let challenge: Challenge = read(&mut socket).await?;
        let hello = context.secret.hello(&context.own, Purpose::Follow, &challenge);
        send(&mut socket, &hello).await?;
        let welcome: Welcome = read(&mut socket).await?;
        if !context.secret.accepts_welcome(&welcome, &hello) {
            tracing::warn!(address = &*candidate.address, "who answers there does not know the cluster's secret");
            return None;
        }
        let leader: Arc<str> = welcome.gateway.as_str().into();
        let link = context.dispatcher.follow(&leader, welcome.epoch)?;
        Some((socket, Conversation::new(context.dispatcher.clone(), leader, link)))
    };
    tokio::time::timeout(PATIENCE, shaking).await.ok().flatten()
}

/// Asks the leader what somebody wants to see, a few questions at a time. Each has a connection of its own, as an answer may
/// be long and must not hold up the frames of the link.
async fn look(client: &awc::Client, context: &LinkContext) {
    let receiver = context.dispatcher.take_questions();
    let questions = unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    let answering = questions.for_each_concurrent(QUESTIONS, |Asking { leader, question, mut answer }| async move {
        let asking = tokio::time::timeout(PATIENCE, ask(client, context, &leader, question));
        tokio::select! {
            asked = asking => {
                if let Ok(Some(text)) = asked {
                    let _ = answer.send(text);
                }
            }
            // Whoever asked has waited long enough.
            () = answer.closed() => {}
        }
    });
    answering.await;
}

async fn ask(client: &awc::Client, context: &LinkContext, leader: &Candidate, question: String) -> Option<String> {
    let mut socket = connect(client, &leader.address).await.ok()?;
    let challenge: Challenge = read(&mut socket).await?;
    let hello = context.secret.hello(&context.own, Purpose::Look { question }, &challenge);
    send(&mut socket, &hello).await?;
    let welcome: Welcome = read(&mut socket).await?;
    if !context.secret.accepts_welcome(&welcome, &hello) {
        return None;
    }
    match socket.next().await {
        Some(Ok(Frame::Text(text))) => String::from_utf8(text.to_vec()).ok(),
        _ => None,
    }
}

/// Looks after the gateways that a leader misses.
async fn summon(client: &awc::Client, context: &LinkContext) {
    let mut refusals: HashMap<Arc<str>, u32> = HashMap::new();
    loop {
        tokio::time::sleep(SUMMON).await;
        let Some((epoch, missing)) = context.dispatcher.missing() else {
            refusals.clear();
            continue;
        };
        refusals.retain(|gateway, _| missing.iter().any(|neighbour| neighbour.gateway == *gateway));
        for neighbour in missing {
            // A refused connection is proof that the process has ended; silence may be the network's.
            let is_refused = summon_one(client, context, &neighbour, epoch).await;
            let count = refusals.entry(neighbour.gateway.clone()).or_default();
            *count = if is_refused { *count + 1 } else { 0 };
            // Twice, so that a restart between two of its listeners does not count.
            if *count >= 2 {
                context.dispatcher.is_dead(&neighbour.gateway);
            }
        }
    }
}

/// Tells a gateway whom to follow. Whether its address refuses connections.
async fn summon_one(client: &awc::Client, context: &LinkContext, neighbour: &Neighbour, epoch: u64) -> bool {
    let summoning = async {
        let mut socket = match connect(client, &neighbour.address).await {
            Ok(socket) => socket,
            Err(is_refused) => return is_refused,
        };
        if let Some(challenge) = read::<Challenge>(&mut socket).await {
            let purpose = Purpose::Summon { address: context.address.to_string(), epoch };
            send(&mut socket, &context.secret.hello(&context.own, purpose, &challenge)).await;
        }
        false
    };
    tokio::time::timeout(PATIENCE, summoning).await.unwrap_or(false)
}

async fn read<T: serde::de::DeserializeOwned>(socket: &mut Socket) -> Option<T> {
    match socket.next().await {
        Some(Ok(Frame::Text(text))) => serde_json::from_slice(&text).ok(),
        _ => None,
    }
}

async fn send(socket: &mut Socket, message: &impl serde::Serialize) -> Option<()> {
    let message = serde_json::to_string(message).ok()?;
    socket.send(Message::Text(message.into())).await.ok()
}

/// Connects; an error says whether the connection was refused.
async fn connect(client: &awc::Client, address: &str) -> Result<Socket, bool> {
    let host = host_and_port(address).ok_or(false)?;
    let connecting = client.ws(format!("ws://{host}{PATH}")).max_frame_size(MOST_BYTES).connect();
    match connecting.await {
        Ok((_, socket)) => Ok(socket),
        Err(error) => Err(is_refused(&error)),
    }
}

fn is_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::ConnectionRefused
        {
            return true;
        }
        cause = error.source();
    }
    // Not every layer of the client names its cause.
    format!("{error:?}").contains("ConnectionRefused")
}

/// A client whose small messages are sent at once.
fn client() -> awc::Client {
    let resolver = actix_tls::connect::Connector::default().service();
    let tcp = fn_service(move |info: ConnectInfo<Uri>| {
        let connecting = resolver.call(info);
        async move {
            let connection: Connection<Uri, TcpStream> = connecting.await?;
            let (stream, connection) = connection.replace_io(());
            stream.set_nodelay(true).map_err(ConnectError::Io)?;
            Ok::<_, ConnectError>(connection.replace_io(stream).1)
        }
    });
    let connector = awc::Connector::new().connector(tcp).timeout(PATIENCE).handshake_timeout(PATIENCE);
    awc::Client::builder().connector(connector).disable_redirects().finish()
}
