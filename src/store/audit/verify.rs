//! Is the audit log intact? Reads every entry and checks its digest, its link to the entry before, and both ends of the chain.
use entity::audit::{Column, Entity, Model};
use entity::audit_chain;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::entry::digest_of;
use crate::store::deadline::within_deadline;
use crate::store::error::StoreError;

/// Entries that are held at a time.
const BATCH: u64 = 1_000;

/// What verifying the log has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verified {
    /// Every entry is as it was written.
    Whole {
        /// How many.
        entries: u64,
        /// The number of the first entry that is kept; what was before it is too old.
        first_seq: i64,
        /// The number of the last entry, 0 for none.
        last_seq: i64,
        /// Its digest, to be compared with a later time's.
        last_digest: String,
    },
    /// Something is wrong.
    Broken {
        /// The entry it shows at.
        seq: i64,
        /// What is wrong.
        why: &'static str,
    },
}

/// Reads the whole log. `expected` is an entry's number and the digest that it had at an earlier time.
pub(super) async fn verify(db: &impl ConnectionTrait, expected: Option<(i64, &str)>) -> Result<Verified, StoreError> {
    loop {
        // First: entries that are added meanwhile are after its end.
        let chain = within_deadline(audit_chain::Entity::find().one(db)).await?;
        let Some(chain) = chain else {
            return Ok(Verified::Broken { seq: 0, why: "the row that records both ends of the log is missing" });
        };
        let verified = read_chain(db, &chain, expected).await?;
        let now = within_deadline(audit_chain::Entity::find().one(db)).await?;
        // Entries that grew too old meanwhile are no gap.
        if matches!(verified, Verified::Whole { .. }) || now.is_none_or(|now| now.first_seq == chain.first_seq) {
            return Ok(verified);
        }
    }
}

async fn read_chain(
    db: &impl ConnectionTrait,
    chain: &audit_chain::Model,
    expected: Option<(i64, &str)>,
) -> Result<Verified, StoreError> {
    let (mut walk, mut entries) = (Walk::new(chain), 0);
    loop {
        let rows = Entity::find().filter(Column::Seq.gte(walk.next_seq)).order_by_asc(Column::Seq).limit(BATCH);
        let rows = within_deadline(rows.all(db)).await?;
        let is_end = (rows.len() as u64) < BATCH;
        for row in rows {
            if let Some(why) = walk.step(&row) {
                return Ok(Verified::Broken { seq: row.seq, why });
            }
            if let Some((seq, digest)) = expected
                && row.seq == seq
                && row.digest != digest
            {
                return Ok(Verified::Broken { seq, why: "it differs from the entry that was expected" });
            }
            entries += 1;
        }
        if is_end {
            break;
        }
    }
    // The walk begins at the first entry that counts, so what stands before it has to be looked for.
    if within_deadline(Entity::find().filter(Column::Seq.lt(chain.first_seq)).one(db)).await?.is_some() {
        return Ok(Verified::Broken { seq: chain.first_seq, why: "entries were added before it" });
    }
    if walk.next_seq <= chain.last_seq {
        return Ok(Verified::Broken { seq: walk.next_seq, why: "it is missing, or an entry after it" });
    }
    if let Some((seq, digest)) = expected.filter(|(seq, _)| *seq < chain.first_seq) {
        // Of the entry just before the first one, the chain still knows the digest.
        if seq.checked_add(1) != Some(chain.first_seq) {
            return Ok(Verified::Broken { seq, why: "it is too old to be kept, so it cannot be compared" });
        }
        if digest != chain.first_previous {
            return Ok(Verified::Broken { seq, why: "it differs from the entry that was expected" });
        }
    }
    if let Some((seq, _)) = expected.filter(|(seq, _)| *seq > chain.last_seq) {
        return Ok(Verified::Broken { seq, why: "it is missing: the log ends before it" });
    }
    let (last_seq, last_digest) = (chain.last_seq, chain.last_digest.clone());
    Ok(Verified::Whole { entries, first_seq: chain.first_seq, last_seq, last_digest })
}

/// How far the log has been read.
struct Walk<'a> {
    chain: &'a audit_chain::Model,
    next_seq: i64,
    previous: String,
}

impl<'a> Walk<'a> {
    fn new(chain: &'a audit_chain::Model) -> Self {
        Self { chain, next_seq: chain.first_seq, previous: chain.first_previous.clone() }
    }

    /// Takes the next entry; what is wrong with it.
    fn step(&mut self, row: &Model) -> Option<&'static str> {
        if row.seq != self.next_seq {
            return Some("the entry before it is missing");
        }
        if digest_of(row) != row.digest {
            return Some("it was changed");
        }
        if row.previous != self.previous {
            return Some("the entry before it was replaced");
        }
        if row.seq == self.chain.last_seq && row.digest != self.chain.last_digest {
            return Some("it is not the last entry that was written");
        }
        self.next_seq = row.seq.saturating_add(1);
        self.previous.clone_from(&row.digest);
        None
    }
}
