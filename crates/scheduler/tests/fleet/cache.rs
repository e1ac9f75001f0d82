//! A runner's caches as llama.cpp keeps them: the state of one prompt in each slot, and in the host's memory what was
//! pushed out of the slots.

use std::collections::VecDeque;

use crate::traffic::Ask;

/// A free slot is reused if its prompt shares more than this part of the new one; the most similar slot first.
const SIMILAR: f64 = 0.1;
/// Before a slot's state is overwritten, it is saved to the host's memory if less than this part of it is kept.
const OVERWRITTEN: f64 = 0.5;
/// A state is restored from the host's memory if at least this part of it is useful.
const RESTORED: f64 = 0.25;
/// 8 GiB of host memory for states that were pushed out of slots (`--cache-ram`).
const HOST_BYTES: f64 = 8.0 * 1_073_741_824.0;
/// Seconds to restore a token's state from the host's memory.
const RESTORE_SECONDS: f64 = 0.000_02;

/// Bytes of state for each token of a model of `size` GB.
fn state_bytes(size: f64) -> f64 {
    let kibibytes = match size {
        ..4.0 => 112.0,
        ..7.0 => 128.0,
        ..12.0 => 192.0,
        _ => 256.0,
    };
    1024.0 * kibibytes
}

/// The state of a prompt: its request, and the tokens of its answer.
#[derive(Copy, Clone)]
pub struct State {
    pub job: usize,
    pub answer: f64,
}

impl State {
    fn tokens(self, asks: &[Ask]) -> f64 {
        asks[self.job].prompt + self.answer
    }

    /// Tokens that this state saves another prompt from reading.
    fn shared(self, asks: &[Ask], job: usize) -> f64 {
        let (done, next) = (&asks[self.job], &asks[job]);
        if done.model != next.model {
            return 0.0;
        }
        let most = (next.prompt - 1.0).max(0.0);
        if next.session == done.session && next.turn == done.turn + 1 {
            return (done.prompt + self.answer).min(most);
        }
        let common = done.prefixes.iter().zip(next.prefixes.iter()).take_while(|(a, b)| a.digest == b.digest).last();
        common.map_or(0.0, |(prefix, _)| f64::from(prefix.tokens)).min(most)
    }
}

pub struct Slot {
    last: Option<State>,
    used_at: f64,
    pub is_busy: bool,
}

impl Slot {
    pub fn new() -> Self {
        Self { last: None, used_at: 0.0, is_busy: false }
    }

    pub fn free(&mut self, last: Option<State>, now: f64) {
        *self = Self { last, used_at: now, is_busy: false };
    }

    fn shared(&self, asks: &[Ask], job: usize) -> f64 {
        self.last.map_or(0.0, |last| last.shared(asks, job))
    }
}

/// The states that were pushed out of slots, oldest first; `None` for a runner that does not save them.
pub struct Host(Option<VecDeque<State>>);

/// What a request finds: its slot, the tokens that need not be read, and the seconds to restore them.
pub struct Hit {
    pub slot: usize,
    pub cached: f64,
    pub restore: f64,
}

/// Takes the best free slot for a request; `None` if there is none.
pub fn take(slots: &mut [Slot], host: &mut Host, asks: &[Ask], job: usize, size: f64, now: f64) -> Option<Hit> {
    let prompt = asks[job].prompt;
    let free = || slots.iter().enumerate().filter(|(_, slot)| !slot.is_busy);
    let shared = free().map(|(index, slot)| (index, slot.shared(asks, job)));
    let similar = shared.filter(|(_, shared)| shared / prompt > SIMILAR);
    let most_similar = similar.max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
    let oldest = || free().min_by(|a, b| a.1.used_at.total_cmp(&b.1.used_at)).map(|(index, _)| index);
    let slot = most_similar.map(|(index, _)| index).or_else(oldest)?;
    let (last, mut cached) = (slots[slot].last, slots[slot].shared(asks, job));
    let kept = last.map_or(1.0, |last| cached / last.tokens(asks));
    let mut restore = 0.0;
    if most_similar.is_none() || kept < OVERWRITTEN {
        let found = host.exchange(last, kept, cached, asks, job, HOST_BYTES / state_bytes(size));
        if let Some((state, shared)) = found {
            restore = RESTORE_SECONDS * state.tokens(asks);
            cached = shared;
        }
    }
    slots[slot] = Slot { last: None, used_at: now, is_busy: true };
    Some(Hit { slot, cached, restore })
}

impl Host {
    pub fn new(saves: bool) -> Self {
        Self(saves.then(VecDeque::new))
    }

    /// Saves what is pushed out of a slot, and restores a state that is more useful there, with the tokens it saves.
    fn exchange(
        &mut self,
        pushed: Option<State>,
        kept: f64,
        cached: f64,
        asks: &[Ask],
        job: usize,
        most: f64,
    ) -> Option<(State, f64)> {
        let states = self.0.as_mut()?;
        if let Some(pushed) = pushed {
            // States that the new one contains entirely are no longer useful.
            states.retain(|each| each.shared(asks, pushed.job) < each.tokens(asks) - 1.0);
            states.push_back(pushed);
        }
        let kept = if pushed.is_none() || cached == 0.0 { 0.0 } else { kept };
        let mut best: Option<(usize, f64)> = None;
        let (mut best_kept, mut best_shared) = (kept, cached);
        for (index, state) in states.iter().enumerate() {
            let shared = state.shared(asks, job);
            let share = shared / state.tokens(asks);
            if share >= RESTORED && share > best_kept && shared > best_shared {
                (best, best_kept, best_shared) = (Some((index, shared)), share, shared);
            }
        }
        let restored = best.and_then(|(index, shared)| Some((states.remove(index)?, shared)));
        while states.len() > 1 && states.iter().map(|state| state.tokens(asks)).sum::<f64>() > most {
            states.pop_front();
        }
        restored
    }
}
