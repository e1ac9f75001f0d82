//! A user's key, which identifies the sender of a request: its name, its expiry, and what it may be used for. Its
//! secret is checked by its digests.
use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "keys")]
pub struct Model {
    /// `key_` and random digits; not secret.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub user_id: String,
    /// Chosen by the operator, for lists.
    pub name: String,
    pub created_at_ms: i64,
    /// `None` = it does not expire.
    pub expires_at_ms: Option<i64>,
    /// A JSON list of names. `None` = every model.
    pub allowed_models: Option<String>,
    /// The limits of this key alone, in addition to those of its user; `None` = no limit.
    pub requests_per_minute: Option<i64>,
    pub tokens_per_minute: Option<i64>,
    pub tokens_per_day: Option<i64>,
    pub max_concurrency: Option<i64>,
    /// To the minute; written at intervals.
    pub last_used_ms: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
