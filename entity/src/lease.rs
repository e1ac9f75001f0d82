//! What one gateway holds of the limits of one user, key or group: what it has used and what it may use.
use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "leases")]
pub struct Model {
    /// `user:` and the name of a user, `key:` and the id of a key, `group:` and the name of a group, or `group-month:` and
    /// the same for what it may use in a month.
    #[sea_orm(primary_key, auto_increment = false)]
    pub subject: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub gateway: String,
    /// Admissions in any 60 s.
    pub requests: i64,
    /// Tokens of those admissions.
    pub minute_tokens: i64,
    /// Concurrent requests.
    pub running: i64,
    /// The UTC day, or month, of the tokens below, counted from 1970.
    pub day: i32,
    /// The day's tokens that are not in `usage` yet, or may still be used.
    pub day_tokens: i64,
    /// The part of them that stays used if the gateway dies.
    pub declared_tokens: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
