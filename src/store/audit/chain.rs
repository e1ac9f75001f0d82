//! How does an entry get its place in the audit log, and how do old ones leave it? Under a lock on the row with both ends of the
//! chain, so that gateways on one Postgres add their entries one after the other.
use entity::audit::{Column, Entity};
use entity::audit_chain;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder,
    QuerySelect, Set, TransactionTrait,
};

use super::entry::AuditEntry;
use crate::store::database::Store;
use crate::store::deadline::within_deadline;
use crate::store::error::StoreError;
use crate::store::transactions::immediate;

const ONLY_ROW: i32 = 1;
/// Entries that are deleted at a time.
const BATCH: i64 = 1_000;

/// Adds an entry, as part of the transaction: it is there if and only if the change is.
pub(in crate::store) async fn append(db: &DatabaseTransaction, entry: AuditEntry) -> Result<(), DbErr> {
    let chain = locked_chain(db).await?;
    let row = entry.chained(chain.last_seq, chain.last_digest);
    let ends = audit_chain::ActiveModel {
        id: Set(ONLY_ROW),
        last_seq: Set(row.seq),
        last_digest: Set(row.digest.clone()),
        ..Default::default()
    };
    row.into_active_model().insert(db).await?;
    ends.update(db).await?;
    Ok(())
}

async fn locked_chain(db: &DatabaseTransaction) -> Result<audit_chain::Model, DbErr> {
    let chain = audit_chain::Entity::find_by_id(ONLY_ROW).lock_exclusive().one(db).await?;
    chain.ok_or_else(|| DbErr::RecordNotFound("the audit log has lost the row with its ends".to_owned()))
}

impl Store {
    /// Adds an entry by itself.
    ///
    /// # Errors
    /// When the database fails; the entry may be there all the same if it did not answer in time.
    pub async fn audit(&self, entry: AuditEntry) -> Result<(), StoreError> {
        let adding = async {
            let transaction = self.db.begin_with_options(immediate()).await?;
            append(&transaction, entry).await?;
            transaction.commit().await
        };
        within_deadline(adding).await
    }

    /// Deletes the oldest entries, up to the first that is not from before `until_ms`, and keeps the digest of the last one that
    /// goes: the rest can still be verified. How many, at most a batch.
    pub(in crate::store) async fn forget_audit(&self, until_ms: i64) -> Result<u64, StoreError> {
        let forgetting = async {
            let transaction = self.db.begin_with_options(immediate()).await?;
            let chain = locked_chain(&transaction).await?;
            let kept = Entity::find().filter(Column::AtMs.gte(until_ms)).order_by_asc(Column::Seq).limit(1);
            let first_kept = kept.one(&transaction).await?.map_or(chain.last_seq.saturating_add(1), |row| row.seq);
            let first_kept = first_kept.min(chain.first_seq.saturating_add(BATCH));
            let Some(last_gone) = Entity::find_by_id(first_kept - 1).one(&transaction).await? else {
                // Nothing is that old, or entries are missing: that is for the verification to say.
                return Ok(0);
            };
            let gone = Entity::delete_many().filter(Column::Seq.lt(first_kept)).exec(&transaction).await?;
            let ends = audit_chain::ActiveModel {
                id: Set(ONLY_ROW),
                first_seq: Set(first_kept),
                first_previous: Set(last_gone.digest),
                ..Default::default()
            };
            ends.update(&transaction).await?;
            transaction.commit().await?;
            Ok(gone.rows_affected)
        };
        within_deadline(forgetting).await
    }
}
