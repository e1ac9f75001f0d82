//! What is stored of a key's secret. A key has one digest, or two for a while after it was rotated.
use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "key_digests")]
pub struct Model {
    /// The digest of the whole key, 32 bytes.
    #[sea_orm(primary_key, auto_increment = false, column_type = "VarBinary(StringLen::N(32))")]
    pub digest: Vec<u8>,
    /// How `digest` was made: 1 = plain SHA-256, 2 = HMAC-SHA-256 with a pepper.
    pub digest_version: i16,
    /// The pepper's fingerprint.
    pub pepper: Option<String>,
    pub key_id: String,
    /// The last four characters, for lists.
    pub last_four: String,
    pub created_at_ms: i64,
    /// When it expires after a rotation; `None` = when its key does.
    pub expires_at_ms: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
