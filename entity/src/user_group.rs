//! A group of users, with limits for all of them together.
use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "user_groups")]
pub struct Model {
    /// Chosen by the operator: `[A-Za-z0-9._@-]{1,64}`.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Which group of this name: 1 for the first, one more each time the name is used again after a deletion.
    pub generation: i64,
    pub created_at_ms: i64,
    /// `None` = no limit, here and below.
    pub requests_per_minute: Option<i64>,
    /// Prompt and completion together, in any 60 s.
    pub tokens_per_minute: Option<i64>,
    /// The same, per UTC day.
    pub tokens_per_day: Option<i64>,
    /// The same, per UTC month.
    pub tokens_per_month: Option<i64>,
    /// Concurrent requests, including waiting ones.
    pub max_concurrency: Option<i64>,
    /// The group's weight in thousandths; 1000 is the default.
    pub weight_millis: i64,
    /// A JSON list of names. `None` = every model.
    pub allowed_models: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
