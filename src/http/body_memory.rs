//! Is there memory for another request body, within the bounds for all bodies and for those of one user?
//!
//! A [`Hold`] reserves the memory of one body from before it is read until its last copy is dropped: while the body
//! arrives, waits in the queue and is sent to a node.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix_web::web::Bytes;

/// One user's bodies may take the memory for all, divided by this.
const SHARE: usize = 4;

/// Bytes of all request bodies in memory. Shared by all workers.
#[derive(Debug)]
pub struct BodyMemory {
    most: usize,
    most_of_user: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: usize,
    users: HashMap<Arc<str>, OfUser>,
}

#[derive(Debug, Default)]
struct OfUser {
    held: usize,
    bodies: usize,
    /// Bodies that have not arrived completely.
    arriving: u32,
}

/// Why there is no room for a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// The memory for all bodies is used up.
    ForAll,
    /// This user's part of it is used up.
    ForUser,
}

impl BodyMemory {
    /// Room for `most` bytes in all. One user may take a quarter of it, or one body of `largest` bytes if that is more.
    pub fn new(most: usize, largest: usize) -> Self {
        let most_of_user = (most / SHARE).max(largest).min(most);
        Self { most, most_of_user, state: Mutex::default() }
    }

    /// How many bodies of the user are still arriving.
    pub(super) fn arriving(&self, user: &str) -> u32 {
        self.lock().users.get(user).map_or(0, |user| user.arriving)
    }

    /// Reserves `bytes` for a body that is about to arrive.
    pub(super) fn hold(self: &Arc<Self>, user: &Arc<str>, bytes: usize) -> Result<Hold, Full> {
        let mut hold = Hold { memory: self.clone(), user: user.clone(), bytes: 0, is_arriving: true };
        {
            let mut state = self.lock();
            let user = state.users.entry(user.clone()).or_default();
            user.bodies += 1;
            user.arriving += 1;
        }
        hold.grow_to(bytes)?;
        Ok(hold)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The memory reserved for one body; freed on drop.
#[derive(Debug)]
pub(super) struct Hold {
    memory: Arc<BodyMemory>,
    user: Arc<str>,
    bytes: usize,
    is_arriving: bool,
}

impl Hold {
    /// Raises the reservation to `bytes` in all.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<(), Full> {
        let more = bytes.saturating_sub(self.bytes);
        let (most, most_of_user) = (self.memory.most, self.memory.most_of_user);
        let mut state = self.memory.lock();
        if state.held.saturating_add(more) > most {
            return Err(Full::ForAll);
        }
        let Some(user) = state.users.get_mut(&self.user) else { return Err(Full::ForUser) };
        if user.held.saturating_add(more) > most_of_user {
            return Err(Full::ForUser);
        }
        user.held += more;
        state.held += more;
        drop(state);
        self.bytes += more;
        Ok(())
    }

    /// The body has arrived and has `bytes`: frees what was reserved beyond them.
    pub(super) fn arrived(&mut self, bytes: usize) {
        let mut state = self.memory.lock();
        let less = self.bytes.saturating_sub(bytes);
        state.held -= less;
        if let Some(user) = state.users.get_mut(&self.user) {
            user.held -= less;
            user.arriving -= u32::from(self.is_arriving);
        }
        self.bytes -= less;
        self.is_arriving = false;
    }

    /// Ties the reservation to the body: it lasts until the last copy is dropped.
    pub(super) fn keep(self, body: Bytes) -> Bytes {
        struct Kept(Bytes, #[expect(dead_code, reason = "held until the body is gone")] Hold);
        impl AsRef<[u8]> for Kept {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        Bytes::from_owner(Kept(body, self))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.memory.lock();
        state.held -= self.bytes;
        if let Some(user) = state.users.get_mut(&self.user) {
            user.held -= self.bytes;
            user.bodies -= 1;
            user.arriving -= u32::from(self.is_arriving);
            if user.bodies == 0 {
                state.users.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Arc<str> {
        name.into()
    }

    #[test]
    fn one_user_gets_a_quarter_and_all_together_no_more_than_there_is() {
        let memory = Arc::new(BodyMemory::new(100, 10));
        let ann = memory.hold(&user("ann"), 25).unwrap();
        assert_eq!(memory.hold(&user("ann"), 1).unwrap_err(), Full::ForUser);
        let others: Vec<Hold> = ["b", "c", "d"].map(|name| memory.hold(&user(name), 25).unwrap()).into();
        assert_eq!(memory.hold(&user("e"), 1).unwrap_err(), Full::ForAll);
        drop(ann);
        assert!(memory.hold(&user("e"), 25).is_ok());
        drop(others);
        assert!(memory.lock().users.is_empty() && memory.lock().held == 0);
    }

    #[test]
    fn the_largest_body_always_fits_a_users_part() {
        let memory = Arc::new(BodyMemory::new(100, 80));
        assert!(memory.hold(&user("ann"), 80).is_ok());
        assert_eq!(memory.hold(&user("ann"), 81).unwrap_err(), Full::ForUser);
    }

    #[test]
    fn room_is_held_until_the_last_copy_of_the_body_is_gone() {
        let memory = Arc::new(BodyMemory::new(100, 100));
        let mut hold = memory.hold(&user("ann"), 60).unwrap();
        assert_eq!(memory.arriving("ann"), 1);
        assert_eq!(hold.grow_to(101), Err(Full::ForAll));
        hold.arrived(40);
        assert_eq!((memory.arriving("ann"), memory.lock().held), (0, 40));

        let body = hold.keep(Bytes::from_static(b"body"));
        let copy = body.clone();
        drop(body);
        assert_eq!((&copy[..], memory.lock().held), (&b"body"[..], 40));
        drop(copy);
        assert_eq!(memory.lock().held, 0);
    }
}
