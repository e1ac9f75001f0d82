//! A person or a program with keys, and its limits.
use sea_orm::entity::prelude::*;
use serde::Deserialize;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, DeriveEntityModel)]
#[sea_orm(table_name = "users")]
pub struct Model {
    /// Chosen by the operator: `[A-Za-z0-9._@-]{1,64}`.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub created_at_ms: i64,
    /// `None` = no limit.
    pub requests_per_minute: Option<i64>,
    /// Prompt and completion together, per UTC day. `None` = no limit.
    pub tokens_per_day: Option<i64>,
    /// Prompt and completion together, in any 60 s. `None` = no limit.
    pub tokens_per_minute: Option<i64>,
    /// Concurrent requests, including waiting ones. `None` = no limit.
    pub max_concurrency: Option<i64>,
    /// The user's weight in thousandths; 1000 is the default.
    pub weight_millis: i64,
    /// Since when no key of the user opens anything. `None` = they do.
    pub suspended_at_ms: Option<i64>,
    /// For people, as are `email` and `note`.
    pub display_name: Option<String>,
    pub email: Option<String>,
    pub note: Option<String>,
    /// Which user of this name: 1 for the first, one more each time the name is used again after a deletion.
    pub generation: i64,
    /// To the minute, written now and then.
    pub last_seen_ms: Option<i64>,
    /// The name of the group. `None` = none.
    pub group_id: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
