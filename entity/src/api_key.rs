//! A key of a user. Only its digest is kept.
use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "api_keys")]
pub struct Model {
    /// The digest of the whole key, 32 bytes.
    #[sea_orm(primary_key, auto_increment = false, column_type = "VarBinary(StringLen::N(32))")]
    pub digest: Vec<u8>,
    /// How `digest` was made: 1 = plain SHA-256.
    pub digest_version: i16,
    pub user_id: String,
    /// The last four characters, for lists.
    pub last_four: String,
    pub created_at_ms: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
