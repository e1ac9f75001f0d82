//! One row for each request, however it ended. Rows outlive their user.
use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, DeriveEntityModel)]
#[sea_orm(table_name = "usage")]
pub struct Model {
    /// UUIDv7, so that the key's order is the order of arrival.
    #[sea_orm(primary_key, auto_increment = false)]
    pub request_id: Uuid,
    pub user_id: String,
    /// The user's key; `None` if the user was identified by a trusted network.
    pub key_id: Option<String>,
    pub created_at_ms: i64,
    /// Days since 1970-01-01 UTC: the day whose limit this row counts towards.
    pub day: i32,
    pub model: String,
    /// The route's template, such as `/v1/chat/completions`.
    pub endpoint: String,
    /// The node that answered last; `None` if none was reached.
    pub node: Option<String>,
    pub stream: bool,
    /// `completed`, `cancelled`, `upstream_error`, `deadline`, `refused` or `interrupted`.
    pub status: String,
    pub prompt_tokens: i64,
    pub completion_tokens: i64,
    /// The source of the token numbers: `reported` by the node, `counted` by the gateway, or `estimated`.
    pub tokens_from: String,
    /// How many nodes were asked.
    pub attempts: i32,
    pub queue_ms: i64,
    pub time_to_first_token_ms: Option<i64>,
    pub duration_ms: i64,
    /// The time to load the model, if this request caused the load.
    pub load_ms: Option<i64>,
    /// The node's time for the prompt.
    pub prefill_ms: Option<i64>,
    /// The node's time for the answer.
    pub decode_ms: Option<i64>,
    /// What went wrong, as the code of the client's error; `None` if nothing did.
    #[serde(default)]
    pub code: Option<String>,
    /// The limit that refused it, by its name in the configuration.
    #[serde(default)]
    pub limit_name: Option<String>,
    /// The status that the client saw; 499 if it had left. `None` in rows of older versions, and of gateways that died.
    #[serde(default)]
    pub http_status: Option<i32>,
    /// How many requests the row stands for: one, except for refusals beyond a user's first few in a minute.
    #[serde(default = "one")]
    pub requests: i64,
    /// The group under whose limits it was admitted, by the id that tells groups of one name apart; `None` = no group.
    #[serde(default)]
    pub group_id: Option<String>,
}

fn one() -> i64 {
    1
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
