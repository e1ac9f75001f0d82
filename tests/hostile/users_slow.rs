//! A user reads a few bytes a second of answers that a node has long had ready.
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::good::{fleet_at, hold};
use crate::harness::{TestApp, eventually, let_pass, stream_body};
use crate::scripted::{CHAT_END, ScriptedNode, Step, chat_event, chunk, last_chunk, stream_head};

/// Of all of a request.
const TOTAL: Duration = Duration::from_secs(3);
/// How much later than that a busy machine may notice.
const LATE: Duration = Duration::from_secs(2);
/// Slow readers at a time: half of the slots.
const READERS: usize = 8;
/// What each of them reads in a tenth of a second.
const SIP: usize = 5;
/// What slow readers ask for.
const SLOW: &str = "slow reader";

/// A node that has more of an answer ready than fits between it and a slow reader. Others get theirs in a quarter of a
/// second.
async fn ready_node() -> ScriptedNode {
    let large = chunk(chat_event(&"x".repeat(60_000)));
    let event = chat_event("one");
    let slowly = Step::Trickle(format!("{:x}\r\n{event}\r\n", event.len()).into(), Duration::from_millis(1));
    ScriptedNode::start(move |received| {
        let is_slow = received.body.windows(SLOW.len()).any(|window| window == SLOW.as_bytes());
        let steps =
            if is_slow { vec![large.clone(); 2_000] } else { vec![slowly.clone(), chunk(CHAT_END), last_chunk()] };
        [stream_head()].into_iter().chain(steps).collect()
    })
    .await
}

/// Asks for a long answer and reads it slowly until the gateway closes the connection; the bytes are counted.
async fn sip(app: &TestApp, key: &str, read: Rc<Cell<usize>>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut connection = socket.connect(app.address).await.unwrap();
    let body = stream_body("llama3.2", SLOW).to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut few = [0; SIP];
    while let Ok(count @ 1..) = connection.read(&mut few).await {
        read.set(read.get() + count);
        let_pass(Duration::from_millis(100)).await;
    }
}

/// Slow readers that go on until they are dropped.
fn readers(app: &TestApp, key: &str, read: &Rc<Cell<usize>>) -> impl Future<Output = ()> {
    // One after the other, as what fits into the buffers comes at full speed.
    let sips = (0..READERS as u32).map(|number| async move {
        let_pass(number * Duration::from_millis(100)).await;
        sip(app, key, read.clone()).await;
    });
    let all = futures_util::future::join_all(sips);
    async move { drop(all.await) }
}

fn running(app: &TestApp) -> usize {
    app.dispatcher.read(|scheduler| scheduler.in_flight())
}

#[actix_rt::test]
async fn whoever_reads_slowly_holds_a_slot_no_longer_than_a_request_may_last() {
    let nodes = [ready_node().await, ready_node().await];
    let (app, keys) =
        fleet_at(nodes.iter().map(ScriptedNode::url), |config| config.relay.total_seconds = TOTAL.as_secs()).await;
    let slow = app.user("slow").await;
    let read = Rc::new(Cell::new(0));

    hold(&app, &keys, async || {
        // As many again whenever the deadline has ended those before.
        let wait = let_pass(TOTAL + LATE);
        futures_util::future::select(std::pin::pin!(readers(&app, &slow, &read)), std::pin::pin!(wait)).await;
    })
    .await;

    let reading = readers(&app, &slow, &read);
    let ended = async {
        eventually("all of them have slots", || running(&app) == READERS).await;
        let before = read.get();
        eventually("the deadline frees the slots", || running(&app) == 0).await;
        assert!(read.get() > before, "they went on reading");
        eventually("the nodes need not go on", || {
            nodes.iter().map(ScriptedNode::closed_connections).sum::<usize>() >= 2 * READERS
        })
        .await;
    };
    futures_util::future::select(std::pin::pin!(reading), std::pin::pin!(ended)).await;
    // Those that were there when the good users had all their answers have left by themselves.
    let (ended, left): (Vec<Value>, Vec<Value>) =
        app.rows(&slow).await.into_iter().partition(|row| row["status"] == "deadline");
    assert!(ended.len() >= 2 * READERS, "{}", ended.len());
    assert!(left.iter().all(|row| row["code"] == "client_cancelled"), "{left:?}");
    for row in &ended {
        let took = Duration::from_millis(row["duration_ms"].as_u64().unwrap());
        assert!((TOTAL..TOTAL + LATE).contains(&took), "{row}");
        assert!(row["completion_tokens"].as_u64().unwrap() > 0, "what was made until then is charged: {row}");
    }
    app.stop().await;
}

/// The control: they do not end by themselves, and are not taken for clients that have stopped reading.
#[actix_rt::test]
async fn whoever_reads_slowly_within_the_deadline_keeps_the_stream() {
    let nodes = [ready_node().await, ready_node().await];
    let (app, _) =
        fleet_at(nodes.iter().map(ScriptedNode::url), |config| config.server.client_stall_seconds = 30).await;
    let slow = app.user("slow").await;
    let read = Rc::new(Cell::new(0));

    let held = async {
        eventually("all of them have slots", || running(&app) == READERS).await;
        let_pass(TOTAL + LATE).await;
        running(&app)
    };
    let reading = readers(&app, &slow, &read);
    let held = match futures_util::future::select(std::pin::pin!(held), std::pin::pin!(reading)).await {
        futures_util::future::Either::Left((held, _)) => held,
        futures_util::future::Either::Right(_) => 0,
    };

    assert_eq!(held, READERS);
    eventually("they have left", || running(&app) == 0).await;
    let rows = app.rows_once(&slow, READERS).await;
    assert!(rows.iter().all(|row: &Value| row["status"] == "cancelled"), "{rows:?}");
    app.stop().await;
}
