//! What did administrators do, and when? Entries that are only ever added, each with the digest of the one before, so that a
//! entry that was changed, moved or taken out shows.
mod chain;
mod draft;
mod entry;
#[cfg(test)]
mod properties;
mod verify;

use entity::audit::{Column, Entity, Model};
use sea_orm::sea_query::LikeExpr;
use sea_orm::{ColumnTrait, Condition, Database, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait};

use super::database::Store;
use super::deadline::within_deadline;
use super::error::StoreError;
use super::settings::DatabaseSettings;
use super::usage::Period;

pub(super) use draft::append_pending;

pub use draft::AuditDraft;
pub use entry::AuditEntry;
pub use verify::Verified;

/// An entry as it is kept.
pub type AuditLine = Model;

/// Which entries.
#[derive(Clone, Debug, Default)]
pub struct AuditSearch {
    /// By whom.
    pub actor: Option<String>,
    /// By which method.
    pub method: Option<String>,
    /// The route's template.
    pub route: Option<String>,
    /// To whom or what, and what belongs to it: `ann` is `ann/key_1`, too.
    pub target: Option<String>,
    /// When.
    pub period: Period,
    /// Only entries before this one.
    pub before: Option<i64>,
}

impl Store {
    /// Entries, the newest first, and whether older ones follow.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn audit_page(&self, search: AuditSearch, limit: u64) -> Result<(Vec<AuditLine>, bool), StoreError> {
        let query = Entity::find()
            .apply_if(search.actor, |lines, actor| lines.filter(Column::Actor.eq(actor)))
            .apply_if(search.method, |lines, method| lines.filter(Column::Method.eq(method)))
            .apply_if(search.route, |lines, route| lines.filter(Column::Route.eq(route)))
            .apply_if(search.target, |lines, target| lines.filter(is_or_belongs_to(&target)))
            .apply_if(search.period.from_ms, |lines, from| lines.filter(Column::AtMs.gte(from)))
            .apply_if(search.period.to_ms, |lines, to| lines.filter(Column::AtMs.lt(to)))
            .apply_if(search.before, |lines, before| lines.filter(Column::Seq.lt(before)))
            .order_by_desc(Column::Seq)
            .limit(limit.saturating_add(1));
        let mut lines = within_deadline(query.all(&self.reads)).await?;
        let more = lines.len() as u64 > limit;
        lines.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok((lines, more))
    }

    /// Whether every entry that is kept is as it was written.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn verify_audit(&self) -> Result<Verified, StoreError> {
        verify::verify(&self.reads, None).await
    }
}

fn is_or_belongs_to(target: &str) -> Condition {
    let escaped = target.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    let belongs = Column::Target.like(LikeExpr::new(format!("{escaped}/%")).escape('\\'));
    Condition::any().add(Column::Target.eq(target)).add(belongs)
}

/// Verifies the audit log of a database that no gateway has to run on, and changes nothing. `expected` is the number of an entry
/// and the digest that it had at an earlier time.
///
/// # Errors
/// When the database cannot be read.
pub async fn verify_audit(settings: &DatabaseSettings, expected: Option<(i64, &str)>) -> Result<Verified, StoreError> {
    let db = within_deadline(Database::connect(super::database::read_only(settings)?)).await?;
    let verified = verify::verify(&db, expected).await;
    within_deadline(db.close()).await?;
    verified
}
