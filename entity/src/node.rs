//! A node that was added while the gateway ran. Nodes of the configuration file are not stored here.
use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "nodes")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    /// Its settings as the configuration file would have them, in JSON, including credentials.
    #[sea_orm(column_type = "Text")]
    pub settings: String,
    pub created_at_ms: i64,
    pub changed_at_ms: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
