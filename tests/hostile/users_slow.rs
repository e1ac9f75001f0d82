//! A user reads a few bytes a second of answers that a node has long had ready.
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::good::{fleet_at, good_users, hold_by};
use crate::harness::{TestApp, eventually, let_pass, stream_body, wait_for};
use crate::scripted::{CHAT_END, ScriptedNode, Step, chat_event, chunk, last_chunk, stream_head};

/// Of all of a request, which takes good users a quarter of a second.
const TOTAL: Duration = Duration::from_secs(8);
/// After this long, whatever fits between a node and a slow reader is there.
const FILLED: Duration = Duration::from_secs(3);
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
    // Nobody reads 120 MB at this speed: what ends does so by its deadline.
    let by_deadline = async || {
        let (ended, left): (Vec<Value>, Vec<Value>) =
            app.rows(&slow).await.into_iter().partition(|row| row["status"] == "deadline");
        assert!(left.iter().all(|row| row["code"] == "client_cancelled"), "{left:?}");
        ended
    };

    let ended = {
        let reading = readers(&app, &slow, &read);
        let asking = async {
            let seen = good_users(&app, &keys).await;
            assert_eq!(seen.failures, [] as [&str; 0], "beside slow readers");
            let_pass(TOTAL).await;
            wait_for("the deadline has ended them all", async || by_deadline().await.len() == READERS).await;
            eventually("it frees the slots", || running(&app) == 0).await;
            eventually("the nodes need not go on", || {
                nodes.iter().map(ScriptedNode::closed_connections).sum::<usize>() >= READERS
            })
            .await;
            by_deadline().await
        };
        futures_util::future::join(reading, asking).await.1
    };

    assert!(read.get() > 0, "they read nothing");
    for row in &ended {
        assert!(row["duration_ms"].as_u64().unwrap() >= TOTAL.as_millis() as u64, "{row}");
        assert!(row["completion_tokens"].as_u64().unwrap() > 0, "what was made until then is charged: {row}");
    }
    app.stop().await;
}

/// The control: they do not end by themselves, and are not taken for clients that have stopped reading. Nobody waits for
/// them either.
#[actix_rt::test]
async fn whoever_reads_slowly_within_the_deadline_keeps_the_stream_and_slows_nobody() {
    let nodes = [ready_node().await, ready_node().await];
    let (app, keys) =
        fleet_at(nodes.iter().map(ScriptedNode::url), |config| config.server.client_stall_seconds = 30).await;
    let slow = app.user("slow").await;
    let read = Rc::new(Cell::new(0));

    let turns = Cell::new(0);

    hold_by(&app, &keys, async || {
        let asking = async {
            eventually("all of them have slots", || running(&app) == READERS).await;
            // What fits between the nodes and them comes at full speed; after that they are only slow.
            let_pass(FILLED).await;
            let seen = good_users(&app, &keys).await;
            assert_eq!(running(&app), READERS, "they hold their slots");
            seen
        };
        let reading = readers(&app, &slow, &read);
        let seen = match futures_util::future::select(std::pin::pin!(asking), std::pin::pin!(reading)).await {
            futures_util::future::Either::Left((seen, _)) => seen,
            futures_util::future::Either::Right(_) => panic!("their streams ended"),
        };
        turns.set(turns.get() + 1);
        eventually("they have left", || running(&app) == 0).await;
        seen
    })
    .await;

    let rows = app.rows_once(&slow, turns.get() * READERS).await;
    assert!(rows.iter().all(|row: &Value| row["status"] == "cancelled"), "{rows:?}");
    app.stop().await;
}
