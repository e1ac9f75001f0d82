//! What does a request hear from the scheduler, and how?
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use scheduler::{NodeId, Refusal};

/// A slot on a node, granted to a request.
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    /// The node.
    pub node: NodeId,
    /// Starts at 1.
    pub attempt: u32,
}

/// What the core tells a request.
#[derive(Debug)]
pub(super) enum Word {
    /// With the time at which it was decided here.
    Granted(Grant, Duration),
    Refused(Refusal),
    /// The running attempt is over.
    Abandoned,
    /// Whether the client may have the first byte of this attempt.
    Began {
        attempt: u32,
        goes_on: bool,
    },
}

/// More than a request ever leaves unread: a grant, an answer and an end for each attempt, and a refusal.
const MAX_UNREAD: usize = 16;

/// What passes between the core and one request: words to it, and whether its client reads. A channel of tokio would take
/// 1.5 kB for each of thousands of requests, and this a tenth of it.
#[derive(Debug)]
pub(super) struct Mailbox {
    unread: Mutex<Unread>,
    is_taking: AtomicBool,
}

#[derive(Debug, Default)]
struct Unread {
    words: VecDeque<Word>,
    /// Nothing more comes.
    is_over: bool,
    reader: Option<Waker>,
}

impl Mailbox {
    pub(super) fn new() -> Self {
        Self { unread: Mutex::default(), is_taking: AtomicBool::new(true) }
    }

    /// For the core. More than [`MAX_UNREAD`] words are lost.
    pub(super) fn post(&self, word: Word) {
        self.change(|unread| {
            if unread.words.len() < MAX_UNREAD {
                unread.words.push_back(word);
            }
        });
    }

    /// The core has nothing more to say.
    pub(super) fn close(&self) {
        self.change(|unread| unread.is_over = true);
    }

    fn change(&self, change: impl FnOnce(&mut Unread)) {
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut unread);
        let reader = unread.reader.take();
        drop(unread);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// The next word, or `None` after the last. Only the last caller is woken.
    pub(super) fn poll_read(&self, cx: &mut Context<'_>) -> Poll<Option<Word>> {
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        match unread.words.pop_front() {
            None if !unread.is_over => {
                match &mut unread.reader {
                    Some(reader) => reader.clone_from(cx.waker()),
                    reader => *reader = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            word => Poll::Ready(word),
        }
    }

    /// Waits for the next word.
    pub(super) async fn read(&self) -> Option<Word> {
        std::future::poll_fn(|cx| self.poll_read(cx)).await
    }

    /// Records whether the client is reading, or has as much as it wants for now.
    pub(super) fn set_taking(&self, is_taking: bool) {
        self.is_taking.store(is_taking, Ordering::Relaxed);
    }

    pub(super) fn is_taking(&self) -> bool {
        self.is_taking.load(Ordering::Relaxed)
    }
}

/// Why an attempt must stop.
#[derive(Clone, Copy, Debug)]
pub enum Interruption {
    /// Its node fell silent; the request waits again.
    Abandoned,
    /// The request is over.
    Refused(Refusal),
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;

    use super::*;

    #[actix_rt::test]
    async fn words_are_read_in_order_up_to_the_end() {
        let mailbox = Arc::new(Mailbox::new());
        let core = mailbox.clone();
        let talk = std::thread::spawn(move || {
            for attempt in 1..=2 {
                core.post(Word::Began { attempt, goes_on: true });
                std::thread::yield_now();
            }
            core.close();
        });
        let mut attempts = Vec::new();
        while let Some(Word::Began { attempt, .. }) = mailbox.read().await {
            attempts.push(attempt);
        }
        assert_eq!(attempts, [1, 2]);
        talk.join().unwrap();
    }

    #[actix_rt::test]
    async fn what_nobody_hears_is_bounded() {
        let mailbox = Mailbox::new();
        assert!(mailbox.read().now_or_never().is_none());
        (0..100).for_each(|_| mailbox.post(Word::Abandoned));
        mailbox.close();
        for _ in 0..MAX_UNREAD {
            assert!(mailbox.read().await.is_some());
        }
        assert!(mailbox.read().await.is_none());
    }
}
