//! Does anything that a stranger presents reach the database?
use std::cell::Cell;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::harness::{ADMIN_KEY, TestApp, TestDatabase, fast_node, let_pass, node, spawn_app_with};

/// Strangers, each at an address of their own, and the keys that each tries.
const STRANGERS: u8 = 10;
const KEYS_EACH: usize = 1000;
/// Far more than the gateway's own tasks say to the database meanwhile, and far less than a word about each key.
const MOST_BYTES: u64 = 100_000;

/// Stands in front of Postgres and counts what it is sent.
struct Counted {
    url: String,
    sent: Rc<Cell<u64>>,
}

impl Counted {
    async fn new(url: &str) -> Self {
        let (before, after) = url.split_once('@').unwrap();
        let (server, name) = after.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{before}@{}/{name}", listener.local_addr().unwrap());
        let (sent, server) = (Rc::<Cell<u64>>::default(), server.to_owned());
        let counter = sent.clone();
        actix_rt::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                actix_rt::spawn(carry(client, server.clone(), counter.clone()));
            }
        });
        Self { url, sent }
    }
}

async fn carry(client: TcpStream, server: String, sent: Rc<Cell<u64>>) {
    let server = TcpStream::connect(server).await.unwrap();
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let back = actix_rt::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let mut bytes = [0; 8192];
    while let Ok(count @ 1..) = from_client.read(&mut bytes).await {
        sent.set(sent.get() + count as u64);
        if to_server.write_all(&bytes[..count]).await.is_err() {
            break;
        }
    }
    drop(to_server);
    let _ = back.await;
}

/// Tries one key after the other on one connection from an address of their own; how many were told 401.
async fn guess(app: &TestApp, stranger: u8) -> usize {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 1, stranger), 0).into()).unwrap();
    let mut connection = socket.connect(app.address).await.unwrap();
    let mut refused = 0;
    for number in 0..KEYS_EACH {
        let request = format!(
            "GET /v1/models HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer sk-ann-{stranger:016x}{number:016x}\r\n\r\n"
        );
        connection.write_all(request.as_bytes()).await.unwrap();
        let answer = read_answer(&mut connection).await;
        refused += usize::from(answer.starts_with("HTTP/1.1 401 "));
    }
    refused
}

/// One answer with a content-length.
async fn read_answer(connection: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    loop {
        let mut bytes = [0; 4096];
        let count = connection.read(&mut bytes).await.unwrap();
        assert!(count > 0, "the gateway goes on: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&bytes[..count]);
        let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if body.len() == length.parse::<usize>().unwrap() {
            return String::from_utf8(answer).unwrap();
        }
    }
}

#[actix_rt::test]
async fn keys_that_nobody_knows_never_reach_the_database() {
    let Some(mut database) = TestDatabase::postgres().await else { return };
    let counted = Counted::new(&database.url).await;
    database.url = counted.url.clone();
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 4)], database, |_| {}).await;
    let key = app.user("ann").await;
    // The measure measures: each of these asks the database.
    let before = counted.sent.get();
    for _ in 0..100 {
        assert_eq!(app.get("/admin/users/ann/usage", ADMIN_KEY).await.status, 200);
    }
    assert!(counted.sent.get() - before > 100 * 40);

    let before = counted.sent.get();
    let done = Cell::new(0);
    let strangers = join_all((1..=STRANGERS).map(async |stranger| {
        let refused = guess(&app, stranger).await;
        done.set(done.get() + 1);
        refused
    }));
    let known = async {
        while done.get() < STRANGERS {
            assert_eq!(app.get("/v1/models", &key).await.status, 200, "whoever has a key goes on");
            let_pass(Duration::from_millis(20)).await;
        }
    };
    let (refused, ()) = tokio::join!(strangers, known);

    assert_eq!(refused.iter().sum::<usize>(), usize::from(STRANGERS) * KEYS_EACH);
    let sent = counted.sent.get() - before;
    assert!(sent < MOST_BYTES, "{sent} bytes for {} keys", usize::from(STRANGERS) * KEYS_EACH);
    app.stop().await;
}
