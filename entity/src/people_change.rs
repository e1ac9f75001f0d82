//! A change of a user or key. The database writes these rows itself.
use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "people_changes")]
pub struct Model {
    /// Grows in the order of commits.
    #[sea_orm(primary_key)]
    pub seq: i64,
    /// `user:` and the name of a user, or `key:` and the id of a key.
    pub subject: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
