//! Which entry does the request at hand leave in the audit log?
//!
//! A draft goes with the request's task. A transaction that changes something takes the entry up, so that the change and its
//! entry are there together or not at all; what is no matter of the database has its entry written before it is done. At the
//! end of the request an entry follows where none told how it ended.
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use sea_orm::{DatabaseTransaction, DbErr};
use serde_json::Value;
use uuid::Uuid;

use super::chain::append;
use super::entry::AuditEntry;
use crate::store::database::Store;
use crate::store::error::StoreError;

/// The status of a request that the database failed.
const UNAVAILABLE: u16 = 503;

tokio::task_local! {
    static AT_HAND: Arc<AuditDraft>;
}

/// An entry that is not written yet. Shared by whoever handles the request.
#[derive(Debug)]
pub struct AuditDraft {
    at_ms: i64,
    method: String,
    route: String,
    request_id: Uuid,
    /// The answer's status if all goes well.
    status: u16,
    actor: OnceLock<(Arc<str>, &'static str)>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    target: String,
    before: Option<Value>,
    after: Option<Value>,
    written: Written,
}

/// What the log says already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Nothing,
    /// That it is about to be done.
    Begun,
    /// That it is done, once the transaction is committed.
    Done,
}

impl AuditDraft {
    /// An entry of a request to `route`, whose answer has `status` if all goes well.
    pub fn new(request_id: Uuid, at_ms: i64, (method, route, target): (&str, &str, String), status: u16) -> Arc<Self> {
        let state = State { target, before: None, after: None, written: Written::Nothing };
        let (method, route) = (method.to_owned(), route.to_owned());
        let (actor, state) = (OnceLock::new(), Mutex::new(state));
        Arc::new(Self { at_ms, method, route, request_id, status, actor, state })
    }

    /// Lets `request` go on with this draft at hand.
    pub async fn carry<T>(self: Arc<Self>, request: impl Future<Output = T>) -> T {
        AT_HAND.scope(self, request).await
    }

    /// Says who it is. Without this no entry is written.
    pub fn by(&self, name: Arc<str>, role: &'static str) {
        let _ = self.actor.set((name, role));
    }

    /// Says what is asked for, as the first guess at what is there afterwards. Never with a secret in it.
    pub fn asks(&self, asked: Value) {
        self.lock().after.get_or_insert(asked);
    }

    /// Says to whom or what it is done, what was there, and what is there afterwards; `None` = nothing. Never with a secret.
    pub fn changes(&self, target: impl Into<String>, before: Option<Value>, after: Option<Value>) {
        let mut state = self.lock();
        (state.target, state.before, state.after) = (target.into(), before, after);
    }

    /// Says to whom or what it is done and what was there; what is there afterwards is what is asked for.
    pub fn changes_from(&self, target: impl Into<String>, before: Option<Value>) {
        let mut state = self.lock();
        (state.target, state.before) = (target.into(), before);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry; `None` where nobody is known to be behind the request.
    fn entry(&self, status: Option<u16>) -> Option<AuditEntry> {
        let (actor, role) = self.actor.get()?;
        let state = self.lock();
        let text = |value: &Option<Value>| value.as_ref().map(Value::to_string);
        Some(AuditEntry {
            at_ms: self.at_ms,
            actor: actor.to_string(),
            role,
            method: self.method.clone(),
            route: self.route.clone(),
            target: state.target.clone(),
            before: text(&state.before),
            after: text(&state.after),
            request_id: self.request_id,
            status,
        })
    }
}

/// Has a transaction that is about to change something add the entry of the request at hand, where there is one.
pub(in crate::store) async fn append_pending(db: &DatabaseTransaction) -> Result<(), DbErr> {
    let Ok(draft) = AT_HAND.try_with(Arc::clone) else { return Ok(()) };
    if draft.lock().written != Written::Nothing {
        return Ok(());
    }
    if let Some(entry) = draft.entry(Some(draft.status)) {
        append(db, entry).await?;
        draft.lock().written = Written::Done;
    }
    Ok(())
}

impl Store {
    /// Writes down that something is about to be done which is no matter of the database.
    ///
    /// # Errors
    /// When the database fails: then it must not be done.
    pub async fn begin_audited(&self, draft: &AuditDraft) -> Result<(), StoreError> {
        if let Some(entry) = draft.entry(None) {
            self.audit(entry).await?;
            draft.lock().written = Written::Begun;
        }
        Ok(())
    }

    /// Writes down how a request ended, where no entry says so yet: one that was refused, that failed, or that was begun.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn end_audited(&self, draft: &AuditDraft, status: u16) -> Result<(), StoreError> {
        let written = draft.lock().written;
        if written == Written::Done && status == draft.status {
            return Ok(());
        }
        if written != Written::Begun && status == UNAVAILABLE {
            // The database was away, so that nothing was changed: a second try would make the client wait as long again.
            return Ok(());
        }
        match draft.entry(Some(status)) {
            Some(entry) => self.audit(entry).await,
            None => Ok(()),
        }
    }
}
