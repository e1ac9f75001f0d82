//! What is said on a link that stands? Frames, as they come, in batches of JSON; and in between a heartbeat, which measures
//! the round trip.
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::dispatch::Dispatcher;
use cluster::Frame;

/// A link on which nothing is heard, or nothing can be sent, for this long is lost.
pub(super) const PATIENCE: Duration = Duration::from_millis(1500);
/// The time between two heartbeats.
const HEARTBEAT: Duration = Duration::from_millis(250);
/// The most bytes of one message. Only a report of very many requests comes near it.
pub(super) const MOST_BYTES: usize = 16 << 20;
/// The most frames of one message.
const MOST_FRAMES: usize = 256;

/// One end of a link. When it is dropped, the link is lost.
pub(super) struct Conversation {
    dispatcher: Arc<Dispatcher>,
    gateway: Arc<str>,
    number: u64,
    frames: mpsc::Receiver<Frame>,
    heartbeat: Interval,
    batch: Vec<Frame>,
    /// The last ping, and when it was sent.
    ping: (u64, Instant),
    /// The ping that the other end waits for an answer to.
    to_answer: Option<u64>,
}

impl Conversation {
    pub(super) fn new(
        dispatcher: Arc<Dispatcher>,
        gateway: Arc<str>,
        (number, frames): (u64, mpsc::Receiver<Frame>),
    ) -> Self {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        // After a pause one ping is enough; a burst of the missed ones would say nothing more.
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ping = (0, Instant::now());
        Self { dispatcher, gateway, number, frames, heartbeat, batch: Vec::new(), ping, to_answer: None }
    }

    /// The next message to send; `None` once the link is not in use any more. Nothing is lost if it is not awaited.
    pub(super) async fn next(&mut self) -> Option<String> {
        // An answer goes first: the other end measures the round trip by it, and may hold messages back until it comes.
        if let Some(number) = self.to_answer.take() {
            self.batch.push(Frame::Pong { number });
            return self.message();
        }
        tokio::select! {
            // Frames go before heartbeats, as they are a sign of life as well.
            biased;
            count = self.frames.recv_many(&mut self.batch, MOST_FRAMES) => {
                if count == 0 {
                    return None;
                }
            }
            _ = self.heartbeat.tick() => {
                self.ping = (self.ping.0.wrapping_add(1), Instant::now());
                self.batch.push(Frame::Ping { number: self.ping.0 });
            }
        }
        self.message()
    }

    fn message(&mut self) -> Option<String> {
        let message = serde_json::to_string(&self.batch).ok();
        self.batch.clear();
        message
    }

    /// Takes a message in. False if it is none, or the link is not in use any more.
    pub(super) fn hear(&mut self, message: &[u8]) -> bool {
        match serde_json::from_slice::<Vec<Frame>>(message) {
            Ok(frames) => {
                for frame in &frames {
                    match frame {
                        Frame::Ping { number } => self.to_answer = Some(*number),
                        Frame::Pong { number } if *number == self.ping.0 => {
                            self.dispatcher.link_took(&self.gateway, self.number, self.ping.1.elapsed());
                        }
                        _ => {}
                    }
                }
                self.dispatcher.said(&self.gateway, self.number, frames)
            }
            Err(error) => {
                tracing::warn!(gateway = &*self.gateway, %error, "another gateway says what this version does not know");
                false
            }
        }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.dispatcher.unlinked(&self.gateway, self.number);
    }
}
