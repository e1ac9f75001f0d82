//! How does a request ask for more of a limit than its gateway holds?
use std::sync::Arc;
use std::time::Duration;

use sea_orm::DbErr;
use tokio::sync::{mpsc, oneshot};

use crate::store::access::Access;
use crate::store::account::Account;
use crate::store::group::UserGroup;
use crate::store::subject::Subject;
use limits::{Amounts, Need, wish};

/// Longest that a request waits for a share.
const PATIENCE: Duration = Duration::from_secs(4);
/// Between two looks whether another gateway shares by now.
const AGAIN: Duration = Duration::from_millis(100);
/// Requests that may wait for a trade.
const QUEUE: usize = 1024;

/// Why nothing was leased.
#[derive(Debug, thiserror::Error)]
pub enum NotLeased {
    /// The database cannot be asked.
    #[error("the database that limits are shared through is away")]
    Away,
    /// Another gateway still has all of it.
    #[error("another gateway does not share its limits yet")]
    NotShared,
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] DbErr),
}

#[derive(Debug)]
pub(super) struct Ask {
    pub(super) subjects: Vec<Subject>,
    /// `None` = only what is known is of interest.
    pub(super) need: Option<Amounts>,
    pub(super) done: oneshot::Sender<Result<(), NotLeased>>,
}

/// Where requests ask for a larger share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Broker {
    asks: mpsc::Sender<Ask>,
}

impl Broker {
    pub(super) fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (asks, receiver) = mpsc::channel(QUEUE);
        (Self { asks }, receiver)
    }

    /// Asks for what a request needs that its share has no room for. `Ok` when it is worth another look: something was
    /// traded, or the share has all that can be had.
    ///
    /// # Errors
    /// [`NotLeased`] when nobody can say whether there is room.
    pub async fn ask(&self, access: &Access, need: &Need) -> Result<(), NotLeased> {
        self.trade(subjects_of(access), Some(wish(need))).await
    }

    /// Learns what others hold and have used of every limit that holds for a caller, to show it.
    ///
    /// # Errors
    /// [`NotLeased`] when nobody can say; what was last known stands.
    pub async fn look_at(&self, access: &Access) -> Result<(), NotLeased> {
        if access.is_shared() { self.trade(subjects_of(access), None).await } else { Ok(()) }
    }

    /// Learns what others hold and have used of an account's limits, to show it.
    ///
    /// # Errors
    /// [`NotLeased`] when nobody can say; what was last known stands.
    pub async fn look(&self, account: &Arc<Account>) -> Result<(), NotLeased> {
        self.learn(vec![Subject::User(account.clone())]).await
    }

    /// The same of a group's limits.
    ///
    /// # Errors
    /// As [`Broker::look`].
    pub async fn look_at_group(&self, group: &Arc<UserGroup>) -> Result<(), NotLeased> {
        self.learn(vec![Subject::Group(group.clone()), Subject::GroupMonth(group.clone())]).await
    }

    async fn learn(&self, subjects: Vec<Subject>) -> Result<(), NotLeased> {
        let is_shared = |subject: &Subject| subject.with(|_, ledger| ledger.is_shared());
        if subjects.iter().any(is_shared) { self.trade(subjects, None).await } else { Ok(()) }
    }

    async fn trade(&self, subjects: Vec<Subject>, need: Option<Amounts>) -> Result<(), NotLeased> {
        let asked = async {
            loop {
                let (done, answer) = oneshot::channel();
                let ask = Ask { subjects: subjects.clone(), need, done };
                self.asks.send(ask).await.map_err(|_| NotLeased::Away)?;
                match answer.await {
                    Ok(Err(NotLeased::NotShared)) => tokio::time::sleep(AGAIN).await,
                    Ok(answer) => return answer,
                    Err(_) => return Err(NotLeased::Away),
                }
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or(Err(NotLeased::Away))
    }
}

fn subjects_of(access: &Access) -> Vec<Subject> {
    let key = access.key().cloned().map(Subject::Key);
    let group = access.group();
    let group = group.iter().flat_map(|group| [Subject::Group(group.clone()), Subject::GroupMonth(group.clone())]);
    std::iter::once(Subject::User(access.account().clone())).chain(key).chain(group).collect()
}
