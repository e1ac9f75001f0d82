//! Both ends of the chain of audit entries. One row, which whoever adds an entry or deletes old ones locks.
use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "audit_chain")]
pub struct Model {
    /// Always 1.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i32,
    /// The first entry that is kept, or the next one where none is.
    pub first_seq: i64,
    /// The digest of the entry before it; empty for the very first.
    pub first_previous: String,
    /// The last entry; 0 where there never was one.
    pub last_seq: i64,
    /// Its digest.
    pub last_digest: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
