//! Sums of the rows of one day, model, node, status and group, over all users. The database keeps them; they outlive the
//! rows.
use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "usage_totals")]
pub struct Model {
    /// Days since 1970-01-01 UTC.
    #[sea_orm(primary_key, auto_increment = false)]
    pub day: i32,
    #[sea_orm(primary_key, auto_increment = false)]
    pub model: String,
    /// `''` if no node was reached.
    #[sea_orm(primary_key, auto_increment = false)]
    pub node: String,
    /// As in a usage row.
    #[sea_orm(primary_key, auto_increment = false)]
    pub status: String,
    /// `''` if the users were in no group.
    #[sea_orm(primary_key, auto_increment = false)]
    pub group_id: String,
    /// How many requests.
    pub requests: i64,
    pub prompt_tokens: i64,
    pub completion_tokens: i64,
    pub queue_ms: i64,
    pub duration_ms: i64,
    pub load_ms: i64,
    pub prefill_ms: i64,
    pub decode_ms: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
