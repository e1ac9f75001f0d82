//! Tells running requests that their key was revoked or their user deleted, by a cancellation token. The token is made
//! when the first request asks for it, because most keys have no running request.
use std::sync::{Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// The revocation of one key or user, which happens at most once.
#[derive(Debug, Default)]
pub(super) struct Revocation(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    has_happened: bool,
    token: Option<CancellationToken>,
}

impl Revocation {
    /// A token that is cancelled when the revocation happens, or already if it has.
    pub(super) fn token(&self) -> CancellationToken {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let token = state.token.get_or_insert_default().clone();
        if state.has_happened {
            token.cancel();
        }
        token
    }

    /// Cancels every token that was handed out.
    pub(super) fn happen(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.has_happened = true;
        if let Some(token) = &state.token {
            token.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_before_or_after_hears_of_it() {
        let revocation = Revocation::default();
        let before = revocation.token();
        assert!(!before.is_cancelled());
        revocation.happen();
        assert!(before.is_cancelled() && revocation.token().is_cancelled());
        let late = Revocation::default();
        late.happen();
        assert!(late.token().is_cancelled());
    }
}
