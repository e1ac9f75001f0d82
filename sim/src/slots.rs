//! Who gets the next slot of a loaded model? First come, first served, except for requests that arrive so close
//! together that Ollama does not keep their order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::Instant;

use crate::clock;
use crate::text::Numbers;

/// How often a request may let others go first. Ollama renders and tokenises a prompt before it asks for the slot, so a
/// later request can overtake.
const MOST_YIELDS: u64 = 3;

/// The slots of one loaded model.
#[derive(Clone, Debug)]
pub(crate) struct Slots(Arc<Mutex<SlotQueue>>);

#[derive(Debug)]
struct SlotQueue {
    total: usize,
    free: usize,
    waiting: VecDeque<Waiter>,
    /// Requests that arrive within this time of each other are served in any order.
    jitter: Duration,
    numbers: Numbers,
}

#[derive(Debug)]
struct Waiter {
    since: Instant,
    grant: oneshot::Sender<Slot>,
}

/// One slot, given to the next request on drop.
#[derive(Debug)]
pub(crate) struct Slot {
    /// `None` once the slot was given to another request.
    slots: Option<Slots>,
}

impl Slots {
    pub(crate) fn new(total: usize, jitter: Duration) -> Self {
        let numbers = Numbers::seeded(total as u64);
        Self(Arc::new(Mutex::new(SlotQueue { total, free: total, waiting: VecDeque::new(), jitter, numbers })))
    }

    /// Waits for a slot. Dropping the future gives up the place in the queue.
    pub(crate) async fn take(&self) -> Slot {
        let since = clock::now();
        let yields = self.lock().draw_yields();
        for _ in 0..yields {
            yield_now().await;
        }
        let granted = {
            let mut queue = self.lock();
            if queue.free > 0 {
                queue.free -= 1;
                return self.slot();
            }
            let (grant, granted) = oneshot::channel();
            queue.waiting.push_back(Waiter { since, grant });
            granted
        };
        granted.await.expect("a waiter leaves the queue only with its slot")
    }

    fn slot(&self) -> Slot {
        Slot { slots: Some(self.clone()) }
    }

    fn give_back(&self) {
        loop {
            let waiter = self.lock().next_waiter();
            let Some(waiter) = waiter else { return };
            match waiter.grant.send(self.slot()) {
                Ok(()) => return,
                // Its client has left, so the slot goes to the next one.
                Err(mut slot) => slot.slots = None,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, SlotQueue> {
        self.0.lock().expect("no code panics while it holds the slots")
    }
}

impl SlotQueue {
    fn draw_yields(&mut self) -> u64 {
        if self.jitter.is_zero() { 0 } else { self.numbers.below(MOST_YIELDS + 1) }
    }

    /// Removes the request that gets a free slot from the queue. If nobody waits, the slot stays free.
    fn next_waiter(&mut self) -> Option<Waiter> {
        self.waiting.retain(|waiter| !waiter.grant.is_closed());
        let Some(first) = self.waiting.iter().map(|waiter| waiter.since).min() else {
            self.free += 1;
            debug_assert!(self.free <= self.total, "a slot is given back once");
            return None;
        };
        let close = |waiter: &&Waiter| waiter.since - first <= self.jitter;
        let candidates = self.waiting.iter().filter(close).count() as u64;
        let drawn = if candidates > 1 { self.numbers.below(candidates) as usize } else { 0 };
        let (index, _) = self.waiting.iter().enumerate().filter(|(_, waiter)| close(waiter)).nth(drawn)?;
        self.waiting.remove(index)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(slots) = self.slots.take() {
            slots.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;

    /// The order in which requests that arrive together get the only slot.
    async fn order(jitter: Duration) -> Vec<usize> {
        let (slots, order) = (Slots::new(1, jitter), RefCell::new(Vec::new()));
        join_all((0..20).map(|place| {
            let (slots, order) = (&slots, &order);
            async move {
                let _slot = slots.take().await;
                order.borrow_mut().push(place);
                yield_now().await;
            }
        }))
        .await;
        order.into_inner()
    }

    #[actix_web::test]
    async fn requests_within_a_millisecond_are_served_in_any_order() {
        assert!(order(Duration::ZERO).await.is_sorted());
        let mut order = order(Duration::from_secs(60)).await;
        assert!(!order.is_sorted());
        order.sort_unstable();
        assert_eq!(order, (0..20).collect::<Vec<_>>(), "each is served once");
    }

    #[actix_web::test]
    async fn a_slot_passes_over_those_who_left() {
        let slots = Slots::new(1, Duration::ZERO);
        let first = slots.take().await;
        let mut leaver = Box::pin(slots.take());
        assert!(leaver.as_mut().now_or_never().is_none());
        let mut stayer = Box::pin(slots.take());
        assert!(stayer.as_mut().now_or_never().is_none());
        drop(first);
        // The slot was granted, but nobody takes it.
        drop(leaver);
        drop(stayer.await);
        assert_eq!(slots.lock().free, 1);
    }
}
