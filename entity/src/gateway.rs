//! A gateway on this database, among which limits are shared.
use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "gateways")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// When it last said that it lives, by the database's clock.
    pub renewed_ms: i64,
    /// Since when it has said so without a gap, likewise.
    pub since_ms: i64,
    /// How long it may say nothing before its leases end.
    pub patience_ms: i64,
    /// Whether every limit is its alone, so that nobody else may use any.
    pub is_sole: bool,
    /// Whether it has said that it ends.
    pub has_left: bool,
    /// Among which gateways it wants the slots of nodes to be divided, with commas between their ids; none from a version
    /// that does not divide them.
    pub members: Option<String>,
    /// Counts how often what is left over by the division was passed on.
    pub turn: Option<i64>,
    /// Whether it keeps to its share of this division.
    pub fits: Option<bool>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
